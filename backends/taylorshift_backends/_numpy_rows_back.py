"""Rows of tokens on the way back, compiled: gradients of outputs taken to a tile, and those of a tile given to rows."""

from __future__ import annotations

import math
from typing import Any

from taylorshift_backends import _numpy_kernels as kernels
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_kernels import PANEL
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_panels import panel_at
from taylorshift_backends._numpy_rows import row_length, take_rows
from taylorshift_backends._numpy_vectors import BYTES

Array = Any
_transpose = kernels.transpose


@compiled
def _row(tile: Array, i: int) -> Array:
    return tile[i * TOKENS : (i + 1) * TOKENS]


@compiled
def take_gradients(
    kept: Array, cotangent: Array, first: int, tokens: int, head_dim: int, mean_size_one: bool, outputs: Array,
    across: Array,
) -> float:  # fmt: skip
    """Write the gradients to sums of [value, 1], column by column, from those to outputs, (length, value_dim).

    `kept` is what `_numpy_panels.factors_of` and `divide` wrote, `outputs` memory for a tile of it. Returns the sum of the
    gradients to the counts, see `taylorshift_core._divide.divide_vjp`.
    """
    columns, to_counts = cotangent.shape[1], kept.dtype.type(0)
    take_rows(kept, first, tokens, outputs)
    take_rows(cotangent, first, tokens, across)
    inverses, alongs = _row(outputs, columns), _row(across, columns)
    alongs[:] = 0
    for column in range(columns):
        near, far = _row(outputs, column), _row(across, column)
        for token in range(TOKENS):
            alongs[token] -= near[token] * far[token]
    factors = inverses
    if mean_size_one:
        counts, factors = _row(outputs, columns + 1), _row(outputs, 0)  # whose outputs are used up
        for token in range(tokens):
            count = counts[token]
            to_counts -= alongs[token] / (2 * (count if count != 0 else 1))
            factors[token] = inverses[token] * kept.dtype.type(math.sqrt(count / head_dim))
    for column in range(columns):
        far = _row(across, column)
        for token in range(TOKENS):
            far[token] *= factors[token]
    for token in range(TOKENS):
        alongs[token] *= inverses[token]
    return to_counts


@compiled
def scale_rows(units: Array, scale: float, width: int, tile: Array) -> None:
    """Write rows of a tile times a scale, all but the last of them, and the first ones behind it, see `prepare`."""
    for i in range(width - 1):
        near, far = _row(units, i), _row(tile, i)
        for token in range(TOKENS):
            far[token] = near[token] * scale
    tile[(width - 1) * TOKENS : width * TOKENS] = units[(width - 1) * TOKENS : width * TOKENS]
    tile[width * TOKENS :] = tile[: tile.shape[0] - width * TOKENS]


@compiled
def fold_rows(back: Array, width: int, rows: int) -> None:
    """Add the gradients to rows that a tile has twice where they stand first."""
    for i in range(width, rows):
        near, far = _row(back, i), _row(back, i - width)
        for token in range(TOKENS):
            far[token] += near[token]


@compiled
def pull_rows(
    rows: Array, first: int, tokens: int, units: Array, factors: Array, scale: float, normalise: bool, back: Array
) -> None:
    """Turn the gradients to [scale * x / |x|, last], in a tile, into those to rows x, and in the last row to their scale.

    `units` and `factors` are what `prepare_with` wrote for a scale of one.
    """
    dim = rows.shape[1]
    alongs = _row(back, dim)
    alongs[:] = 0
    for i in range(dim):
        near, far = _row(units, i), _row(back, i)
        for token in range(TOKENS):
            alongs[token] += near[token] * far[token]
    if normalise:
        for token in range(tokens):
            if factors[token] == 0:
                largest, size = row_length(rows[first + token])
                factors[token] = 1 / size / largest  # zero for a row of zeros, whose length counts as infinite
    for i in range(dim):
        near, far = _row(units, i), _row(back, i)
        if normalise:
            for token in range(TOKENS):
                far[token] = (far[token] - near[token] * alongs[token]) * (factors[token] * scale)
        else:
            for token in range(TOKENS):
                far[token] *= scale


@compiled
def give_rows(kept: Array, first: int, tokens: int, tile: Array, result: Array) -> None:
    """Write columns of a tile to rows, (length, dim); those that are not kept, if any, as zeros."""
    dim, lanes, flat = result.shape[1], BYTES // tile.itemsize, result.reshape(result.size)
    columns, whole = dim // lanes * lanes, tokens // lanes * lanes
    for token in range(0, whole, lanes):
        for i in range(0, columns, lanes):
            _transpose(tile, i * TOKENS + token, flat, (first + token) * dim + i, TOKENS, dim)
    for i in range(dim):
        for token in range(0 if i >= columns else whole, tokens):
            result[first + token, i] = tile[i * TOKENS + token]
    if kept.shape[0]:
        for token in range(first, first + tokens):
            if not kept[token]:
                result[token] = 0


@compiled
def take_values(values: Array, kept: Array, first: int, tokens: int, factor: float, tile: Array) -> None:
    """Write rows of [values, 1] times a factor to a tile of columns; those that are not kept, if any, as zeros."""
    columns = values.shape[1]
    take_rows(values, first, tokens, tile)
    ones = _row(tile, columns)
    ones[:tokens] = factor
    ones[tokens:] = 0
    for column in range(columns):
        row = _row(tile, column)
        for token in range(TOKENS):
            row[token] *= factor
    if kept.shape[0]:
        for token in range(tokens):
            if not kept[first + token]:
                for column in range(columns + 1):
                    tile[column * TOKENS + token] = 0


@compiled
def lay_across(tile: Array, tokens: int, columns: int, panels: Array) -> None:
    """Write the columns of a tile to panels, all of them; beyond its tokens there are zeros."""
    lanes = BYTES // tile.itemsize
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, tile)
        width, panel, whole = vectors * lanes, at * TOKENS, n // lanes * lanes
        for token in range(0, tokens, lanes):
            for i in range(0, whole, lanes):
                _transpose(tile, (at + i) * TOKENS + token, panels, panel + token * width + i, TOKENS, width)
        for i in range(whole, n):
            for token in range(tokens):
                panels[panel + token * width + i] = tile[(at + i) * TOKENS + token]


@compiled
def take_across(panels: Array, tokens: int, columns: int, tile: Array) -> None:
    """Write panels to the columns of a tile."""
    lanes = BYTES // tile.itemsize
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, tile)
        width, panel, whole = vectors * lanes, at * TOKENS, n // lanes * lanes
        for token in range(0, tokens, lanes):
            for i in range(0, whole, lanes):
                _transpose(panels, panel + token * width + i, tile, (at + i) * TOKENS + token, width, TOKENS)
        for i in range(whole, n):
            for token in range(tokens):
                tile[(at + i) * TOKENS + token] = panels[panel + token * width + i]
