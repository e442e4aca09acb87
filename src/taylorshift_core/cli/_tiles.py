"""Attention over arrays that may be longer than memory: tiles are read, attended and written, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import attention, summarise_chunks
from taylorshift_core._pages import release
from taylorshift_core.cli._inputs import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from taylorshift_core.cli._output import NpyWriter

    Array = np.ndarray[Any, Any]
    Advance = Callable[[int], None]

_TILE_BYTES = 1 << 24  # read at a time: long enough for the disk, short enough for any memory


def batch_shape(inputs: Inputs) -> tuple[int, ...]:
    """Return the axes before heads, broadcast."""
    return np.broadcast_shapes(*(array.shape[:-3] for array in (inputs.query, inputs.key, inputs.value)))


def tile_length(inputs: Inputs) -> int:
    """Return how many tokens of all heads fill a tile."""
    arrays = (inputs.query, inputs.key, inputs.value)
    row: int = sum(array.itemsize * math.prod(array.shape[-3:-2]) * array.shape[-1] for array in arrays)
    return max(1, _TILE_BYTES // max(1, row))


def total_tokens(inputs: Inputs, form: str) -> int:
    """Return how many tokens are passed over: queries, and keys too in the efficient form."""
    keys: int = inputs.key.shape[-2] if form == "efficient" else 0
    queries: int = inputs.query.shape[-2]
    return math.prod(batch_shape(inputs)) * (queries + keys)


def attend_tiles(
    inputs: Inputs,
    writer: NpyWriter,
    form: str,
    tile: int,
    advance: Advance,
    checkpoint: Path | None = None,
    **options: Any,
) -> None:
    """Write the attention of the inputs, tile by tile.

    Parameters
    ----------
    form
        "efficient" holds a state and one tile at a time; "direct" holds the keys and values of one batch entry.
    tile
        Tokens read at a time.
    advance
        Called with the number of tokens done after each tile.
    checkpoint
        Keeps the state of the keys (efficient form); with a number behind its name for each of several batch entries.
    options
        scale, normalise and normalise_output of `taylorshift_core.attention`.
    """
    indices = list(np.ndindex(batch_shape(inputs)))
    for number, index in enumerate(indices):
        item = _batch_entry(inputs, index)
        if form == "efficient":
            many = checkpoint is not None and len(indices) > 1
            path = checkpoint.with_name(f"{checkpoint.name}.{number}") if checkpoint and many else checkpoint
            attend = _efficient(item, tile, advance, path, **options)
        else:
            attend = _direct(item, **options)
        for first, last in _bounds(item.query.shape[-2], tile):
            writer.write(index, first, attend(_load(item.query[..., first:last, :])))
            release(item.query)
            advance(last - first)


@dataclass(frozen=True)
class _Source:
    """Keys or values, or their mask, which are read where they are sliced; each head `repeats` times."""

    array: Array
    repeats: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the file: lengths are what it is asked for."""
        shape: tuple[int, ...] = self.array.shape
        return shape

    @property
    def base(self) -> Array:
        """The array itself: what leads to its memory map."""
        return self.array

    def __getitem__(self, place: tuple[Any, ...]) -> Array:
        part = _load(self.array[place])
        return part if self.repeats == 1 else np.repeat(part, self.repeats, axis=0)


def _efficient(
    item: Inputs,
    tile: int,
    advance: Advance,
    checkpoint: Path | None,
    *,
    scale: float | None,
    normalise: bool,
    normalise_output: bool,
) -> Callable[[Array], Array]:
    """Summarise all keys, and return the function that reads the state at a tile of queries."""
    repeats = _heads_a_key_head(item)
    state = summarise_chunks(
        _Source(item.key, repeats),
        _Source(item.value, repeats),
        key_mask=None if item.key_mask is None else _Source(item.key_mask),
        chunk_length=tile,
        normalise=normalise,
        checkpoint=checkpoint,
        advance=advance,
    )
    return lambda query: state.attend(query, scale=scale, normalise_output=normalise_output)


def _heads_a_key_head(item: Inputs) -> int:
    """Return how often to repeat key heads: the mask may have a row for each query head, and their sums then differ."""
    rows = 1 if item.key_mask is None or item.key_mask.ndim == 1 else item.key_mask.shape[0]
    kv_heads = 1 if item.key.ndim == 2 else item.key.shape[0]
    return 1 if rows in (1, kv_heads) else rows // kv_heads


def _direct(item: Inputs, **options: Any) -> Callable[[Array], Array]:
    """Load all keys and values, and return the function that attends to them from a tile of queries."""
    key, value = _load(item.key), _load(item.value)
    mask = None if item.key_mask is None else _load(item.key_mask)
    return lambda query: attention(query, key, value, key_mask=mask, form="direct", **options)


def _batch_entry(inputs: Inputs, index: tuple[int, ...]) -> Inputs:
    """Return what one entry of the batch axes attends: (heads, length, dim), or two axes where there are no heads."""
    batch = batch_shape(inputs)

    def entry(array: Array, first_axis: int) -> Array:
        at: Array = np.broadcast_to(array, (*batch, *array.shape[first_axis:]))[index]
        return at

    mask = inputs.key_mask
    if mask is not None and mask.ndim > 1:
        mask = entry(mask, len(batch))
    return Inputs(entry(inputs.query, -3), entry(inputs.key, -3), entry(inputs.value, -3), mask)


def _bounds(length: int, tile: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last-plus-one token of each tile, one empty tile where there are no tokens."""
    for first in range(0, max(length, 1), tile):
        yield first, min(first + tile, length)


def _load(array: Array) -> Array:
    """Read an array, or a tile of it, into memory, in this machine's byte order."""
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
