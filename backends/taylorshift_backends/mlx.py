"""MLX: arrays that stand on no device, and lazy; each tile is begun as soon as it is described, so memory stays a tile's.

Inside `mx.grad` nothing can be begun, and MLX makes up to 20 branches of the graph at once, whatever they hold. With
MLX_BFS_MAX_WIDTH=1 in the environment before MLX is imported it makes one after the other: as little as a third of the memory.
"""

from __future__ import annotations

from contextlib import suppress
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from taylorshift_core import Backend, Operands, loops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core import Evaluation, Run

Array = Any
Arrays = tuple[Array, ...]
_LONGEST_SUM = 256
_MOVING = 5  # of the operands: those that have gradients


class _Namespace:
    """MLX's namespace, and what the array API has beyond it."""

    __name__ = mx.__name__

    def __getattr__(self, name: str) -> Any:
        return mx.bool_ if name == "bool" else getattr(mx, name)

    def matmul(self, one: Array, other: Array, /) -> Array:
        """Multiply, summing in parts: MLX adds up a long sum in order, in the precision of the arrays."""
        bounds = list(loops.tile_bounds(one.shape[-1], _LONGEST_SUM))
        if len(bounds) == 1:
            return mx.matmul(one, other)
        return reduce(add, (mx.matmul(one[..., first:last], other[..., first:last, :]) for first, last in bounds))

    def arange(self, *bounds: int, device: Any = None) -> Array:  # noqa: ARG002  arrays stand on no device
        return mx.arange(*bounds)

    def astype(self, x: Array, dtype: Any, /, *, copy: bool = True) -> Array:
        """Convert; a copy of a part of an array does not keep the rest in memory, as the part itself does."""
        converted = mx.astype(x, dtype)
        return mx.contiguous(converted) if copy else converted


def fold_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return the sums of ``step`` over all tiles."""
    totals: Arrays = ()
    for first, last in loops.tile_bounds(tiled[0].shape[-2], tile):
        parts = step(run, *loops.cut(tiled, first, last), *whole)
        totals = tuple(total + part for total, part in zip(totals, parts, strict=True)) if totals else parts
        begin(totals)
    return totals


def map_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return ``step`` of all tiles, joined along the token axis."""

    def begun(run: Run, *arrays: Array) -> Arrays:
        return begin(step(run, *arrays))

    return loops.map_tiles(run, begun, tiled, whole, tile)


def scan_tiles(
    run: Run, step: Callable[..., Any], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Walk along the tiles in order; return the last carry and all outputs."""

    def begun(run: Run, *arrays: Array) -> tuple[Array, Arrays]:
        carry, outputs = step(run, *arrays)
        begin((carry, *outputs))
        return carry, outputs

    return loops.scan_tiles(run, begun, carry, tiled, whole, tile)


def begin(arrays: Arrays) -> Arrays:
    """Return the arrays when their computation has begun, which it cannot inside mx.compile, mx.vmap and mx.grad."""
    with suppress(ValueError):
        mx.async_eval(*arrays)
    return arrays


def differentiable(evaluation: Evaluation, operands: Operands) -> Arrays:
    """Return the results of an evaluation, whose derivatives MLX takes from the core: mx.grad, mx.vjp and mx.jvp.

    Backwards the attention is computed once more, for what its gradients need: so that without gradients nothing is kept.
    """
    places = [i for i, each in enumerate(operands) if isinstance(each, mx.array)]

    def of(arrays: Sequence[Array]) -> Operands:
        """Return the operands with these arrays in their places."""
        return Operands(*(dict(zip(places, arrays, strict=True)).get(i, each) for i, each in enumerate(operands)))

    @mx.custom_function
    def attend(*arrays: Array) -> Arrays:
        return evaluation.attend(of(arrays))

    @attend.vjp
    def pull(arrays: Arrays, cotangents: Arrays, _: Arrays) -> Arrays:
        _, kept = evaluation.attend_keeping(of(arrays))
        gradients = evaluation.vjp(of(arrays), kept, cotangents)
        at_places = zip(places, arrays, strict=True)
        return tuple(gradients[i] if i < len(gradients) else mx.zeros_like(each) for i, each in at_places)

    @attend.jvp
    def push(arrays: Arrays, tangents: Arrays) -> Arrays:
        moving = dict(zip(places, tangents, strict=True))
        return evaluation.jvp(of(arrays), tuple(moving.get(i) for i in range(_MOVING)))[1]

    results: Arrays = attend(*(operands[i] for i in places))
    return results


def refuse(array: Array) -> str | None:
    """Tell what MLX could not compute where it would compute now."""
    if array.dtype == mx.float64 and mx.default_device() != mx.cpu:
        return "MLX has float64 on the CPU alone; convert it with astype, or call inside mx.stream(mx.cpu)"
    return None


def peak_memory(function: Callable[[], Array]) -> tuple[Array, int]:
    """Call `function`; return its result, computed, and the most bytes that MLX allocated meanwhile."""
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    return wait(function()), mx.get_peak_memory() - before


def from_numpy(array: Any, device: Any = None) -> Array:  # noqa: ARG001  arrays stand on no device
    """Copy a NumPy array, with its dtype."""
    return mx.array(array, dtype=mx.bool_ if array.dtype == bool else getattr(mx, array.dtype.name))


def to_numpy(array: Array) -> Any:
    """Return a copy in NumPy, bfloat16 as float32."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


def wait(array: Array) -> Array:
    """Return the array, computed."""
    mx.eval(array)
    return array


BACKEND = Backend(
    name="mlx",
    namespace=_Namespace(),
    fold_tiles=fold_tiles,
    map_tiles=map_tiles,
    scan_tiles=scan_tiles,
    differentiable=differentiable,
    refuse=refuse,
    wait=wait,
    peak_memory=peak_memory,
    from_numpy=from_numpy,
    to_numpy=to_numpy,
    devices=lambda: (mx.default_device(),),
)
