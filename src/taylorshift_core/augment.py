"""From rows of tokens to the columns both forms multiply: normalised, scaled, and augmented to complete the square."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taylorshift_core._backend import Backend

Array = Any


def augment(backend: Backend, tokens: Array, scale: Array | None, last: float, *, normalise: bool) -> Array:
    """Return the columns ``[scale * x / |x|, last]`` of the rows x of `tokens`.

    Parameters
    ----------
    tokens : array, shape (..., tokens, dim)
        In the dtype that the backend sums in.
    scale : array, shape (..., 1, 1), optional
    last
        The entry that every column ends with.
    normalise
        Whether rows are divided by their Euclidean norms; rows of zeros stay zero.

    Returns
    -------
    array, shape (..., dim + 1, tokens)
    """
    xp = backend.namespace
    x = backend.pack(xp.matrix_transpose(tokens))
    if normalise:
        x, length = _unit(xp, x)
        x = x / length if scale is None else x * (scale / length)
    elif scale is not None:
        x = x * scale
    return xp.concat([x, xp.full_like(x[..., :1, :], last)], axis=x.ndim - 2)


def _unit(xp: Any, x: Array) -> tuple[Array, Array]:
    """Return columns that point the same way and are safe to square, and their Euclidean lengths.

    The length of zero counts as infinite: then zero stays zero, and has a gradient of zero.
    """
    axis = x.ndim - 2
    largest = xp.max(xp.abs(x), axis=axis, keepdims=True)
    x = x / xp.where(largest > 0, largest, xp.ones_like(largest))
    squares = xp.sum(x * x, axis=axis, keepdims=True)
    return x, xp.sqrt(xp.where(squares == 0, xp.full_like(squares, math.inf), squares))
