"""Gradients and tangents of features for NumPy: sliding windows over the rows, multiplied and added up in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from taylorshift_backends._numpy_memory import aligned, buffer

Array = Any


def fold_back(xp: Any, x: Array, cotangent: Array, first: int, last: int) -> Array:  # noqa: ARG001  it is NumPy's
    """Return the gradient of ``sum(cotangent * feature_tile(xp, x, first, last))`` to `x`.

    Each feature is a product of a near and a far row. What goes back to the near rows stands in columns of offsets; what
    goes back to the far ones stands in diagonals, which are columns too of a view whose rows are one shorter.
    """
    width, length = x.shape[-2:]
    half = 2 * (last - 1) == width
    count = last - first - half
    result = aligned((*cotangent.shape[:-2], width, length), x.dtype)
    result[...] = 0
    if count:
        far = _windows(_rows_around(x, first, first + count - 1), (count, width), 1)
        blocks = cotangent[..., : count * width, :].reshape((*cotangent.shape[:-2], count, width, length))
        np.einsum("...oit,...oit->...it", blocks, far, out=result)
        longer = width + count - 1
        near = _windows(_rows_padded(x, count - 1), (count, longer), -1)
        diagonals = np.einsum("...oit,...oit->...it", _windows(cotangent, (count, longer), width - 1), near)
        result[..., first:, :] += diagonals[..., : width - first, :]
        result[..., : first + count - 1, :] += diagonals[..., width - first :, :]
    if half:
        middle, block = width // 2, cotangent[..., count * width :, :]
        result[..., :middle, :] += block * x[..., middle:, :]
        result[..., middle:, :] += block * x[..., :middle, :]
    return result


def tangent_tile(xp: Any, x: Array, tangent: Array, first: int, last: int) -> Array:  # noqa: ARG001  it is NumPy's
    """Return by how much the features of offsets first..last-1 change, in a buffer that the thread's next call reuses."""
    *batch, width, length = x.shape
    count = last - first
    shape = (*batch, count, width, length)
    changes, more = buffer("tangents", shape, x.dtype), buffer("more tangents", shape, x.dtype)
    for near, far, out in ((x, tangent, changes), (tangent, x, more)):
        windows = _windows(_rows_around(far, first, last - 1), (count, width), 1)
        np.multiply(near[..., None, :, :], windows, out=out)
    changes += more
    n_rows = count * width - (width // 2 if 2 * (last - 1) == width else 0)
    return changes.reshape((*batch, count * width, length))[..., :n_rows, :]


def _windows(rows: Array, counts: tuple[int, int], step: int) -> Array:
    """Return a view (..., *counts, tokens) whose entry (o, i) is row ``o * step + i``; from the end where steps go back."""
    row, column = rows.strides[-2:]
    start = rows if step >= 0 else rows[..., -step * (counts[0] - 1) :, :]
    strides = (*rows.strides[:-2], step * row, row, column)
    return np.lib.stride_tricks.as_strided(start, (*rows.shape[:-2], *counts, rows.shape[-1]), strides)


def _rows_around(x: Array, first: int, last: int) -> Array:
    """Return rows first.. of `x`, once around and up to row `last` again."""
    *batch, width, length = x.shape
    rows = buffer("rows around", (*batch, width + last - first, length), x.dtype)
    rows[..., : width - first, :] = x[..., first:, :]
    rows[..., width - first :, :] = x[..., :last, :]
    return rows


def _rows_padded(x: Array, by: int) -> Array:
    """Return `x` with so many rows of zeros before and behind it."""
    *batch, width, length = x.shape
    rows = buffer("rows padded", (*batch, width + 2 * by, length), x.dtype)
    rows[..., :by, :] = 0
    rows[..., by : by + width, :] = x
    rows[..., by + width :, :] = 0
    return rows
