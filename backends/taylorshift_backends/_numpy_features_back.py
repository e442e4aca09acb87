"""Compiled loops over features on the way back: from gradients of what was read of a state, or summed to it, to tokens."""

from __future__ import annotations

from typing import Any

from taylorshift_backends import _numpy_kernels_back as kernels
from taylorshift_backends._numpy_features import n_far, part_of
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_kernels import NARROW, SPAN
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_vectors import BYTES

Array = Any
_fold_back_rows, _read_and_fold_back = kernels.fold_back, kernels.read_and_fold_back


@compiled
def add_back(tile: Array, weighted: Array, across: Array, tokens: int, width: int, n_columns: int, back: Array) -> None:
    """Add the gradients of features, ``weighted @ columns.T``, to the rows they are products of, in a tile like theirs."""
    span = SPAN * (BYTES // tile.itemsize)
    for i in range(width):
        n = n_far(i, width)
        for part in range(-(-n // NARROW)):
            row, rows = part_of(n, NARROW, part)
            start = (row * width + i) * n_columns
            for at in range(0, tokens, span):
                near, far = i * TOKENS + at, (i + row) * TOKENS + at
                _fold_back_rows(
                    tile, near, tile, far, weighted, start, across, at, back, near, back, far,
                    rows, n_columns, width * n_columns,
                )  # fmt: skip


@compiled
def take_form(state: Array, width: int, form: Array) -> None:
    """Write a state, (features, columns), as matrices (width, width, columns) whose quadratic forms are what is read."""
    columns, half = state.shape[1], state.dtype.type(0.5)
    for i in range(width):
        for offset in range(n_far(i, width)):
            row, j = state[offset * width + i], (i + offset) % width
            here, there, share = (i * width + j) * columns, (j * width + i) * columns, half if offset else 2 * half
            for column in range(columns):
                form[here + column] = form[there + column] = row[column] * share


@compiled
def add_read_and_back(
    tile: Array, form: Array, across: Array, tokens: int, width: int, n_columns: int, sums: Array, back: Array
) -> None:
    """Add what tokens read of quadratic forms to sums, and half the gradients of that, times columns, to rows of `back`."""
    span = SPAN * (BYTES // tile.itemsize)
    for i in range(width):
        for part in range(-(-n_columns // NARROW)):
            column, rows = part_of(n_columns, NARROW, part)
            start, place = i * width * n_columns + column, column * TOKENS
            for at in range(0, tokens, span):
                near = i * TOKENS + at
                _read_and_fold_back(
                    tile, near, tile, at, form, start, across, place + at, sums, place + at, back, near,
                    rows, width, n_columns,
                )  # fmt: skip
