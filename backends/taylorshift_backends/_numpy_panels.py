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
from taylorshift_backends._numpy_jit import compiled, compiled_in_any_order
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
def count(kept: Array, first: int, tokens: int, counts: Array) -> None:
    """Write 1 for each token that is kept, 0 for the others of the tile."""
    counts[:tokens] = 1
    if kept.shape[0]:
        counts[:tokens] = kept[first : first + tokens]
    counts[tokens:] = 0


@compiled
def take_columns(values: Array, kept: Array, first: int, tokens: int, columns: int, panels: Array) -> None:
    """Write the first columns of values, (length, more), to panels; rows that are not kept, if any, as zeros."""
    lanes, step, flat = BYTES // values.itemsize, values.shape[1], values.reshape(values.size)
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, values)
        width, panel = vectors * lanes, panels[at * TOKENS :]
        if n == width:
            _copy(flat, first * step + at, panels, at * TOKENS, step, width, vectors, tokens)
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
        width, start = vectors * lanes, at * TOKENS
        if n == width:
            _copy(panels, start, sums, first * sums.shape[1] + at, width, sums.shape[1], vectors, tokens)
        else:
            for token in range(tokens):
                row, place = sums[first + token], start + token * width
                for column in range(n):
                    row[at + column] = panels[place + column]


@compiled
def all_finite(panels: Array, tokens: int, columns: int) -> bool:
    """Tell whether all that panels hold of so many tokens is finite."""
    lanes = BYTES // panels.itemsize
    for at in range(0, columns, PANEL * lanes):
        vectors, _ = panel_at(at, columns, panels)
        if _zeros_of(panels[at * TOKENS : at * TOKENS + tokens * vectors * lanes]) != 0:
            return False
    return True


@compiled_in_any_order
def _zeros_of(numbers: Array) -> float:
    """Return the sum of zero times each number, which is not zero where one is not finite."""
    total = zero = numbers.dtype.type(0)
    for i in range(numbers.shape[0]):
        total += numbers[i] * zero
    return total


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
def size_of(count: float, head_dim: int, mean_size_one: bool) -> float:
    """Return the factor of outputs of mean size one; with no key attended any will do."""
    return math.sqrt((count if count != 0 else 1) / head_dim) if mean_size_one else 1.0


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
