"""Dask: each block is one task in the library of the block (NumPy, CuPy); a few tasks more join them, none runs early."""

from __future__ import annotations

import math
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING, Any

import array_api_compat.dask.array
import dask.array as da
import numpy as np
from dask.array.core import unify_chunks
from dask.highlevelgraph import HighLevelGraph
from dask.tokenize import tokenize

from taylorshift_core import Backend, backend_names, load_backend
from taylorshift_core.loops import cut, join, on_backend

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any
Arrays = tuple[Array, ...]


class _Namespace:
    """Dask's namespace, with functions that also take arrays of unknown length, such as ``x[x[:, 0] > 0]``."""

    __name__ = array_api_compat.dask.array.__name__

    def __getattr__(self, name: str) -> Any:
        return getattr(array_api_compat.dask.array, name)

    def concat(self, arrays: list[Array], /, *, axis: int = 0) -> Array:
        return da.concatenate(arrays, axis=axis, allow_unknown_chunksizes=True)

    def expand_dims(self, x: Array, /, *, axis: int) -> Array:
        return x[(*(slice(None),) * axis, None)]

    def squeeze(self, x: Array, /, axis: int) -> Array:
        return x[(*(slice(None),) * axis, 0)]


def fold_tiles(xp: Any, step: partial[Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:  # noqa: ARG001
    """Return the sums of ``step`` over all blocks, added up in a tree."""
    blocks, examples = _per_block("fold_tiles", step, tiled, whole, tile)
    return tuple(_summed(blocks, i, like) for i, like in enumerate(examples))


def map_tiles(xp: Any, step: partial[Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:  # noqa: ARG001
    """Return ``step`` of all blocks."""
    blocks, examples = _per_block("map_tiles", step, tiled, whole, tile)
    return tuple(_item(blocks, i, like, blocks.chunks) for i, like in enumerate(examples))


def scan_tiles(
    xp: Any, step: partial[Any], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Return the last carry and all outputs; one block after the other, each of whole tiles as the loop must cut them."""
    together = {axis: -1 for axis, size in enumerate(carry.shape[:-2]) if size == 1}  # these share their carry
    tiled, whole = (tuple(each.rechunk(together) for each in arrays) for arrays in (tiled, whole))
    length, longest = tiled[0].shape[-2], max(tiled[0].chunks[-2])
    at_once = tile * max(1, longest // tile)
    parts = []
    for first in range(0, length, at_once) or (0,):
        tiles = tuple(each.rechunk({each.ndim - 2: -1}) for each in cut(tiled, first, min(first + at_once, length)))
        blocks, (state, *outputs) = _per_block("scan_tiles", step, tiles, (carry, *whole), tile)
        parts.append(tuple(_item(blocks, i, like, blocks.chunks) for i, like in enumerate(outputs, start=1)))
        carry = _summed(blocks, 0, state, shared=tuple(together))
    return carry, join(xp, parts)


def _per_block(loop: str, step: partial[Any], tiled: Arrays, whole: Arrays, tile: int) -> tuple[Array, Arrays]:
    """Run a loop of the blocks' own library in each block; return blocks of tuples, and such a tuple of one head or less."""
    run = partial(_run, loop, step, len(tiled), tile)
    token, length = tiled[0].ndim - 2, tiled[0].shape[-2]
    if length <= tile:  # then the step may need to see all of them
        tiled = tuple(each.rechunk({token: -1}) for each in tiled)
    leading = tuple(range(token))
    operands: list[Any] = []
    for i, array in enumerate((*tiled, *whole)):  # axes that no result has reach each block in one piece
        rows, columns = token + 1 + 2 * i, token + 2 + 2 * i
        operands += [array, (*leading, token if i < len(tiled) else rows, columns)]
    chunks, operands[::2] = unify_chunks(*operands, warn=False)
    meta = np.empty((0,) * (token + 1), dtype=object)
    blocks = da.blockwise(run, (*leading, token), *operands, concatenate=True, align_arrays=False, meta=meta)
    blocks = da.Array(blocks.dask, blocks.name, tuple(chunks[axis] for axis in (*leading, token)), meta=meta)
    tokens = [length if length <= tile else 0] * len(tiled)
    return blocks, run(*map(_example, tiled, tokens), *map(_example, whole))


def _run(loop: str, step: partial[Any], n_tiled: int, tile: int, *arrays: Array) -> Arrays:
    """Return the results of a loop over NumPy, or CuPy, arrays as one tuple; all but a carry have all leading axes."""
    backend = load_backend(_library(arrays[0]))
    step, tiled, whole = on_backend(step, backend), arrays[:n_tiled], arrays[n_tiled:]
    batch = np.broadcast_shapes(*(array.shape[:-2] for array in arrays))
    with backend.scope(arrays[0]):
        if loop == "scan_tiles":
            carry, results = backend.scan_tiles(backend.namespace, step, whole[0], tiled, whole[1:], tile)
        else:
            carry, results = None, getattr(backend, loop)(backend.namespace, step, tiled, whole, tile)
    results = tuple(np.broadcast_to(result, (*batch, *result.shape[-2:])) for result in results)
    return results if carry is None else (carry, *results)


def _summed(blocks: Array, i: int, like: Array, shared: tuple[int, ...] = ()) -> Array:
    """Return the sum over all blocks along the tokens of item i, which has no token axis, and size 1 on `shared` axes."""
    *leading, tokens = blocks.chunks
    chunks = [(1,) if axis in shared else sizes for axis, sizes in enumerate(leading)]
    parts = _item(blocks, i, like, (*chunks, (1,) * len(tokens), (like.shape[-2],)), axis=len(leading))
    return parts.sum(axis=len(leading))


def _item(blocks: Array, i: int, like: Array, chunks: tuple[Any, ...], axis: int | None = None) -> Array:
    """Return item i of the tuples in all blocks, with a new `axis` if given, as an array of these chunks and columns.

    A plain graph: where Dask fuses blockwise functions that make new axes into others that broadcast, it loses blocks.
    """
    name = f"taylorshift-{tokenize(blocks.name, i)}"
    last = (0,) * (len(chunks) + 1 - blocks.ndim)
    tasks = {(name, *key, *last): (_get, i, axis, (blocks.name, *key)) for key in np.ndindex(*blocks.numblocks)}
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[blocks])
    meta = np.zeros_like(like, shape=(0,) * (len(chunks) + 1))
    return da.Array(graph, name, (*chunks, (like.shape[-1],)), meta=meta)


def _get(i: int, axis: int | None, block: Arrays) -> Array:
    return block[i] if axis is None else np.expand_dims(block[i], axis)


def _example(array: Array, tokens: int | None = None) -> Array:
    """Return an array of the library of the blocks that takes no memory, of one head and, if told, of so many tokens."""
    rows, columns = (0 if math.isnan(size) else size for size in array.shape[-2:])
    shape = (*(1,) * (array.ndim - 2), rows if tokens is None else tokens, columns)
    return np.broadcast_to(np.zeros_like(array._meta, shape=()), shape)


def _library(block: Array) -> str:
    return type(block).__module__.partition(".")[0]


def refuse(array: Array) -> str | None:
    """Tell what is wrong with arrays whose blocks attention cannot take."""
    name = _library(array._meta)
    if name not in backend_names():
        return f"its blocks are of {name}, for which there is no adapter; convert them with map_blocks"
    return load_backend(name).refuse(array._meta)


def peak_memory(function: Callable[[], Array]) -> tuple[Array, int]:
    """Compute what `function` returns; return it and the most bytes that were allocated meanwhile in this process."""
    tracemalloc.start()
    try:
        return wait(function()), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def from_numpy(array: Any, device: Any = None) -> Array:  # noqa: ARG001  blocks of NumPy are on the CPU
    """Return a lazy array over a NumPy array, in blocks of Dask's choice."""
    return da.from_array(array)


def wait(array: Array) -> Array:
    """Return the array with all blocks computed."""
    return array.persist()


def to_numpy(array: Array) -> Any:
    """Compute the array."""
    return np.asarray(array.compute())


def devices() -> tuple[str]:
    """Return where blocks of NumPy are."""
    return ("cpu",)


BACKEND = Backend(
    name="dask",
    namespace=_Namespace(),
    batch_at_once=False,
    fold_tiles=fold_tiles,
    map_tiles=map_tiles,
    scan_tiles=scan_tiles,
    refuse=refuse,
    wait=wait,
    peak_memory=peak_memory,
    from_numpy=from_numpy,
    to_numpy=to_numpy,
    devices=devices,
)
