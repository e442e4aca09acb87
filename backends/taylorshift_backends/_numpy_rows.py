"""Rows of tokens prepared for a tile, compiled: normalised, scaled, and with the row that completes the square."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from taylorshift_backends import _numpy_kernels as kernels
from taylorshift_backends._numpy_jit import compiled, compiled_in_any_order
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_vectors import BYTES

Array = Any
_transpose = kernels.transpose


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
    prepare_with(rows, kept, first, tokens, scale, last, normalise, tile, repeat, np.empty(TOKENS, tile.dtype))


@compiled
def prepare_with(
    rows: Array, kept: Array, first: int, tokens: int, scale: float, last: float, normalise: bool, tile: Array,
    repeat: bool, factors: Array,
) -> None:  # fmt: skip
    """Do so, and write what each row was multiplied by: 0 where that is not simply the scale over its length."""
    dim = rows.shape[1]
    take_rows(rows, first, tokens, tile)
    n_odd = 0
    if normalise:
        n_odd = _inverse_lengths(tile, dim, factors) - (TOKENS - tokens)
        factors *= scale
    else:
        factors[:] = scale
    for i in range(dim):
        row = tile[i * TOKENS : (i + 1) * TOKENS]
        for token in range(TOKENS):
            row[token] *= factors[token]
    if kept.shape[0]:
        for token in range(tokens):
            if not kept[first + token]:
                for i in range(dim):
                    tile[i * TOKENS + token] = 0
    if n_odd > 0:
        for token in range(tokens):
            if factors[token] == 0 and (not kept.shape[0] or kept[first + token]):
                _prepare_row(rows[first + token], scale, tile[token:])
    tile[dim * TOKENS : dim * TOKENS + tokens] = last
    tile[dim * TOKENS + tokens : (dim + 1) * TOKENS] = 0
    if repeat:
        tile[(dim + 1) * TOKENS :] = tile[: ((dim + 1) // 2 + 1) * TOKENS]


@compiled
def take_rows(rows: Array, first: int, tokens: int, tile: Array) -> None:
    """Write rows to the columns of a tile, zeros behind them."""
    dim, lanes = rows.shape[1], BYTES // tile.itemsize
    columns, whole = dim // lanes * lanes, tokens // lanes * lanes
    flat = rows.reshape(rows.size)
    for token in range(0, whole, lanes):
        for i in range(0, columns, lanes):
            _transpose(flat, (first + token) * dim + i, tile, i * TOKENS + token, dim, TOKENS)
        for i in range(columns, dim):
            for some in range(token, token + lanes):
                tile[i * TOKENS + some] = rows[first + some, i]
    for i in range(dim):
        for token in range(whole, tokens):
            tile[i * TOKENS + token] = rows[first + token, i]
        tile[i * TOKENS + tokens : (i + 1) * TOKENS] = 0


@compiled
def _inverse_lengths(tile: Array, dim: int, inverses: Array) -> int:
    """Write one over the length of each column; return how many have none that is found like this, and are 0."""
    limits, one = np.finfo(tile.dtype), tile.dtype.type(1)
    inverses[:] = 0
    for i in range(dim):
        row = tile[i * TOKENS : (i + 1) * TOKENS]
        for token in range(TOKENS):
            inverses[token] += row[token] * row[token]
    n_odd = 0
    for token in range(TOKENS):
        squares = inverses[token]
        found = squares > limits.tiny / limits.eps and squares < limits.max
        inverses[token] = one / math.sqrt(squares if found else one) if found else 0
        n_odd += 0 if found else 1
    return n_odd


@compiled
def _prepare_row(row: Array, scale: float, column: Array) -> None:
    """Write a row over its length, whose squares overflow or underflow, to a column."""
    largest, size = row_length(row)
    factor = scale / size
    for i in range(row.shape[0]):
        column[i * TOKENS] = (row[i] / largest) * factor
