"""Compiled loops over pairs of tokens on the way back: scores of two tiles again, and what leads through them to both."""

from __future__ import annotations

from typing import Any

from taylorshift_backends import _numpy_kernels, _numpy_kernels_back
from taylorshift_backends._numpy_features import part_of
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_kernels import NARROW, PANEL, SPAN
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_panels import panel_at
from taylorshift_backends._numpy_vectors import BYTES, ROWS

Array = Any
TOGETHER = 2 * ROWS  # queries whose scores are kept: whole blocks of both kinds
_score_back, _weigh_across, _weigh = (
    _numpy_kernels_back.score_back,
    _numpy_kernels_back.weigh_across,
    _numpy_kernels.weigh,
)


@compiled
def add_scores_back(
    near: Array, cotangents: Array, far: Array, values: Array, rows: Array, queries: int, keys: int, ahead: int,
    width: int, columns: int, squares: Array, to_scores: Array, to_queries: Array, to_keys: Array, to_values: Array,
) -> None:  # fmt: skip
    """Add the gradients of two tiles, of ``sum(cotangents * squared scores * values) / 2``, to those of queries and keys.

    The gradients to values, which come in the same units as cotangents, are not halved. `rows` are the keys once more, in
    panels, as the gradients to queries are; all others are tiles, with `columns` of cotangents and values. A query sees
    the keys up to its own place in the tile and `ahead` more.
    """
    lanes, dim = BYTES // near.itemsize, width - 1
    for query in range(0, queries, TOGETHER):
        seen = min(keys, query + TOGETHER + ahead)  # by the last of them
        if seen <= 0:
            continue
        for key in range(0, seen, SPAN * lanes):
            for some in range(0, TOGETHER, NARROW):
                place = some * TOKENS + key
                _score_back(
                    near, query + some, cotangents, query + some, far, key, values, key, squares, place,
                    to_scores, place, width, columns,
                )  # fmt: skip
        _hide(query + ahead + 1, -(-seen // (SPAN * lanes)) * SPAN * lanes, squares, to_scores)
        for at in range(0, dim, PANEL * lanes):
            vectors, _ = panel_at(at, dim, near)
            for some in range(0, TOGETHER, ROWS):
                into = at * TOKENS + (query + some) * vectors * lanes
                _weigh(to_scores, some * TOKENS, rows, at * TOKENS, to_queries, into, vectors, seen)
        n = min(TOGETHER, queries - query)
        _add_across(to_scores, near, query, n, seen, dim, to_keys)
        _add_across(squares, cotangents, query, n, seen, columns - 1, to_values)


@compiled
def _hide(seen: int, stop: int, squares: Array, to_scores: Array) -> None:
    """Write zeros for the keys up to `stop` that a query does not see; the first query sees so many, each other one more."""
    for some in range(TOGETHER):
        for place in range(some * TOKENS + max(seen + some, 0), some * TOKENS + stop):
            squares[place] = to_scores[place] = 0


@compiled
def _add_across(scores: Array, tile: Array, query: int, queries: int, keys: int, n_rows: int, sums: Array) -> None:
    """Add the sums over queries of rows of their tile times scores to rows of sums."""
    lanes = BYTES // tile.itemsize
    for part in range(-(-n_rows // NARROW)):
        row, rows = part_of(n_rows, NARROW, part)
        for key in range(0, keys, SPAN * lanes):
            _weigh_across(scores, key, tile, row * TOKENS + query, sums, row * TOKENS + key, rows, queries)
