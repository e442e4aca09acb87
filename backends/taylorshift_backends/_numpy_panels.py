"""The memory that compiled steps work in: one tile of tokens, and panels of columns.

A tile is flat, feature by feature, TOKENS numbers a row, see `_numpy_kernels`. Columns of values, sums and states come in
panels, one behind the other, each of PANEL vectors but for the last; inside a panel row stands behind row. The column of
ones beside the values, whose sums are second moments and which is read by a quadratic form, stays out of the panels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from taylorshift_backends import _numpy_kernels as kernels
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_kernels import PANEL
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_vectors import BYTES

Array = Any
_copy, _divide = kernels.copy, kernels.divide


@compiled
def memory(size: int, like: Array) -> Array:
    """Return memory that starts on a vector, with anything in it."""
    lanes = BYTES // like.itemsize
    found = np.empty(size + lanes, like.dtype)
    start = (-found.ctypes.data // like.itemsize) % lanes
    return found[start : start + size]


@compiled
def zeros(size: int, like: Array) -> Array:
    """Return zeros that start on a vector."""
    found = memory(size, like)
    found[:] = 0
    return found


@compiled
def panels_memory(columns: int, like: Array) -> Array:
    """Return memory for panels of the values of a tile; columns that fill up a vector are zero."""
    size, full = TOKENS * n_vectors(columns, like) * (BYTES // like.itemsize), TOKENS * columns
    return memory(size, like) if size == full else zeros(size, like)


@compiled
def of_head(matrices: Array, head: int) -> Array:
    """Return the matrix of a head, or the one of them all."""
    return matrices[head % matrices.shape[0]]


@compiled
def n_vectors(columns: int, like: Array) -> int:
    """Return how many vectors the columns take."""
    return -(-columns * like.itemsize // BYTES)


@compiled
def panel_at(at: int, columns: int, like: Array) -> tuple[int, int]:
    """Return how many vectors the panel that begins with column `at` has, and how many columns."""
    return min(PANEL, n_vectors(columns - at, like)), min(PANEL * (BYTES // like.itemsize), columns - at)


@compiled
def take(x: Array, first: int, tokens: int, tile: Array, rows: int) -> None:
    """Write columns of `x`, (width, length), to a tile of so many rows."""
    for row in range(rows):
        into, source = tile[row * TOKENS : (row + 1) * TOKENS], x[row % x.shape[0]]
        into[:tokens] = source[first : first + tokens]
        into[tokens:] = 0


@compiled
def take_columns(values: Array, kept: Array, first: int, tokens: int, columns: int, panels: Array) -> None:
    """Write the first columns of values, (length, more), to panels; rows that are not kept, if any, as zeros."""
    lanes, step, flat = BYTES // values.itemsize, values.shape[1], values.reshape(values.size)
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, values)
        width, panel = vectors * lanes, panels[at * TOKENS :]
        if n == width:
            _copy(flat, first * step + at, panels, at * TOKENS, step, vectors, tokens)
        else:
            for token in range(tokens):
                for column in range(n):
                    panel[token * width + column] = values[first + token, at + column]
        if kept.shape[0]:
            for token in range(tokens):
                if not kept[first + token]:
                    panel[token * width : token * width + n] = 0


@compiled
def give_columns(panels: Array, first: int, tokens: int, columns: int, sums: Array) -> None:
    """Write panels to the first columns of sums, (length, more)."""
    lanes = BYTES // sums.itemsize
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, sums)
        width, panel = vectors * lanes, panels[at * TOKENS :]
        for token in range(tokens):
            row, place = sums[first + token], token * width
            for column in range(n):
                row[at + column] = panel[place + column]


@compiled
def all_finite(values: Array, kept: Array, first: int, tokens: int) -> bool:
    """Tell whether the values of all tokens that are kept are finite."""
    for token in range(first, first + tokens):
        if not kept.shape[0] or kept[token]:
            for column in range(values.shape[1]):
                if not math.isfinite(values[token, column]):
                    return False
    return True


@compiled
def divide_row(
    panels: Array, token: int, total: float, totals: Array, gamma: float, size: float, keep: bool, output: Array
) -> None:
    """Write the sums of a token of a tile over their normaliser, both with `gamma` times totals, times `size`.

    `total` is the last of the sums, see `taylorshift_core._divide`. With `keep`, one over the normaliser follows, and what
    the output has columns for beyond it is the last of the totals.
    """
    lanes, columns = BYTES // output.itemsize, totals.shape[0] - 1
    normaliser = total + gamma * totals[columns]
    inverse = 1 / normaliser if normaliser != 0 else output.dtype.type(1)
    factor = inverse * size
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, output)
        place = at * TOKENS + token * vectors * lanes
        for column in range(n):
            output[at + column] = (panels[place + column] + gamma * totals[at + column]) * factor
    if keep:
        output[columns] = inverse if normaliser != 0 else 0
        output[columns + 1 :] = totals[columns]


@compiled
def divide(
    panels: Array, totals: Array, gamma: float, factors: Array, first: int, tokens: int, output: Array, shift: Array
) -> None:
    """Write sums of a tile, each with `gamma` times totals, times the factor of its token; `shift` is memory for columns."""
    columns, step, flat = totals.shape[0] - 1, output.shape[1], output.reshape(output.size)
    lanes = BYTES // output.itemsize
    for column in range(columns):
        shift[column] = gamma * totals[column]
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, output)
        width, panel = vectors * lanes, panels[at * TOKENS :]
        if n == width:
            _divide(panels, at * TOKENS, shift, at, factors, 0, flat, first * step + at, step, vectors, tokens)
        else:
            for token in range(tokens):
                for column in range(n):
                    output[first + token, at + column] = (panel[token * width + column] + shift[at + column]) * factors[
                        token
                    ]


@compiled
def factors_of(
    normalisers: Array, totals: Array, gamma: float, size: float, keep: bool, first: int, tokens: int, output: Array,
    factors: Array,
) -> None:  # fmt: skip
    """Write `size` over what each token of a tile is divided by: the last of its sums, with `gamma` times that of the totals.

    With `keep`, one over the normaliser is written behind the outputs, and to what columns are left the last of the totals.
    """
    columns, one = totals.shape[0] - 1, output.dtype.type(1)
    count = totals[columns]
    for token in range(tokens):
        normaliser = normalisers[token] + gamma * count
        inverse = one / normaliser if normaliser != 0 else one
        factors[token] = inverse * size
        if keep:
            row = output[first + token]
            row[columns] = inverse if normaliser != 0 else 0
            row[columns + 1 :] = count
