"""The loops over tiles for NumPy: one head at a time, so that a tile fills the cache, and jobs side by side on threads."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_threads import n_threads, one_thread_each, run_jobs
from taylorshift_core import loops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taylorshift_core import Run

Array = Any
Arrays = tuple[Array, ...]
_SMALL = 1 << 16  # numbers that may be copied into another order
_WORTH_A_THREAD = 3_000_000  # multiplications: below it, handing over costs more than it saves


@dataclass(frozen=True)
class AllAtOnce:
    """A step that takes all heads and tokens, if they lie in order, and shares them among threads itself."""

    step: Callable[..., Arrays]

    def __call__(self, run: Run, *arrays: Array) -> Arrays:
        """Take the step."""
        return self.step(run, *arrays)


def in_order(arrays: Arrays) -> bool:
    """Tell whether arrays lie in memory row after row, but for small ones, which may be copied."""
    return all(each.flags.c_contiguous or each.size <= _SMALL for each in arrays)


def _at_once(step: Callable[..., Arrays], arrays: Arrays) -> bool:
    return isinstance(step, AllAtOnce) and in_order(arrays)


def fold_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return the sums of ``step`` over all tiles."""
    if _at_once(step, (*tiled, *whole)):
        return step(run, *tiled, *whole)
    batch, length = _batch(tiled, whole), tiled[0].shape[-2]
    threads = _threads(batch, tiled, whole)
    if threads == 1 and (batch == () or math.prod(batch) * length <= tile):
        return loops.fold_tiles(run, step, tiled, whole, tile)
    if 0 < 2 * length <= tile:
        return _fold_short(run, step, tiled, whole, _shares(batch, min(tile // length, _per_job(batch, threads))))
    heads, pieces = list(np.ndindex(batch)), _pieces(length, tile, threads, math.prod(batch))

    def job(head: tuple[int, ...], first: int, last: int) -> Arrays:
        tiles = loops.cut(_head(tiled, head), first, last)
        return loops.fold_tiles(run, step, tiles, _head(whole, head), tile)

    parts = run_jobs(job, [(head, *piece) for head in heads for piece in pieces], threads)
    results = tuple(np.empty((*batch, *part.shape), dtype=part.dtype) for part in parts[0])
    for i, head in enumerate(heads):
        of_head = parts[i * len(pieces) : (i + 1) * len(pieces)]
        for result, *terms in zip(results, *of_head, strict=True):
            result[head] = terms[0]
            for term in terms[1:]:
                result[head] += term
    return results


def _fold_short(
    run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, shares: list[tuple[slice, ...]]
) -> Arrays:
    """Return ``step`` of all heads, several short ones at once."""

    def job(*own: slice) -> Arrays:
        return step(run, *_own(tiled, own), *_own(whole, own))

    batch = _batch(tiled, whole)
    parts = run_jobs(job, shares, _threads(batch, tiled, whole))
    results = tuple(np.empty((*batch, *part.shape[-2:]), dtype=part.dtype) for part in parts[0])
    for own, of_share in zip(shares, parts, strict=True):
        for result, part in zip(results, of_share, strict=True):
            result[own] = part
    return results


def map_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return ``step`` of all tiles, each written where it belongs."""
    if _at_once(step, (*tiled, *whole)):
        return step(run, *tiled, *whole)
    batch, length = _batch(tiled, whole), tiled[0].shape[-2]
    threads = _threads(batch, tiled, whole)
    if threads == 1 and math.prod(batch) * length <= tile:
        return loops.map_tiles(run, step, tiled, whole, tile)
    outputs = _Outputs(batch, length)
    if 0 < 2 * length <= tile:  # short ones: several at once

        def together(*own: slice) -> None:
            outputs.write(own, step(run, *_own(tiled, own), *_own(whole, own)))

        run_jobs(together, _shares(batch, min(tile // length, _per_job(batch, threads))), threads)
        return outputs.arrays

    def job(head: tuple[int, ...], first: int, last: int) -> None:
        tiles, wholes = _head(tiled, head), _head(whole, head)
        for start in range(first, max(last, 1), tile):
            stop = min(start + tile, last)
            outputs.write((*head, slice(start, stop)), step(run, *loops.cut(tiles, start, stop), *wholes))

    pieces = _pieces(length, tile, threads, math.prod(batch))
    run_jobs(job, [(head, *piece) for head in np.ndindex(batch) for piece in pieces], threads)
    return outputs.arrays


def scan_tiles(
    run: Run, step: Callable[..., tuple[Array, Arrays]], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Walk along the tiles of each head in order; what shares a carry (its axes of size 1) walks together."""
    batch = carry.shape[:-2]
    if 0 in _batch((carry, *tiled), whole) or math.prod(batch) == 1:
        with one_thread_each():
            return loops.scan_tiles(run, step, carry, tiled, whole, tile)
    everything, length = _batch((carry, *tiled), whole), tiled[0].shape[-2]
    outputs, carries = _Outputs(everything, length), np.empty_like(carry)
    threads = _threads(batch, tiled, whole)

    def job(*own: slice) -> None:
        own = tuple(slice(None) if n == 1 else part for n, part in zip(batch, own, strict=True))
        start, tiles, wholes = (_own(arrays, own) for arrays in ((carry,), tiled, whole))
        last, parts = loops.scan_tiles(run, step, start[0], tiles, wholes, tile)
        carries[own] = last
        outputs.write(own, parts)

    run_jobs(job, _shares(batch, max(1, min(tile // max(1, length), math.prod(batch) // threads))), threads)
    return carries, outputs.arrays


def _per_job(batch: tuple[int, ...], threads: int) -> int:
    """Return how many heads a job may take so that every thread has one."""
    return max(1, -(-math.prod(batch) // threads))


def _shares(batch: tuple[int, ...], at_once: int) -> list[tuple[slice, ...]]:
    """Return the parts of leading axes that jobs take: so many places at once, of the last axes first."""
    sizes: list[int] = []
    for n in reversed(batch):
        sizes.insert(0, max(1, min(n, at_once)))
        at_once //= sizes[0]
    counts = [-(-n // size) for n, size in zip(batch, sizes, strict=True)]
    return [
        tuple(slice(i * size, (i + 1) * size) for i, size in zip(index, sizes, strict=True))
        for index in np.ndindex(*counts)
    ]


def scan_sums(
    run: Run, step: Callable[..., tuple[Array, Arrays]], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Walk along the tiles of each head; where heads are few, shares of the tokens side by side, the others from zeros."""
    batch, length = _batch((carry, *tiled), whole), tiled[0].shape[-2]
    threads = _threads(batch, tiled, whole)
    pieces = _pieces(length, tile, threads, math.prod(batch))
    if len(pieces) == 1 or math.prod(batch) >= threads:
        return scan_tiles(run, step, carry, tiled, whole, tile)
    outputs = _Outputs(batch, length)

    def job(first: int, last: int) -> Array:
        total = carry if first == 0 else np.zeros_like(carry)
        for start in range(first, last, tile):
            stop = min(start + tile, last)
            total, parts = step(run, total, *loops.cut(tiled, start, stop), *whole)
            outputs.write((..., slice(start, stop), slice(None)), parts)
        return total

    first, *others = run_jobs(job, pieces, threads)
    for other in others:
        first += other  # of a step, and so this loop's own
    return first, outputs.arrays


class _Outputs:
    """Arrays that are allocated when the first tile shows their last axis and dtype."""

    def __init__(self, batch: tuple[int, ...], length: int) -> None:
        self.axes = (*batch, length)
        self.arrays: Arrays = ()
        self.lock = threading.Lock()

    def write(self, index: tuple[Any, ...], parts: Arrays) -> None:
        with self.lock:
            self.arrays = self.arrays or tuple(np.empty((*self.axes, part.shape[-1]), part.dtype) for part in parts)
        for array, part in zip(self.arrays, parts, strict=True):
            array[index] = part


def _batch(tiled: Arrays, whole: Arrays) -> tuple[int, ...]:
    return np.broadcast_shapes(*(array.shape[:-2] for array in (*tiled, *whole)))


def _threads(batch: tuple[int, ...], tiled: Arrays, whole: Arrays) -> int:
    """Return how many threads the work of a loop is worth."""
    per_token = max(sum(math.prod(array.shape[-2:]) for array in whole), tiled[0].shape[-1] ** 2 * tiled[-1].shape[-1])
    work: int = math.prod(batch) * tiled[0].shape[-2] * per_token
    return min(n_threads(), max(1, work // _WORTH_A_THREAD))


def _pieces(length: int, tile: int, threads: int, n_heads: int) -> list[tuple[int, int]]:
    """Return the tokens of each job of one head: all of them, or shares in whole tiles where heads are few."""
    if n_heads % threads == 0:
        return [(0, length)]
    share = -(-length // (threads * tile)) * tile
    return [(first, min(first + share, length)) for first in range(0, length, share)] or [(0, length)]


def _head(arrays: Arrays, index: tuple[int, ...]) -> Arrays:
    """Return the matrices of one head; axes of size 1 broadcast, and so do those that an array does not have."""
    return tuple(array[tuple(0 if size == 1 else i for size, i in _axes(array, index))] for array in arrays)


def _own(arrays: Arrays, own: tuple[slice, ...]) -> Arrays:
    """Return a part of the leading axes of each array, which broadcast in the same way."""
    return tuple(
        array[tuple(slice(None) if size == 1 else part for size, part in _axes(array, own))] for array in arrays
    )


def _axes(array: Array, places: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
    """Return the sizes of the leading axes of an array, each with its place."""
    leading = array.shape[:-2]
    return zip(leading, places[len(places) - len(leading) :], strict=True)
