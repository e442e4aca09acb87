"""ndonnx: arrays whose lengths and content are not known, from which `ndonnx.build` makes a model; few nodes of it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from warnings import catch_warnings

import ndonnx as ndx
import numpy as np
import spox.opset.ai.onnx.v21 as op

from taylorshift_core import Backend, loops
from taylorshift_core.features import n_features

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core import Run

Array = Any
Arrays = tuple[Array, ...]


class _Namespace:
    """ndonnx's namespace, with functions that keep the sizes that are known, where ndonnx or ONNX forgets them."""

    __name__ = ndx.__name__

    def __getattr__(self, name: str) -> Any:
        return getattr(ndx, name)

    def matmul(self, one: Array, other: Array, /) -> Array:
        return ndx.asarray(op.matmul(one.unwrap_spox(), other.unwrap_spox()))

    def max(self, x: Array, /, *, axis: int, keepdims: bool) -> Array:
        """Return the largest entries; where there is NaN they are anything, which later sums of the same entries show."""
        return ndx.asarray(op.reduce_max(x.unwrap_spox(), op.const([axis], np.int64), keepdims=keepdims))

    def reshape(self, x: Array, shape: tuple[int | None, ...], /) -> Array:
        """Return x in another shape; where sizes are unknown, with axes before the last two split or joined."""
        if None not in shape:
            return ndx.reshape(x, shape)
        var, leading = x.unwrap_spox(), min(x.ndim, len(shape)) - 3
        sizes = op.shape(var)
        before = op.slice(sizes, op.const([0]), op.const([leading]))
        behind = op.slice(sizes, op.const([x.ndim - 2]), op.const([x.ndim]))
        whole = op.concat([before, op.const(shape[leading:-2], np.int64), behind], axis=0)
        return _sized(op.reshape(var, whole, allowzero=True), shape)

    def full_like(self, x: Array, /, fill_value: float) -> Array:
        fill = ndx.asarray(fill_value, dtype=x.dtype)
        return ndx.where(x == x, fill, fill)  # noqa: PLR0124  a condition of the same shape

    def ones_like(self, x: Array, /) -> Array:
        return self.full_like(x, 1)

    def zeros_like(self, x: Array, /) -> Array:
        return self.full_like(x, 0)


def _sized(var: Any, known: Sequence[int | None]) -> Array:
    """Return an ONNX value as an array with the sizes that are known of it."""
    sizes = op.const([size or 0 for size in known], np.int64)  # 0: as it is
    return ndx.asarray(op.reshape(var, sizes, allowzero=False))


def feature_tile(xp: Any, x: Array, first: int, last: int) -> Array:  # noqa: ARG001
    """Return the features of offsets first..last-1: three nodes, where slices would be several for each offset."""
    width = x.shape[-2]
    rows = np.arange(first * width, min(last * width, n_features(width)))
    one, other = rows % width, (rows % width + rows // width) % width
    axis = x.ndim - 2
    return ndx.take(x, ndx.asarray(one), axis=axis) * ndx.take(x, ndx.asarray(other), axis=axis)


def fold_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return the sums of ``step`` over all tiles; in an ONNX loop where their number is not known."""
    if tiled[0].shape[-2] is not None:
        return loops.fold_tiles(run, step, tiled, whole, tile)

    def add(totals: Arrays, *tiles: Array) -> tuple[Arrays, Arrays]:
        return tuple(total + part for total, part in zip(totals, step(run, *tiles, *whole), strict=True)), ()

    nothing = [_sized(x[..., :0, :].unwrap_spox(), (*x.shape[:-2], 0, x.shape[-1])) for x in tiled]
    return _loop(add, step(run, *nothing, *whole), tiled, whole, tile)[0]


def map_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return ``step`` of all tiles, joined along the token axis."""
    if tiled[0].shape[-2] is not None:
        return loops.map_tiles(run, step, tiled, whole, tile)
    return _loop(lambda _, *tiles: ((), step(run, *tiles, *whole)), (), tiled, whole, tile)[1]


def _loop(
    step: Callable[..., tuple[Arrays, Arrays]], carried: Arrays, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Arrays, Arrays]:
    """Walk along an unknown number of tiles, at least one: ``carried, outputs = step(carried, *tiles)``."""
    axis = tiled[0].ndim - 2
    outputs: Arrays = ()

    def body(i: Any, going: Any, *state: Any) -> list[Any]:
        nonlocal outputs
        first = op.reshape(op.mul(i, op.const(tile)), op.const([1]))
        last = op.add(first, op.const(tile))
        cuts = [op.slice(x.unwrap_spox(), first, last, op.const([axis])) for x in tiled]
        tiles = [_sized(var, x.shape) for var, x in zip(cuts, tiled, strict=True)]
        before = [_sized(var, x.shape) for var, x in zip(state, carried, strict=False)]
        after, outputs = step(tuple(before), *tiles)
        joined = [op.sequence_insert(*pair) for pair in zip(state[len(carried) :], _vars(outputs), strict=True)]
        return [going, *_vars(after), *joined]

    with catch_warnings(action="ignore"):  # that sizes get lost, which are given back below
        end = op.loop(_n_tiles(tiled, whole, tile), None, [*_vars(carried), *_empty(step, carried, tiled)], body=body)
        joined = [op.concat_from_sequence(parts, axis=axis) for parts in end[len(carried) :]]
    results = zip([*end[: len(carried)], *joined], [*carried, *outputs], strict=True)
    sized = tuple(_sized(var, x.shape) for var, x in results)
    return sized[: len(carried)], sized[len(carried) :]


def _n_tiles(tiled: Arrays, whole: Arrays, tile: int) -> Any:
    """Return the number of tiles, at least one, as if it hung on all arrays: what a loop alone uses, it makes each time."""
    length, *shapes = [op.shape(var) for var in _vars((*tiled, *whole))]
    length = op.slice(length, op.const([-2]), op.const([-1]))
    number = op.div(op.add(length, op.const(tile - 1)), op.const(tile))
    nothing = [op.mul(op.reduce_max(shape), op.const([0])) for shape in shapes]
    return op.squeeze(op.max([number, op.const([1]), *nothing]))


def _empty(step: Callable[..., tuple[Arrays, Arrays]], carried: Arrays, tiled: Arrays) -> list[Any]:
    """Return an empty sequence for each output."""
    _, examples = step(carried, *tiled)  # no part of the model, which holds what its outputs need
    return [op.sequence_empty(dtype=example.dtype.unwrap_numpy()) for example in examples]


def _vars(arrays: Arrays) -> list[Any]:
    return [array.unwrap_spox() for array in arrays]


def to_numpy(array: Array) -> Any:
    """Return the content, where it is known."""
    return array.unwrap_numpy()


def devices() -> tuple[Any, ...]:
    """Return the one that ndonnx knows of: where a model runs is said when it runs."""
    return (ndx.asarray(0).device,)


BACKEND = Backend(
    name="ndonnx",
    namespace=_Namespace(),
    tile_bytes=16 << 20,
    no_gradients="a model is made forwards; attention_vjp of another library may train what is exported",
    feature_tile=feature_tile,
    fold_tiles=fold_tiles,
    map_tiles=map_tiles,
    to_numpy=to_numpy,
    devices=devices,
)
