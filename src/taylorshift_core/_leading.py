"""The axes before the last two, along which arrays broadcast: what is copied along them forwards is summed backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core._namespace import device_of

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = Any
Shape = tuple[int, ...]


def leading_of(*arrays: Array) -> Shape:
    """Return the sizes of the leading axes that the arrays broadcast to."""
    sizes = zip(*(array.shape[:-2] for array in arrays), strict=True)
    return tuple(next((size for size in each if size != 1), 1) for each in sizes)


def sum_to(xp: Any, array: Array, leading: Sequence[int]) -> Array:
    """Return the array summed over those of its leading axes that have size 1 in `leading`."""
    axes = tuple(i for i, size in enumerate(leading) if size == 1 != array.shape[i])
    return xp.sum(array, axis=axes, keepdims=True) if axes else array


def spread(xp: Any, array: Array, leading: Sequence[int]) -> Array:
    """Return an array of leading axes `leading` that `sum_to` turns into `array`: zeros, but for its first places."""
    for axis, size in enumerate(leading):
        if array.shape[axis] == 1 != size:
            behind = zeros(xp, array, (*array.shape[:axis], max(size - 1, 0), *array.shape[axis + 1 :]))
            array = xp.concat([array, behind], axis=axis) if size else behind
    return array


def zeros(xp: Any, like: Array, shape: Sequence[int]) -> Array:
    """Return zeros of the dtype and on the device of another array."""
    device = device_of(like)
    return xp.zeros(tuple(shape), dtype=like.dtype, **({} if device is None else {"device": device}))
