"""Sequences of equal lengths out of a pack, side by side as entries of a batch, and back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from taylorshift_core._checks import is_array
from taylorshift_core._namespace import device_of

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = Any


@dataclass(frozen=True)
class Pack:
    """What is taken out of a pack at once: `count` sequences, on an axis before the heads; one keeps the axes it has."""

    xp: Any
    single: bool  # two axes, no heads
    count: int

    def gather(self, array: Array, bounds: Sequence[slice]) -> Array:
        """Return (..., heads, total, dim) as (..., count, heads, length, dim)."""
        if self.count == 1:
            return array[..., bounds[0], :]
        tokens = _tokens(self.xp, array, bounds, array.ndim - 2)
        *leading, total, dim = tokens.shape
        return self._swap(self.xp.reshape(tokens, (*leading, self.count, total // self.count, dim)), 4)

    def gather_mask(self, key_mask: Array | None, bounds: Sequence[slice], axes: int) -> Array | None:
        """Return a mask of keys of so many axes likewise: its tokens are its last axis, and it may have no heads."""
        if key_mask is None or self.count == 1:
            return key_mask if key_mask is None else key_mask[..., bounds[0]]
        tokens = _tokens(self.xp, key_mask, bounds, key_mask.ndim - 1)
        *leading, total = tokens.shape
        shape = *leading, self.count, total // self.count
        if len(leading) == axes - 2:
            return self._swap(self.xp.reshape(tokens, shape), 3)
        return self.xp.reshape(tokens, (*(1,) * (axes - 1 - len(shape)), *shape))

    def scale(self, scale: Any) -> Any:
        """Return a scale for what `gather` returns."""
        if self.count == 1 or not is_array(scale) or (scale.ndim < 2 and not self.single):
            return scale
        return self.xp.reshape(scale, ()) if self.single else self.xp.expand_dims(scale, axis=scale.ndim - 3)

    def restore(self, outputs: Array) -> Array:
        """Return (..., count, heads, length, dim) as (..., heads, count * length, dim)."""
        if self.count == 1:
            return outputs
        *leading, _, length, dim = (outputs := self._swap(outputs, 4)).shape
        return self.xp.reshape(outputs, (*leading, self.count * length, dim))

    def past(self, sums: Array, numbers: Sequence[int]) -> Array:
        """Return the sums of the states of these sequences, in their order, for what `gather` returns."""
        axis = sums.ndim - (3 if self.single else 4)
        if self.count == 1:
            return sums[(..., numbers[0], *(slice(None),) * (sums.ndim - 1 - axis))]
        return sums if len(numbers) == sums.shape[axis] else take(self.xp, sums, list(numbers), axis)

    def state_sums(self, sums: Array) -> Array:
        """Return the sums of states with an axis of the sequences before the heads, also where there is one sequence."""
        return self.xp.expand_dims(sums, axis=sums.ndim - (2 if self.single else 3)) if self.count == 1 else sums

    def _swap(self, array: Array, from_end: int) -> Array:
        """Return the array with the axis so far from the end and the one behind it changed for each other."""
        if self.single:
            return array
        axes = list(range(array.ndim))
        first = array.ndim - from_end
        axes[first], axes[first + 1] = axes[first + 1], axes[first]
        return self.xp.permute_dims(array, tuple(axes))


def take(xp: Any, array: Array, places: Any, axis: int) -> Array:
    """Return places, a list or an array of integers, of an axis."""
    device = device_of(array)
    return xp.take(array, xp.asarray(places, **({} if device is None else {"device": device})), axis=axis)


def _tokens(xp: Any, array: Array, bounds: Sequence[slice], axis: int) -> Array:
    """Return the tokens of sequences of equal lengths, one after the other."""
    first, empty = bounds[0], bounds[0].start == bounds[0].stop
    if empty or all(one.stop == other.start for one, other in pairwise(bounds)):
        part = first if empty else slice(first.start, bounds[-1].stop)
        return array[(..., part, *(slice(None),) * (array.ndim - 1 - axis))]
    places = [place for each in bounds for place in range(each.start, each.stop)]
    return take(xp, array, places, axis)
