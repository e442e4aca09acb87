"""toyarray: what taylorshift-core cannot know of it."""

from __future__ import annotations

from typing import Any

import toyarray

from taylorshift_core import Backend
from taylorshift_core.features import n_features

Array = Any


def from_numpy(array: Any, device: Any = None) -> Array:
    """Take an array of NumPy to a device, by default the first."""
    return toyarray.asarray(array, device=device or "toy:0")


def feature_tile(xp: Any, x: Array, first: int, last: int) -> Array:
    """Return the features of offsets first..last-1, in two calls: every call of this library is slow."""
    width, axis = x.shape[-2], x.ndim - 2
    rows = range(first * width, min(last * width, n_features(width)))
    one, other = [row % width for row in rows], [(row % width + row // width) % width for row in rows]
    return xp.take(x, one, axis=axis) * xp.take(x, other, axis=axis)


BACKEND = Backend(
    name="toyarray",
    namespace=toyarray,
    feature_tile=feature_tile,
    from_numpy=from_numpy,
    to_numpy=toyarray.to_host,
    devices=lambda: ("toy:0", "toy:1"),
)
