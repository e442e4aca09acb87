"""Queries, keys and values made of the bytes of a real text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core.cli._errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

    Array = np.ndarray[Any, Any]

_WIDEST = 8192  # entries of a token; a projection has the square of them


@dataclass(frozen=True)
class Text:
    """Bytes, and where they come from."""

    content: bytes
    source: str


def read_text(file: Path | None, length: int) -> Text:
    """Return the first bytes of a file, or of the language reference that Python installations carry."""
    if file is None:
        text = Text(_language_reference()[:length], "the Python language reference")
    else:
        with file.open("rb") as stream:
            text = Text(stream.read(length), str(file))
    if not text.content:
        msg = f"{text.source}: there is no text in it"
        raise CommandError(msg)
    return text


def _language_reference() -> bytes:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        msg = "this Python came without pydoc_data, the text of the demonstration; name another with --text FILE"
        raise CommandError(msg) from error
    return "\n".join(topics.values()).encode()


def project(content: bytes, heads: int, head_dim: int, seed: int) -> tuple[Array, Array, Array]:
    """Return query, key and value, float32 of shape (heads, length, head_dim), one token a byte.

    A byte is a random vector of ``heads * head_dim`` entries, its position is added as sines and cosines, and each
    head sees random projections of the sum. Queries and keys share theirs, so that like bytes attend to each other.
    """
    width = heads * head_dim
    if width > _WIDEST:
        msg = f"heads * head_dim must be at most {_WIDEST}, got {heads} * {head_dim}"
        raise CommandError(msg)
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((256, width))[np.frombuffer(content, np.uint8)] + _positions(len(content), width)
    shared, values = (tokens @ (rng.standard_normal((width, width)) / np.sqrt(width)) for _ in range(2))
    query, value = (
        np.ascontiguousarray(rows.reshape(-1, heads, head_dim).swapaxes(0, 1), np.float32) for rows in (shared, values)
    )
    return query, query.copy(), value


def _positions(length: int, width: int) -> Array:
    """Return sines and cosines of wavelengths from 2 pi to 20000 pi tokens."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(width)[None, :] // 2 * 2 / width)
    return np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles))
