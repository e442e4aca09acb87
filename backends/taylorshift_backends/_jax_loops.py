"""The loops over tiles for JAX: one `lax.scan` each, so that what is traced and compiled does not grow with the length.

The last tile is taken by itself, whatever its length, and the scan walks along the whole tiles before it. Steps are
checkpointed: JAX's own derivative of a loop then keeps the tokens of its tiles, never their features.
"""

from __future__ import annotations

from functools import partial
from operator import add
from types import FunctionType
from typing import TYPE_CHECKING, Any

import jax
from jax import lax
from jax import numpy as jnp

from taylorshift_backends._jax_shards import vary_alike

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core import Run

Array = Any
Arrays = tuple[Array, ...]
Step = Any


def fold_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return the sums of ``step`` over all tiles; the sum starts from the last."""
    return _compiled(_fold, step)(run, step, tile, tiled, whole)


def map_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return ``step`` of all tiles, joined along the token axis."""
    return _compiled(_map, step)(run, step, tile, tiled, whole)


def scan_tiles(
    run: Run, step: Callable[..., tuple[Array, Arrays]], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Walk along the tiles in order; return the last carry and all outputs."""
    return _compiled(_scan, step)(run, step, tile, tiled, whole, carry)


def _fold(run: Run, step: Step, tile: int, tiled: Arrays, whole: Arrays) -> Arrays:
    step = _checkpointed(run, step)
    tiles, last = _split(tiled, tile)
    totals = step(*last, *whole)
    if tiles is None:
        return totals
    return _walk(lambda sums, *each: (tuple(map(add, sums, step(*each, *whole))), ()), totals, tiles)[0]


def _map(run: Run, step: Step, tile: int, tiled: Arrays, whole: Arrays) -> Arrays:
    step = _checkpointed(run, step)
    tiles, last = _split(tiled, tile)
    outputs = step(*last, *whole)
    if tiles is None:
        return outputs
    return _joined(_walk(lambda none, *each: (none, step(*each, *whole)), (), tiles)[1], outputs)


def _scan(run: Run, step: Step, tile: int, tiled: Arrays, whole: Arrays, carry: Array) -> tuple[Array, Arrays]:
    step = _checkpointed(run, step)
    carry, tiled, whole = vary_alike((carry, tiled, whole))
    tiles, last = _split(tiled, tile)
    if tiles is None:
        return step(carry, *last, *whole)
    carry, outputs = _walk(lambda carry, *each: step(carry, *each, *whole), carry, tiles)
    carry, rest = step(carry, *last, *whole)
    return carry, _joined(outputs, rest)


_JITTED = {loop: jax.jit(loop, static_argnums=(0, 1, 2), inline=True) for loop in (_fold, _map, _scan)}


def _compiled(loop: Callable[..., Any], step: Step) -> Callable[..., Any]:
    """Return the loop, compiled once for all calls where a step is the same function in each; closures are new ones."""
    same = isinstance(step, FunctionType) and step.__closure__ is None
    return _JITTED[loop] if same else loop


def _checkpointed(run: Run, step: Step) -> Step:
    return jax.checkpoint(partial(step, run), prevent_cse=False)


def _walk(body: Callable[..., tuple[Any, Arrays]], carry: Any, tiles: Arrays) -> tuple[Any, Arrays]:
    """Scan over tiles. If their number is a symbol, which may be zero, a tile that does not count goes before them."""
    count = tiles[0].shape[0]
    if isinstance(count, int):
        return lax.scan(lambda carry, each: body(carry, *each), carry, tiles)

    def counted(carry: Any, each: tuple[Array, Arrays]) -> tuple[Any, Arrays]:
        counts, tiles = each
        after, outputs = body(carry, *tiles)
        return jax.tree.map(partial(jnp.where, counts), after, carry), outputs

    one_more = [jnp.concatenate([jnp.zeros((1, *each.shape[1:]), each.dtype), each]) for each in tiles]
    carry, outputs = lax.scan(counted, carry, (jnp.arange(count + 1) > 0, one_more))
    return carry, tuple(each[1:] for each in outputs)


def _split(tiled: Arrays, tile: int) -> tuple[Arrays | None, Arrays]:
    """Return all tiles but the last, along a new first axis, or None where there is one alone, and the last."""
    length = tiled[0].shape[-2]
    count = (length - 1) // tile if length != 0 else 0  # a length that is a symbol is at least 1
    if isinstance(count, int) and count == 0:
        return None, tiled
    start = count * tile
    tiles = (array[..., :start, :].reshape((*array.shape[:-2], count, tile, array.shape[-1])) for array in tiled)
    return tuple(jnp.moveaxis(each, -3, 0) for each in tiles), tuple(array[..., start:, :] for array in tiled)


def _joined(tiles: Arrays, last: Arrays) -> Arrays:
    """Return the outputs of all tiles along the token axis; the tiles but the last come along their first axis."""
    results = []
    for many, one in zip(tiles, last, strict=True):
        first = jnp.moveaxis(many, 0, -3)
        first = first.reshape((*first.shape[:-3], first.shape[-3] * first.shape[-2], first.shape[-1]))
        results.append(jnp.concatenate([first, one], axis=-2))
    return tuple(results)
