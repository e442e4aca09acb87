"""Normalising and augmenting tokens, and its gradient, in few passes of NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_memory import aligned, buffer
from taylorshift_core.augment import augment as augment_safely

if TYPE_CHECKING:
    from taylorshift_core import Backend

Array = Any


def augment(backend: Backend, tokens: Array, scale: Array | None, last: float, *, normalise: bool) -> Array:
    """Return the columns [scale * x / |x|, last]; squares first, and where they may not be exact, the careful way."""
    *batch, length, dim = tokens.shape
    x = aligned((*batch, dim + 1, length), tokens.dtype)
    rows = x[..., :dim, :]
    rows[...] = np.swapaxes(tokens, -1, -2)
    if normalise:
        squares = np.einsum("...dt,...dt->...t", rows, rows)[..., None, :]
        limits = np.finfo(tokens.dtype)
        exact = (squares > limits.tiny / limits.eps) & (squares < limits.max)
        factor = (1 if scale is None else scale) / np.sqrt(squares)
        np.multiply(rows, factor, out=rows)
        if not exact.all():  # token by token: what one holds must not change a bit of another
            careful = augment_safely(backend, tokens, scale, last, normalise=True)
            np.copyto(rows, careful[..., :dim, :], where=~exact)
    elif scale is not None:
        np.multiply(rows, scale, out=rows)
    x[..., dim:, :] = last
    return x


def augment_back(
    xp: Any,  # noqa: ARG001  the namespace is NumPy
    tokens: Array,
    units: Array,
    cotangent: Array,
    factor: Array | None,
    *,
    normalise: bool,
) -> tuple[Array, Array]:
    """Return the gradients to rows and to their scale, see `taylorshift_core.augment.augment_back`."""
    units, cotangent = units[..., :-1, :], cotangent[..., :-1, :]
    along = np.einsum("...dt,...dt->...t", units, cotangent)[..., None, :]
    if normalise:
        rows = buffer("rows", units.shape, units.dtype)
        rows[...] = np.swapaxes(tokens, -1, -2)
        length = np.einsum("...dt,...dt->...t", rows, units)[..., None, :]
        length[length == 0] = np.inf
        factor = (1 if factor is None else factor) / length
        cotangent = cotangent - np.multiply(units, along)
        cotangent *= factor
    elif factor is not None:
        cotangent = cotangent * factor
    return np.swapaxes(cotangent, -1, -2), np.swapaxes(along, -1, -2)
