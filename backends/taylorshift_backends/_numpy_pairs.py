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
    scores: Array, sums: Array, totals: Array,
) -> None:  # fmt: skip
    """Do what `add_scores` does for a tile of queries and its own keys, of which those behind a query are not seen.

    Values that are not all `finite` must not meet the zeros that stand for scores of keys behind the query.
    """
    lanes = BYTES // near.itemsize
    span, unseen = SPAN * lanes, memory(NARROW * lanes, near)
    for query in range(0, tokens, ROWS):
        keys, edge = min(tokens, query + ROWS), query // span * span
        for some in range(0, ROWS, NARROW):
            first, into = (query + some) * lanes, some * TOKENS
            for key in range(0, edge, span):
                _score(near, query + some, far, key, counts, key, scores, into + key, totals, first, width)
            for key in range(edge, keys, span):
                _score(near, query + some, far, key, counts, key, scores, into + key, unseen, 0, width)
        for some in range(min(ROWS, tokens - query)):
            row, seen = scores[some * TOKENS : some * TOKENS + keys], query + some + 1
            row[seen:] = 0
            totals[(query + some) * lanes] += _sum_of_products(row[edge:seen], counts[edge:seen])
        for at in range(0, columns, PANEL * lanes):
            vectors, _ = panel_at(at, columns, near)
            into = at * TOKENS + query * vectors * lanes
            if finite:
                _weigh(scores, 0, panels, at * TOKENS, sums, into, vectors, keys)
            else:
                _weigh_row_by_row(scores, panels[at * TOKENS :], query + 1, keys, vectors, sums[into:])


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
