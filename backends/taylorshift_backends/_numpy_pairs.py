"""Compiled loops over pairs of tokens: squared scores of two tiles, summed times values a few queries at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from taylorshift_backends import _numpy_kernels as kernels
from taylorshift_backends._numpy_jit import compiled, compiled_in_any_order
from taylorshift_backends._numpy_kernels import NARROW, PANEL, SPAN
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_panels import memory, panel_at
from taylorshift_backends._numpy_vectors import BYTES, ROWS

Array = Any
_TOGETHER = 2 * ROWS  # queries whose scores are kept: whole blocks of both kinds
_score, _weigh = kernels.score, kernels.weigh


@compiled
def scores_memory(like: Array) -> Array:
    """Return the memory that `add_scores` and `add_triangle` keep scores in."""
    return memory(_TOGETHER * TOKENS, like)


@compiled
def _make_scores(
    near: Array, far: Array, counts: Array, query: int, keys: int, width: int, scores: Array, totals: Array
) -> None:
    """Write the squared scores of some queries and all keys; add them, times counts, to totals, a vector a query."""
    lanes = BYTES // near.itemsize
    for key in range(0, keys, SPAN * lanes):
        for some in range(0, _TOGETHER, NARROW):
            into, total = some * TOKENS + key, (query + some) * lanes
            _score(near, query + some, far, key, counts, key, scores, into, totals, total, width)


@compiled
def add_scores(
    near: Array, far: Array, counts: Array, panels: Array, queries: int, keys: int, width: int, columns: int,
    scores: Array, sums: Array, totals: Array,
) -> None:  # fmt: skip
    """Add the squared scores of two tiles times panels of values to sums, and times counts to totals, a vector a query."""
    lanes = BYTES // near.itemsize
    for query in range(0, queries, _TOGETHER):
        _make_scores(near, far, counts, query, keys, width, scores, totals)
        for at in range(0, columns, PANEL * lanes):
            vectors, _ = panel_at(at, columns, near)
            for some in range(0, _TOGETHER, ROWS):
                into = at * TOKENS + (query + some) * vectors * lanes
                _weigh(scores, some * TOKENS, panels, at * TOKENS, sums, into, vectors, keys)


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
        _make_scores(near, far, counts, query, keys, width, scores, spare)
        for some in range(min(_TOGETHER, tokens - query)):
            row = scores[some * TOKENS : some * TOKENS + keys]
            row[query + some + 1 :] = 0
            last[query + some] += _sum_of_products(row, counts)
        for at in range(0, columns, PANEL * lanes):
            vectors, _ = panel_at(at, columns, near)
            for some in range(0, _TOGETHER, ROWS):
                into = at * TOKENS + (query + some) * vectors * lanes
                if finite:
                    _weigh(scores, some * TOKENS, panels, at * TOKENS, sums, into, vectors, keys)
                else:
                    first = query + some + 1
                    _weigh_row_by_row(scores[some * TOKENS :], panels[at * TOKENS :], first, keys, vectors, sums[into:])


@compiled
def _weigh_row_by_row(scores: Array, panel: Array, first: int, keys: int, vectors: int, sums: Array) -> None:
    """Add the sums of ROWS queries, of which the first sees so many keys and each other one more, to the bit as `_weigh` does."""
    width = vectors * (BYTES // scores.itemsize)
    for row in range(ROWS):
        found = np.zeros(ROWS * width, scores.dtype)
        _weigh(scores, 0, panel, 0, found, 0, vectors, min(first + row, keys))
        for place in range(row * width, (row + 1) * width):
            sums[place] += found[place]


@compiled_in_any_order
def _sum_of_products(row: Array, counts: Array) -> float:
    total = row[0] * 0
    for i in range(row.shape[0]):
        total += row[i] * counts[i]
    return total
