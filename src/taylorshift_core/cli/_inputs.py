"""The arrays of one call of attention, from the files that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taylorshift_core.cli._errors import CommandError
from taylorshift_core.cli._npy import map_npy
from taylorshift_core.cli._npz import read_npz
from taylorshift_core.cli._safetensors import read_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    Array = np.ndarray[Any, Any]
    Reader = Callable[[Path, tuple[str, ...]], Mapping[str, Array | None]]

NEEDED, OPTIONAL = ("query", "key", "value"), ("key_mask",)
_ARCHIVES: dict[str, Reader] = {".npz": read_npz, ".safetensors": read_safetensors}


@dataclass(frozen=True)
class Inputs:
    """Query, key, value and key mask of one call; read-only, and read from disk only where they are touched."""

    query: Array
    key: Array
    value: Array
    key_mask: Array | None = None


def read_inputs(files: Sequence[Path], mask_file: Path | None = None) -> Inputs:
    """Return the arrays in one archive, or in three .npy files in the order query, key, value."""
    suffixes = [file.suffix.lower() for file in files]
    if len(files) == 1 and suffixes[0] in _ARCHIVES:
        arrays = _from_archive(files[0], _ARCHIVES[suffixes[0]])
    elif suffixes == [".npy"] * len(NEEDED):
        arrays = {name: map_npy(file) for name, file in zip(NEEDED, files, strict=True)}
    else:
        msg = (
            "give one .npz or .safetensors file that holds query, key and value, or three .npy files in that order; "
            f"got {', '.join(map(str, files))}"
        )
        raise CommandError(msg)
    if mask_file is not None:
        arrays["key_mask"] = map_npy(mask_file)
    return Inputs(**arrays)


def _from_archive(file: Path, read: Reader) -> dict[str, Array]:
    found = read(file, NEEDED + OPTIONAL)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        msg = f"{file}: no array named {' or '.join(missing)}; it holds {', '.join(found) or 'nothing'}"
        raise CommandError(msg)
    return {name: array for name, array in found.items() if array is not None}
