"""Dask: each block is one task in the library of the block (NumPy, CuPy); a few tasks more join them, none runs early."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from functools import partial, reduce
from operator import add, itemgetter
from typing import TYPE_CHECKING, Any

import array_api_compat.dask.array
import dask.array as da
import numpy as np
from dask.array.core import unify_chunks
from dask.highlevelgraph import HighLevelGraph
from dask.tokenize import tokenize

from taylorshift_core import Backend, backend_names, load_backend
from taylorshift_core.loops import cut, join

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core import Run

Array = Any
Arrays = tuple[Array, ...]
Step = Any  # a function of the run and arrays, see taylorshift_core.loops
_ADDED_AT_ONCE = 8  # states


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

    def reshape(self, x: Array, shape: tuple[int, ...], /) -> Array:
        """Return x in another shape; where lengths are unknown, with its heads axis split in two, or made of two."""
        if 0 in shape:
            return da.zeros_like(x, shape=shape)
        if not any(map(math.isnan, shape)):
            try:
                return array_api_compat.dask.array.reshape(x, shape)
            except NotImplementedError:  # (2, 6) to (4, 3): Dask merges axes, or splits one
                return array_api_compat.dask.array.reshape(x.reshape(-1), shape)
        if len(shape) > x.ndim:
            groups = shape[-3]
            parts = [x[..., group::groups, :, :] for group in range(groups)]
            return da.stack(parts, axis=x.ndim - 2, allow_unknown_chunksizes=True)
        return self.concat([x[..., head, :, :, :] for head in range(x.shape[-4])], axis=x.ndim - 4)


def fold_tiles(run: Run, step: Step, tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return the sum of ``step`` over all blocks, added up in a tree."""
    blocks, (like,) = _in_blocks("fold_tiles", run, step, tiled, whole, tile)
    *leading, tokens = blocks.chunks[:-1]
    name, count, tasks = blocks.name, len(tokens), dict[Any, Any]()
    while count > 1 or not tasks:
        below, name = name, f"taylorshift-sum-{tokenize(name)}"
        for *index, i in np.ndindex(*map(len, leading), -(-count // _ADDED_AT_ONCE)):
            terms = range(i * _ADDED_AT_ONCE, min((i + 1) * _ADDED_AT_ONCE, count))
            tasks[(name, *index, i, 0)] = (_add, [(below, *index, term, 0) for term in terms])
        count = -(-count // _ADDED_AT_ONCE)
    chunks = (*leading, (like.shape[-2],), (like.shape[-1],))
    return (_array(name, tasks, [blocks], chunks, like),)


def map_tiles(run: Run, step: Step, tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return ``step`` of all blocks."""
    blocks, _ = _in_blocks("map_tiles", run, step, tiled, whole, tile)
    return (blocks,)


def scan_tiles(run: Run, step: Step, carry: Array, tiled: Arrays, whole: Arrays, tile: int) -> tuple[Array, Arrays]:
    """Return the last carry and the outputs; one block after the other, each of whole tiles as the loop must cut them."""
    together = {axis: -1 for axis, size in enumerate(carry.shape[:-2]) if size == 1}  # these share their carry
    tiled, whole = (tuple(each.rechunk(together) for each in arrays) for arrays in (tiled, whole))
    length, longest = tiled[0].shape[-2], max(tiled[0].chunks[-2])
    at_once = tile * max(1, longest // tile)
    outputs = []
    for first in range(0, length, at_once) or (0,):
        tiles = tuple(each.rechunk({each.ndim - 2: -1}) for each in cut(tiled, first, min(first + at_once, length)))
        blocks, (state, output) = _in_blocks("scan_tiles", run, step, tiles, (carry, *whole), tile)
        *leading, tokens, _ = blocks.chunks
        shared = ((1,) if axis in together else sizes for axis, sizes in enumerate(leading))
        carry = _item(blocks, 0, (*shared, (state.shape[-2],), (state.shape[-1],)), state)
        outputs.append((_item(blocks, 1, (*leading, tokens, (output.shape[-1],)), output),))
    return carry, join(run.xp, outputs)


def _in_blocks(loop: str, run: Run, step: Step, tiled: Arrays, whole: Arrays, tile: int) -> tuple[Array, Arrays]:
    """Let a loop of the blocks' own library run in each block, cut along the leading axes and the tokens.

    Return an array of the results, one task a block, and the results of one head or less; if they are several, its
    blocks are tuples. The graph is a plain one: where Dask fuses blockwise functions that make new axes into others
    that broadcast, it loses blocks.
    """
    token, length = tiled[0].ndim - 2, tiled[0].shape[-2]
    short = length <= tile  # then the step may need to see all tokens
    tiled = tuple(_in_one(each, (token, token + 1) if short else (token + 1,)) for each in tiled)
    whole = tuple(_in_one(each, (token, token + 1)) for each in whole)
    pairs: list[Any] = []
    for i, each in enumerate((*tiled, *whole)):
        pairs += [each, (*range(token), token if i < len(tiled) else f"rows {i}", f"columns {i}")]
    chunks, arrays = unify_chunks(*pairs, warn=False)
    chunks = [chunks[axis] for axis in range(token + 1)]

    work = partial(_work, loop, run, step, len(tiled), tile)
    tokens = length if short else 0
    examples = work(*([[_example(each, tokens if i < len(tiled) else None)]] for i, each in enumerate(arrays)))
    if len(examples) == 1:
        work = partial(work, alone=True)
    name = f"taylorshift-{loop}-{tokenize(work, *arrays)}"
    tasks = {
        (name, *index, 0): (work, *(_keys(each, index, tiled=i < len(tiled)) for i, each in enumerate(arrays)))
        for index in np.ndindex(*map(len, chunks))
    }
    return _array(name, tasks, arrays, (*chunks, (examples[-1].shape[-1],)), examples[-1]), examples


def _in_one(array: Array, axes: tuple[int, ...]) -> Array:
    """Return the array in one block along these axes; those whose length is unknown stay as they are."""
    return array.rechunk({axis: -1 for axis in axes if not math.isnan(array.shape[axis])})


def _keys(array: Array, index: tuple[int, ...], *, tiled: bool) -> list[list[Any]]:
    """Return the tasks that make the matrices which a block needs of an operand: a list of rows of blocks."""
    *leading, token = (0 if n == 1 else i for i, n in zip(index, array.numblocks, strict=False))
    n_rows, n_columns = array.numblocks[-2:]
    rows = (token,) if tiled else range(n_rows)
    return [[(array.name, *leading, row, column) for column in range(n_columns)] for row in rows]


def _work(
    loop: str, run: Run, step: Step, n_tiled: int, tile: int, *operands: list[list[Array]], alone: bool = False
) -> Any:
    """Return the results of a loop over NumPy, or CuPy, arrays; all but a carry have all leading axes."""
    arrays = tuple(_joined([_joined(row, -1) for row in rows], -2) for rows in operands)
    library = next(
        (name for name in map(_library, arrays) if name != "numpy"), "numpy"
    )  # Dask's empty slices are NumPy's
    backend = load_backend(library)
    batch = np.broadcast_shapes(*(array.shape[:-2] for array in arrays))
    with backend.scope(next(each for each in arrays if _library(each) == library)):
        arrays = tuple(each if _library(each) == library else backend.from_numpy(each) for each in arrays)
        run, tiled, whole = replace(run, backend=backend), arrays[:n_tiled], arrays[n_tiled:]
        if loop == "scan_tiles":
            carry, results = backend.scan_tiles(run, step, whole[0], tiled, whole[1:], tile)
        else:
            carry, results = None, getattr(backend, loop)(run, step, tiled, whole, tile)
    results = tuple(np.broadcast_to(result, (*batch, *result.shape[-2:])) for result in results)
    if alone:
        return results[0]
    return results if carry is None else (carry, *results)


def _joined(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


def _add(parts: list[Array]) -> Array:
    return reduce(add, parts)


def _item(blocks: Array, i: int, chunks: tuple[Any, ...], like: Array) -> Array:
    """Return item i of the tuples in all blocks."""
    name = f"taylorshift-item-{tokenize(blocks.name, i)}"
    keys = [(*index, 0) for index in np.ndindex(*blocks.numblocks[:-1])]
    return _array(name, {(name, *key): (itemgetter(i), (blocks.name, *key)) for key in keys}, [blocks], chunks, like)


def _array(name: str, tasks: dict[Any, Any], inputs: Sequence[Array], chunks: tuple[Any, ...], like: Array) -> Array:
    """Return the array that these tasks make."""
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=inputs)
    return da.Array(graph, name, chunks, meta=np.zeros_like(like, shape=(0,) * len(chunks)))


def _example(array: Array, tokens: int | None = None) -> Array:
    """Return an array of the library of the blocks that takes no memory, of one head and, if told, of so many tokens."""
    rows, columns = (0 if math.isnan(size) else size for size in array.shape[-2:])
    shape = (*(1,) * (array.ndim - 2), rows if tokens is None else tokens, columns)
    return np.broadcast_to(np.zeros_like(array._meta, shape=(1,)), shape)


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
    no_gradients="a graph of tasks is made forwards; compute the arrays, or train on their blocks",
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
