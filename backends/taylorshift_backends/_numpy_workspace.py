"""The memory that features of a tile are built in, and all views into it that the products need, made once a thread.

A tile is worked through in blocks of features, each of a few calls that take microseconds; to make their views anew
each time would take as long again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from taylorshift_backends._numpy_memory import aligned
from taylorshift_core.features import n_features, n_offsets, offset_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = Any
_BLOCK = 1_000_000  # multiply-adds
_VECTOR = 16  # tokens in a block of a stack come in multiples of it
_KEPT = 4  # workspaces a thread: a full tile and a short last one, of keys and of queries
_thread = threading.local()


class Block(NamedTuple):
    """Rows start..stop-1 of the features: what is multiplied to make them, where they stand, and in which stacks."""

    start: int
    stop: int
    far: Array  # (..., offsets, width, tokens)
    products: Array  # (..., offsets, width, tokens)
    stacks: tuple[Array, ...]  # one a piece: (..., blocks, features, tokens)


class Workspace:
    """All blocks of features of a tile of tokens, shape (..., width, tokens), that will meet `columns` columns."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, columns: int, offsets: int) -> None:
        *batch, width, length = shape
        n, at_once = n_offsets(width), min(offsets, n_offsets(width))
        rows = min(at_once * width, n_features(width))
        self.pieces = tuple(pieces(length, rows * columns))
        self.rolled = aligned((*batch, width + n - 1, length), dtype)
        self.near = self.rolled[..., None, :width, :]
        *strides, row, column = self.rolled.strides
        windows = np.lib.stride_tricks.as_strided(self.rolled, (*batch, n, width, length), (*strides, row, row, column))
        memory = aligned((*batch, at_once, width, length), dtype)
        self.blocks = tuple(self._block(windows, memory, width, *bounds) for bounds in offset_blocks(width, at_once))

    def _block(self, windows: Array, memory: Array, width: int, first: int, last: int, start: int, stop: int) -> Block:
        products = memory[..., : last - first, :, :]
        rows = products.reshape((*products.shape[:-3], (last - first) * width, products.shape[-1]))
        tokens = np.swapaxes(rows[..., : stop - start, :], -1, -2)
        stacks = tuple(np.swapaxes(stack(tokens[..., piece, :], n), -1, -2) for piece, n in self.pieces)
        return Block(start, stop, windows[..., first:last, :, :], products, stacks)

    def features(self, x: Array) -> Iterator[Block]:
        """Yield the blocks, each when its features are built."""
        width = x.shape[-2]
        self.rolled[..., :width, :] = x
        self.rolled[..., width:, :] = x[..., : n_offsets(width) - 1, :]
        for block in self.blocks:
            np.multiply(self.near, block.far, out=block.products)
            yield block


def workspace(x: Array, columns: int, offsets: int) -> Workspace:
    """Return the workspace of this thread for a tile of tokens."""
    kept = _thread.__dict__.setdefault("kept", {})
    key = x.shape, x.dtype, columns, offsets
    found = kept.pop(key, None) or Workspace(*key)
    kept[key] = found  # behind those used less lately
    if len(kept) > _KEPT:
        del kept[next(iter(kept))]
    return found


def pieces(length: int, per_token: int) -> Iterator[tuple[slice, int]]:
    """Yield tokens, and of how many blocks of equal length they are a stack: all of them, or but for a short rest."""
    longest = max(_BLOCK // max(per_token, 1) // _VECTOR, 1) * _VECTOR
    if length <= longest:
        yield slice(0, length), 1
        return
    least = -(-length // longest)
    n = next((n for n in range(least, 2 * least) if length % (n * _VECTOR) == 0), least)
    size = max(length // n // _VECTOR, 1) * _VECTOR
    n = length // size
    yield slice(0, n * size), n
    if n * size < length:
        yield slice(n * size, length), 1


def stack(rows: Array, n: int) -> Array:
    """Return a view (..., n, rows / n, columns)."""
    return rows.reshape((*rows.shape[:-2], n, rows.shape[-2] // n, rows.shape[-1]))
