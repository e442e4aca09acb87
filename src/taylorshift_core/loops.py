"""Loops over tiles of the token axis: the four ways in which the core walks along a sequence.

Arrays given as `tiled` have their tokens on axis -2 and are cut there; arrays given as `whole` reach each step uncut.
A step takes the run and arrays with any leading axes and returns a tuple of arrays with those leading axes, so an adapter may run
steps side by side, head by head or compiled, and in any order where the loop allows it. It is told the run it is part
of, so that an adapter whose arrays are made of another library's may run it there, with that library's backend.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from taylorshift_core._run import Run

Array = Any
Arrays = tuple[Array, ...]
most_threads: ContextVar[int | None] = ContextVar(
    "most_threads", default=None
)  # asked for by who has a loop run elsewhere


def tile_bounds(length: int | None, tile: int) -> Iterator[tuple[int, int | None]]:
    """Yield the first and last-plus-one token of each tile; one open tile where the length is unknown or zero."""
    if length is None or length <= tile:
        yield 0, length
        return
    for first in range(0, length, tile):
        yield first, min(first + tile, length)


def cut(arrays: Sequence[Array], first: int, last: int | None) -> Arrays:
    """Return tokens first..last-1 of each array: the arrays themselves where that is all, none of them behind the end."""
    length = arrays[0].shape[-2]
    if first == 0 and (last is None or last == length):
        return tuple(arrays)
    if length is not None and last is not None:
        first, last = min(first, length), min(last, length)
    return tuple(array[..., first:last, :] for array in arrays)


def join(xp: Any, parts: Sequence[Arrays]) -> Arrays:
    """Return the parts joined along the token axis."""
    if len(parts) == 1:
        return parts[0]
    return tuple(xp.concat(list(each), axis=each[0].ndim - 2) for each in zip(*parts, strict=True))


def fold_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return the sums over all tiles of ``step(run, *tiles, *whole)``; the tiles may be taken in any order."""
    totals: Arrays | None = None
    for first, last in tile_bounds(tiled[0].shape[-2], tile):
        parts = step(run, *cut(tiled, first, last), *whole)
        totals = (
            parts if totals is None else tuple(_add(total, part) for total, part in zip(totals, parts, strict=True))
        )
    return totals or ()


def map_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return ``step(run, *tiles, *whole)`` of every tile, joined along the token axis; the tiles are independent."""
    bounds = tile_bounds(tiled[0].shape[-2], tile)
    return join(run.xp, [step(run, *cut(tiled, first, last), *whole) for first, last in bounds])


def scan_tiles(
    run: Run, step: Callable[..., tuple[Array, Arrays]], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Walk along the tiles in order: ``carry, outputs = step(run, carry, *tiles, *whole)``; return the last of both.

    The carry has all leading axes from the start, and keeps its shape.
    """
    parts = []
    for first, last in tile_bounds(tiled[0].shape[-2], tile):
        carry, outputs = step(run, carry, *cut(tiled, first, last), *whole)
        parts.append(outputs)
    return carry, join(run.xp, parts)


def scan_sums(
    run: Run, step: Callable[..., tuple[Array, Arrays]], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Do what `scan_tiles` does, where a step only adds to the carry: the tiles may be taken in any order."""
    result: tuple[Array, Arrays] = run.backend.scan_tiles(run, step, carry, tiled, whole, tile)
    return result


def _add(total: Array, part: Array) -> Array:
    total += part  # in place where the library can: the total is this loop's own
    return total
