"""Gradients and tangents of tiles for NumPy: sliding windows over the rows, multiplied and added up in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from taylorshift_backends._numpy_memory import aligned, buffer

Array = Any


def fold_back(xp: Any, x: Array, cotangent: Array, first: int, last: int) -> Array:  # noqa: ARG001  it is NumPy's
    """Return the gradient of ``sum(cotangent * feature_tile(xp, x, first, last))`` to `x`.

    Each feature is a product of a near and a far row. What goes back to the near rows is one sum over windows of them;
    what goes back to the far ones is added up offset by offset, each a row further down.
    """
    width, length = x.shape[-2:]
    half = 2 * (last - 1) == width
    count = last - first - half
    leading = cotangent.shape[:-2]
    around = aligned((*leading, 2 * width, length), x.dtype)
    near = around[..., :width, :]
    blocks = cotangent[..., : count * width, :].reshape((*leading, count, width, length))
    if count:
        windows = _windows(_rows_around(x, first, first + count - 1), count, width)
        np.einsum("...oit,...oit->...it", blocks, windows, out=near)
    else:
        near[...] = 0
    around[..., width:, :] = 0
    products = buffer("products", near.shape, x.dtype)
    for i in range(count):
        np.multiply(blocks[..., i, :, :], x, out=products)
        around[..., first + i : first + i + width, :] += products
    near += around[..., width:, :]
    if half:
        middle, block = width // 2, cotangent[..., count * width :, :]
        near[..., :middle, :] += block * x[..., middle:, :]
        near[..., middle:, :] += block * x[..., :middle, :]
    return near


def tangent_tile(xp: Any, x: Array, tangent: Array, first: int, last: int) -> Array:  # noqa: ARG001  it is NumPy's
    """Return by how much the features of offsets first..last-1 change, in a buffer that the thread's next call reuses."""
    *batch, width, length = x.shape
    count = last - first
    shape = (*batch, count, width, length)
    changes, more = buffer("tangents", shape, x.dtype), buffer("more tangents", shape, x.dtype)
    for near, far, out in ((x, tangent, changes), (tangent, x, more)):
        windows = _windows(_rows_around(far, first, last - 1), count, width)
        np.multiply(near[..., None, :, :], windows, out=out)
    changes += more
    n_rows = count * width - (width // 2 if 2 * (last - 1) == width else 0)
    return changes.reshape((*batch, count * width, length))[..., :n_rows, :]


def _windows(rows: Array, count: int, width: int) -> Array:
    """Return a view (..., count, width, tokens) whose entry (o, i) is row ``o + i``."""
    row, column = rows.strides[-2:]
    shape = *rows.shape[:-2], count, width, rows.shape[-1]
    return np.lib.stride_tricks.as_strided(rows, shape, (*rows.strides[:-2], row, row, column))


def _rows_around(x: Array, first: int, last: int) -> Array:
    """Return rows first.. of `x`, once around and up to row `last` again."""
    *batch, width, length = x.shape
    rows = buffer("rows around", (*batch, width + last - first, length), x.dtype)
    rows[..., : width - first, :] = x[..., first:, :]
    rows[..., width - first :, :] = x[..., :last, :]
    return rows
