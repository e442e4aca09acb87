"""Rows of tokens prepared for a tile, compiled: normalised, scaled, and with the row that completes the square."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from taylorshift_backends._numpy_jit import compiled, compiled_in_any_order
from taylorshift_backends._numpy_options import TOKENS

Array = Any


@compiled_in_any_order
def _squares(row: Array) -> float:
    total = row[0] * 0
    for i in range(row.shape[0]):
        total += row[i] * row[i]
    return total


@compiled
def row_length(row: Array) -> tuple[float, float]:
    """Return two factors whose product is the length of a row: neither overflows, and the row over the first has squares."""
    one = row.dtype.type(1)
    if row.shape[0] == 0:
        return one, one
    squares = _squares(row)
    limits = np.finfo(row.dtype)
    if squares > limits.tiny / limits.eps and squares < limits.max:
        return one, row.dtype.type(math.sqrt(squares))
    largest = row.dtype.type(0)
    for i in range(row.shape[0]):
        size = abs(row[i])
        if size > largest or size != size:  # noqa: PLR0124  a number that is none
            largest = size
    if not largest > 0:
        return one, (largest if largest != 0 else row.dtype.type(math.inf))
    squares = row.dtype.type(0)
    for i in range(row.shape[0]):
        squares += (row[i] / largest) ** 2
    return largest, row.dtype.type(math.sqrt(squares))


@compiled
def prepare(
    rows: Array,
    kept: Array,
    first: int,
    tokens: int,
    scale: float,
    last: float,
    normalise: bool,
    tile: Array,
    repeat: bool,
) -> None:
    """Write [scale * x / |x|, last] of rows x, (length, dim), to a tile; rows that are not kept, if any, are taken as zero.

    With `repeat` the first rows of the tile follow once more behind the last.
    """
    dim = rows.shape[1]
    for token in range(tokens):
        row = rows[first + token]
        if kept.shape[0] and not kept[first + token]:
            for i in range(dim):
                tile[i * TOKENS + token] = 0
        elif normalise:
            largest, size = row_length(row)
            factor = scale / size
            if largest == 1:
                for i in range(dim):
                    tile[i * TOKENS + token] = row[i] * factor
            else:
                for i in range(dim):
                    tile[i * TOKENS + token] = (row[i] / largest) * factor
        else:
            for i in range(dim):
                tile[i * TOKENS + token] = row[i] * scale
    tile[dim * TOKENS : dim * TOKENS + tokens] = last
    for row in range(dim + 1):
        tile[row * TOKENS + tokens : (row + 1) * TOKENS] = 0
    if repeat:
        tile[(dim + 1) * TOKENS :] = tile[: ((dim + 1) // 2 + 1) * TOKENS]
