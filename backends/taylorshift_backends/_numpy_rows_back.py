"""Rows of tokens on the way back, compiled: gradients of outputs taken to a tile, and those of a tile given to rows."""

from __future__ import annotations

import math
from typing import Any

from taylorshift_backends._numpy_jit import compiled, compiled_in_any_order
from taylorshift_backends._numpy_kernels import PANEL
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_panels import panel_at
from taylorshift_backends._numpy_rows import row_length
from taylorshift_backends._numpy_vectors import BYTES

Array = Any


@compiled_in_any_order
def _product(first: Array, second: Array) -> float:
    total = first[0] * 0
    for i in range(second.shape[0]):
        total += first[i] * second[i]
    return total


@compiled
def take_gradients(
    kept: Array, cotangent: Array, first: int, tokens: int, head_dim: int, mean_size_one: bool, across: Array
) -> float:
    """Write the gradients to sums of [value, 1], column by column, from those to outputs, (length, value_dim).

    `kept` is what `_numpy_panels.divide` kept. Returns the sum of the gradients to the counts, see
    `taylorshift_core._divide.divide_vjp`.
    """
    columns, to_counts = cotangent.shape[1], kept.dtype.type(0)
    for token in range(tokens):
        row, given = kept[first + token], cotangent[first + token]
        inverse, along = row[columns], row.dtype.type(0)
        if columns:
            along = _product(row, given)
        factor = inverse
        if mean_size_one:
            count = row[columns + 1]
            factor *= row.dtype.type(math.sqrt(count / head_dim))
            to_counts += along / (2 * (count if count != 0 else 1))
        for column in range(columns):
            across[column * TOKENS + token] = given[column] * factor
        across[columns * TOKENS + token] = -along * inverse
    for column in range(columns + 1):
        across[column * TOKENS + tokens : (column + 1) * TOKENS] = 0
    return to_counts


@compiled
def scale_rows(units: Array, scale: float, dim: int, tile: Array) -> None:
    """Write rows of a tile times a scale, all but the last of them, see `_numpy_rows.prepare`."""
    size = dim * TOKENS
    for place in range(size):
        tile[place] = units[place] * scale
    tile[size : size + TOKENS] = units[size : size + TOKENS]
    tile[size + TOKENS :] = tile[: tile.shape[0] - size - TOKENS]


@compiled
def fold_rows(back: Array, width: int, rows: int) -> None:
    """Add the gradients to rows that a tile has twice where they stand first."""
    for place in range((rows - width) * TOKENS):
        back[place] += back[width * TOKENS + place]


@compiled
def give_gradients(
    rows: Array, kept: Array, first: int, tokens: int, units: Array, scale: float, normalise: bool, back: Array,
    to_rows: Array, to_scale: Array,
) -> None:  # fmt: skip
    """Write the gradients to rows, (length, dim), and one number each to their scale; rows that are not kept have none.

    `units` is their tile, normalised, and `back` the gradient to it times the scale, which is changed.
    """
    dim = rows.shape[1]
    along, by = to_scale[first : first + tokens], back[dim * TOKENS : (dim + 1) * TOKENS]
    along[:] = 0
    for i in range(dim):
        near, far = units[i * TOKENS : i * TOKENS + tokens], back[i * TOKENS : i * TOKENS + tokens]
        for token in range(tokens):
            along[token] += near[token] * far[token]
    if normalise:
        for token in range(tokens):
            if kept.shape[0] and not kept[first + token]:
                by[token] = 0
            else:
                largest, size = row_length(rows[first + token])
                by[token] = scale / size / largest  # zero for a row of zeros, whose length counts as infinite
        for i in range(dim):
            near, far = units[i * TOKENS : i * TOKENS + tokens], back[i * TOKENS : i * TOKENS + tokens]
            for token in range(tokens):
                far[token] = (far[token] - near[token] * along[token]) * by[token]
    elif scale != 1:
        for place in range(dim * TOKENS):
            back[place] *= scale
    give_rows(kept, first, tokens, back, to_rows)


@compiled
def give_rows(kept: Array, first: int, tokens: int, tile: Array, result: Array) -> None:
    """Write columns of a tile to rows, (length, dim); those that are not kept, if any, as zeros."""
    dim = result.shape[1]
    for token in range(tokens):
        row = result[first + token]
        if kept.shape[0] and not kept[first + token]:
            row[:] = 0
        else:
            for i in range(dim):
                row[i] = tile[i * TOKENS + token]


@compiled
def take_rows(values: Array, kept: Array, first: int, tokens: int, factor: float, tile: Array) -> None:
    """Write rows of values, (length, columns), times a factor, and the factor itself behind them, to a tile of columns."""
    columns = values.shape[1]
    for token in range(tokens):
        row = values[first + token]
        if kept.shape[0] and not kept[first + token]:
            for column in range(columns + 1):
                tile[column * TOKENS + token] = 0
        else:
            for column in range(columns):
                tile[column * TOKENS + token] = row[column] * factor
            tile[columns * TOKENS + token] = factor
    for column in range(columns + 1):
        tile[column * TOKENS + tokens : (column + 1) * TOKENS] = 0


@compiled
def lay_across(tile: Array, tokens: int, columns: int, panels: Array) -> None:
    """Write the columns of a tile to panels."""
    lanes = BYTES // tile.itemsize
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, tile)
        width, panel = vectors * lanes, panels[at * TOKENS :]
        for token in range(tokens):
            for column in range(n):
                panel[token * width + column] = tile[(at + column) * TOKENS + token]


@compiled
def take_across(panels: Array, tokens: int, columns: int, tile: Array) -> None:
    """Write panels to the columns of a tile."""
    lanes = BYTES // tile.itemsize
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, tile)
        width, panel = vectors * lanes, panels[at * TOKENS :]
        for token in range(tokens):
            for column in range(n):
                tile[(at + column) * TOKENS + token] = panel[token * width + column]
