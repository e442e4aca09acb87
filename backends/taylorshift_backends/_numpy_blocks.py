"""Compiled loops over the kernels: features and scores of one tile of tokens, and the memory they are worked on in.

A tile is flat memory, feature by feature, see `_numpy_kernels`. Columns of values, sums and states come in panels, one
behind the other, each of PANEL vectors but for the last; inside a panel row stands behind row. The rows of a state are
ordered by the row of the tile that is multiplied, `i`, and then by the offset to the other. The column of ones beside
the values, whose sums are second moments and which is read by a quadratic form, stays out of the panels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from taylorshift_backends import _numpy_kernels as kernels
from taylorshift_backends._numpy_jit import compiled, compiled_in_any_order
from taylorshift_backends._numpy_kernels import ALONG, NARROW, PANEL, READERS, SPAN
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_vectors import BYTES, ROWS

Array = Any
_TOGETHER = 2 * ROWS  # queries whose scores are kept: whole blocks of both kinds
_summarise_rows, _read_rows, _moments, _quadratic = kernels.summarise, kernels.read, kernels.moments, kernels.quadratic
_score, _weigh, _fold_back_rows = kernels.score, kernels.weigh, kernels.fold_back


@compiled
def zeros(size: int, like: Array) -> Array:
    """Return zeros that start on a vector."""
    lanes = BYTES // like.itemsize
    memory = np.zeros(size + lanes, like.dtype)
    start = (-memory.ctypes.data // like.itemsize) % lanes
    return memory[start : start + size]


@compiled
def of_head(matrices: Array, head: int) -> Array:
    """Return the matrix of a head, or the one of them all."""
    return matrices[head % matrices.shape[0]]


@compiled
def n_vectors(columns: int, like: Array) -> int:
    """Return how many vectors the columns take."""
    return -(-columns * like.itemsize // BYTES)


@compiled
def n_far(i: int, width: int) -> int:
    """Return how many features are row `i` times a row from `i` on."""
    return width // 2 + 1 if width % 2 or i < width // 2 else width // 2


@compiled
def n_rows(width: int) -> int:
    """Return how many rows a tile has with the first ones once more behind the last."""
    return width + width // 2 + 1


@compiled
def take(x: Array, first: int, tokens: int, tile: Array, rows: int) -> None:
    """Write columns of `x`, (width, length), to a tile of so many rows."""
    for row in range(rows):
        into, source = tile[row * TOKENS : (row + 1) * TOKENS], x[row % x.shape[0]]
        into[:tokens] = source[first : first + tokens]
        into[tokens:] = 0


@compiled_in_any_order
def _squares(row: Array) -> float:
    total = row[0] * 0
    for i in range(row.shape[0]):
        total += row[i] * row[i]
    return total


@compiled
def length(row: Array) -> tuple[float, float]:
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
            largest, size = length(row)
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


@compiled
def take_columns(values: Array, kept: Array, first: int, tokens: int, columns: int, panels: Array) -> None:
    """Write the first columns of values, (length, more), to panels; rows that are not kept, if any, as zeros."""
    lanes = BYTES // values.itemsize
    for at in range(0, columns, PANEL * lanes):
        width, n = min(PANEL, n_vectors(columns - at, values)) * lanes, min(PANEL * lanes, columns - at)
        panel = panels[at * TOKENS :]
        for token in range(tokens):
            row, place = values[first + token], token * width
            if kept.shape[0] and not kept[first + token]:
                panel[place : place + n] = 0
            else:
                for column in range(n):
                    panel[place + column] = row[at + column]


@compiled
def give_columns(panels: Array, first: int, tokens: int, columns: int, sums: Array) -> None:
    """Write panels to the first columns of sums, (length, more)."""
    lanes = BYTES // sums.itemsize
    for at in range(0, columns, PANEL * lanes):
        width, n = min(PANEL, n_vectors(columns - at, sums)) * lanes, min(PANEL * lanes, columns - at)
        panel = panels[at * TOKENS :]
        for token in range(tokens):
            row, place = sums[first + token], token * width
            for column in range(n):
                row[at + column] = panel[place + column]


@compiled
def add_features(
    tile: Array, counts: Array, panels: Array, tokens: int, width: int, columns: int, sums: Array, moments: Array
) -> None:
    """Add the features of a tile times panels of values to sums, and times counts to moments, a vector a feature."""
    lanes, offsets = BYTES // tile.itemsize, width // 2 + 1
    for i in range(width):
        n = n_far(i, width)
        blocks, row = -(-n // ROWS), 0
        for block in range(blocks):
            rows = n * (block + 1) // blocks - row
            into = (i * offsets + row) * lanes
            _moments(tile, i * TOKENS, tile, (i + row) * TOKENS, counts, 0, moments, into, rows, -(-tokens // lanes))
            row += rows
    for at in range(0, columns, PANEL * lanes):
        vectors = min(PANEL, n_vectors(columns - at, tile))
        for i in range(width):
            n, start = n_far(i, width), width * offsets * at + i * offsets * vectors * lanes
            blocks, row = -(-n // ROWS), 0
            for block in range(blocks):
                rows = n * (block + 1) // blocks - row
                into = start + row * vectors * lanes
                near, far = i * TOKENS, (i + row) * TOKENS
                _summarise_rows(tile, near, tile, far, panels, at * TOKENS, sums, into, rows, vectors, tokens)
                row += rows


@compiled
def give_state(sums: Array, moments: Array, width: int, state: Array) -> None:
    """Write sums and moments to a state, (features, columns), ordered by offset."""
    for i in range(width):
        for offset in range(n_far(i, width)):
            give_row(sums, moments, width, i, offset, state[offset * width + i])


@compiled
def give_row(sums: Array, moments: Array, width: int, i: int, offset: int, row: Array) -> None:
    """Write the sums and the moment of one feature to a row of a state."""
    lanes, offsets, columns = BYTES // row.itemsize, width // 2 + 1, row.shape[0] - 1
    place = i * offsets + offset
    row[columns] = moments[place * lanes : (place + 1) * lanes].sum()
    for at in range(0, columns, PANEL * lanes):
        span, n = min(PANEL, n_vectors(columns - at, row)) * lanes, min(PANEL * lanes, columns - at)
        start = width * offsets * at + place * span
        for column in range(n):
            row[at + column] = sums[start + column]


@compiled
def take_state(weighted: Array, width: int, state: Array, form: Array) -> None:
    """Write a state, (features, columns), to panels, and its last column to a quadratic form."""
    lanes, offsets, columns = BYTES // weighted.itemsize, width // 2 + 1, weighted.shape[1] - 1
    for i in range(width):
        for offset in range(n_far(i, width)):
            row, place = weighted[offset * width + i], i * offsets + offset
            form[place] = row[columns]
            for at in range(0, columns, PANEL * lanes):
                span, n = min(PANEL, n_vectors(columns - at, weighted)) * lanes, min(PANEL * lanes, columns - at)
                start = width * offsets * at + place * span
                for column in range(n):
                    state[start + column] = row[at + column]


@compiled
def read_features(
    tile: Array, state: Array, form: Array, tokens: int, width: int, columns: int, panels: Array, last: Array
) -> None:
    """Write what the features of a tile read of panels of a state, and of the form, one number a token."""
    lanes, offsets = BYTES // tile.itemsize, width // 2 + 1
    last[:] = 0
    for i in range(width):
        for token in range(0, tokens, ALONG * lanes):
            here = i * TOKENS + token
            _quadratic(tile, here, tile, here, form, i * offsets, last, token, n_far(i, width))
    for at in range(0, columns, PANEL * lanes):
        vectors = min(PANEL, n_vectors(columns - at, tile))
        span, readers, panel = vectors * lanes, READERS[vectors - 1], at * TOKENS
        panels[panel : panel + TOKENS * span] = 0
        for i in range(width):
            start = width * offsets * at + i * offsets * span
            for token in range(0, tokens, readers):
                here, into = i * TOKENS + token, panel + token * span
                _read_rows(tile, here, tile, here, state, start, panels, into, vectors, n_far(i, width))


@compiled
def add_back(tile: Array, weighted: Array, across: Array, tokens: int, width: int, n_columns: int, back: Array) -> None:
    """Add the gradients of features, ``weighted @ columns.T``, to the rows they are products of, in a tile like theirs."""
    span = SPAN * (BYTES // tile.itemsize)
    for i in range(width):
        n = n_far(i, width)
        blocks, row = -(-n // NARROW), 0
        for block in range(blocks):
            rows = n * (block + 1) // blocks - row
            start = (row * width + i) * n_columns
            for at in range(0, tokens, span):
                near, far = i * TOKENS + at, (i + row) * TOKENS + at
                _fold_back_rows(
                    tile, near, tile, far, weighted, start, across, at, back, near, back, far,
                    rows, n_columns, width * n_columns,
                )  # fmt: skip
            row += rows


@compiled
def add_scores(
    near: Array, far: Array, counts: Array, panels: Array, queries: int, keys: int, width: int, columns: int,
    scores: Array, sums: Array, totals: Array,
) -> None:  # fmt: skip
    """Add the squared scores of two tiles times panels of values to sums, and times counts to totals, a vector a query."""
    lanes = BYTES // near.itemsize
    for query in range(0, queries, _TOGETHER):
        for key in range(0, keys, SPAN * lanes):
            for some in range(0, _TOGETHER, NARROW):
                into, total = some * TOKENS + key, (query + some) * lanes
                _score(near, query + some, far, key, counts, key, scores, into, totals, total, width)
        for at in range(0, columns, PANEL * lanes):
            vectors, panel = min(PANEL, n_vectors(columns - at, near)), at * TOKENS
            for some in range(0, _TOGETHER, ROWS):
                into = panel + (query + some) * vectors * lanes
                _weigh(scores, some * TOKENS, panels, panel, sums, into, vectors, keys)


@compiled
def add_triangle(
    near: Array, far: Array, counts: Array, panels: Array, tokens: int, width: int, columns: int, finite: bool,
    scores: Array, spare: Array, sums: Array, last: Array,
) -> None:  # fmt: skip
    """Add the squared scores of two tiles, where the key is not behind the query, times panels of values to sums.

    Those times counts are added to `last`, one number a token; `spare` is memory for a vector a token. Values that are not
    all `finite` must not meet the zeros that stand for scores of keys behind the query.
    """
    lanes = BYTES // near.itemsize
    for query in range(0, tokens, _TOGETHER):
        keys = min(tokens, query + _TOGETHER)
        for key in range(0, keys, SPAN * lanes):
            for some in range(0, _TOGETHER, NARROW):
                into, total = some * TOKENS + key, (query + some) * lanes
                _score(near, query + some, far, key, counts, key, scores, into, spare, total, width)
        for some in range(min(_TOGETHER, tokens - query)):
            row = scores[some * TOKENS : some * TOKENS + keys]
            row[query + some + 1 :] = 0
            last[query + some] += _sum_of_products(row, counts)
        for at in range(0, columns, PANEL * lanes):
            vectors, panel = min(PANEL, n_vectors(columns - at, near)), at * TOKENS
            for some in range(0, _TOGETHER, ROWS):
                into = panel + (query + some) * vectors * lanes
                if finite:
                    _weigh(scores, some * TOKENS, panels, panel, sums, into, vectors, keys)
                else:
                    first = query + some + 1
                    _weigh_row_by_row(scores[some * TOKENS :], panels[panel:], first, keys, vectors, sums[into:])


@compiled
def _weigh_row_by_row(scores: Array, panel: Array, first: int, keys: int, vectors: int, sums: Array) -> None:
    """Add the sums of ROWS queries, of which the first sees so many keys and each other one more, to the bit as `_weigh` does."""
    width = vectors * (BYTES // scores.itemsize)
    for row in range(ROWS):
        found = np.zeros(ROWS * width, scores.dtype)
        _weigh(scores, 0, panel, 0, found, 0, vectors, min(first + row, keys))
        for place in range(row * width, (row + 1) * width):
            sums[place] += found[place]


@compiled
def all_finite(values: Array, kept: Array, first: int, tokens: int) -> bool:
    """Tell whether the values of all tokens that are kept are finite."""
    for token in range(first, first + tokens):
        if not kept.shape[0] or kept[token]:
            for column in range(values.shape[1]):
                if not math.isfinite(values[token, column]):
                    return False
    return True


@compiled_in_any_order
def _sum_of_products(row: Array, counts: Array) -> float:
    total = row[0] * 0
    for i in range(row.shape[0]):
        total += row[i] * counts[i]
    return total


@compiled
def quadratic_form(moments: Array, width: int, form: Array) -> None:
    """Write moments, a vector a feature, times their multiplicity."""
    lanes, offsets = form.shape[0] and moments.shape[0] // form.shape[0], width // 2 + 1
    for place in range(form.shape[0]):
        form[place] = moments[place * lanes : (place + 1) * lanes].sum() * (2 if place % offsets else 1)


@compiled
def scale_squares(sums: Array, width: int, columns: int, factor: float) -> None:
    """Multiply the sums of the features that are squares: halved, all sums are half of what counts with multiplicity."""
    lanes, offsets = BYTES // sums.itemsize, width // 2 + 1
    for at in range(0, columns, PANEL * lanes):
        span = min(PANEL, n_vectors(columns - at, sums)) * lanes
        for i in range(width):
            start = width * offsets * at + i * offsets * span
            for place in range(start, start + span):
                sums[place] *= factor


@compiled
def scores_memory(like: Array) -> Array:
    """Return the memory that `add_scores` and `add_triangle` keep scores in."""
    return zeros(_TOGETHER * TOKENS, like)


@compiled
def divide(
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
        n = min(PANEL * lanes, columns - at)
        place = at * TOKENS + token * min(PANEL, n_vectors(columns - at, output)) * lanes
        for column in range(n):
            output[at + column] = (panels[place + column] + gamma * totals[at + column]) * factor
    if keep:
        output[columns] = inverse if normaliser != 0 else 0
        output[columns + 1 :] = totals[columns]
