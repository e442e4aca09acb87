"""The loops over tiles for PyTorch: tensors without memory of their own are taken whole."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch

from taylorshift_backends._torch_kinds import plain, stored
from taylorshift_core import loops

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core import Run

Array = Any
Arrays = tuple[Array, ...]


def fold_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return the sums over all tiles."""
    if not _by_heads(tiled, whole, tile):
        return loops.fold_tiles(run, step, tiled, whole, tile) if stored(tiled[0]) else step(run, *tiled, *whole)
    return _stack(tiled, whole, lambda tiles, wholes: loops.fold_tiles(run, step, tiles, wholes, tile))


def map_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return the outputs of all tiles."""
    if not _by_heads(tiled, whole, tile):
        return loops.map_tiles(run, step, tiled, whole, tile) if stored(tiled[0]) else step(run, *tiled, *whole)
    return _stack(tiled, whole, lambda tiles, wholes: loops.map_tiles(run, step, tiles, wholes, tile))


def scan_tiles(
    run: Run, step: Callable[..., tuple[Array, Arrays]], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Walk along the tiles in order."""
    walk = loops.scan_tiles if stored(tiled[0]) else None
    return walk(run, step, carry, tiled, whole, tile) if walk else step(run, carry, *tiled, *whole)


def _by_heads(tiled: Arrays, whole: Arrays, tile: int) -> bool:
    """Tell whether to go head by head, so that a tile stays in the cache: where one head fills it."""
    return (
        plain(tiled[0])
        and math.prod(_batch(tiled, whole)) > 1
        and math.prod(_batch(tiled, whole)) * tiled[0].shape[-2] > tile
    )


def _batch(tiled: Arrays, whole: Arrays) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*(array.shape[:-2] for array in (*tiled, *whole))))


def _stack(tiled: Arrays, whole: Arrays, function: Callable[[Arrays, Arrays], Arrays]) -> Arrays:
    """Return what a function makes of each head, stacked."""
    batch = _batch(tiled, whole)
    results: Arrays = ()
    for index in itertools.product(*map(range, batch)):
        parts = function(_head(tiled, index), _head(whole, index))
        results = results or tuple(part.new_empty((*batch, *part.shape)) for part in parts)
        for result, part in zip(results, parts, strict=True):
            result[index] = part
    return results


def _head(arrays: Arrays, index: tuple[int, ...]) -> Arrays:
    """Return the matrices of one head; axes of size 1 broadcast."""
    return tuple(
        array[tuple(0 if size == 1 else i for size, i in zip(array.shape, index, strict=False))] for array in arrays
    )
