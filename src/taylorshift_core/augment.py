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


def augment_back(
    xp: Any, tokens: Array, units: Array, cotangent: Array, factor: Array | None, *, normalise: bool
) -> tuple[Array, Array]:
    """Return the gradients to rows and to their scale, from that to the columns that `augment` made of them.

    Parameters
    ----------
    tokens : array, shape (..., tokens, dim)
        The rows, in the dtype of `units`.
    units : array, shape (..., dim + 1, tokens)
        What `augment` makes of them without a scale.
    cotangent : array, shape (..., dim + 1, tokens)
        The gradient to ``[scale * units[:dim], last]``; it may have more leading axes than `tokens`.
    factor : array, shape (..., 1, 1), optional
        The scale.
    normalise
        As in `augment`; the gradient to a row of zeros is zero.

    Returns
    -------
    array, shape (..., tokens, dim)
    array, shape (..., tokens, 1)
        One number a token.
    """
    units, cotangent, axis = units[..., :-1, :], cotangent[..., :-1, :], cotangent.ndim - 2
    along = xp.sum(units * cotangent, axis=axis, keepdims=True)
    if normalise:
        inverse = inverse_length(xp, tokens, units)
        factor = inverse if factor is None else inverse * factor
        cotangent = cotangent - units * along
    cotangent = cotangent if factor is None else cotangent * factor
    return xp.matrix_transpose(cotangent), xp.matrix_transpose(along)


def inverse_length(xp: Any, tokens: Array, units: Array) -> Array:
    """Return 1 / length of each row of `tokens`, 0 for zeros, shape (..., 1, tokens); `units` are its columns normalised.

    The length is the product of a row with its direction, which neither overflows nor underflows on the way.
    """
    length = xp.sum(xp.matrix_transpose(tokens) * units, axis=units.ndim - 2, keepdims=True)
    return 1 / xp.where(length == 0, xp.full_like(length, math.inf), length)


def _unit(xp: Any, x: Array) -> tuple[Array, Array]:
    """Return columns that point the same way and are safe to square, and their Euclidean lengths.

    The length of zero counts as infinite: then zero stays zero, and has a gradient of zero.
    """
    axis = x.ndim - 2
    largest = xp.max(xp.abs(x), axis=axis, keepdims=True)
    x = x / xp.where(largest > 0, largest, xp.ones_like(largest))
    squares = xp.sum(x * x, axis=axis, keepdims=True)
    return x, xp.sqrt(xp.where(squares == 0, xp.full_like(squares, math.inf), squares))
