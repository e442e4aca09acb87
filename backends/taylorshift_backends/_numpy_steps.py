"""The steps of both forms, compiled whole: from tokens as they were given to states and outputs, TOKENS at a time.

What the core does between the products (normalise, augment, divide) is a pass through memory each in NumPy, and at small
head dimensions they take longer than the products; here it happens where the tile lies in the cache.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends import _numpy_blocks as blocks
from taylorshift_backends._numpy_compiled import each_matrix
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_kernels import TOKENS
from taylorshift_backends._numpy_vectors import BYTES
from taylorshift_core.features import n_features

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any
_zeros, _n_vectors, _n_rows, _prepare = blocks.zeros, blocks.n_vectors, blocks.n_rows, blocks.prepare
_take_columns, _add_features, _give_state = blocks.take_columns, blocks.add_features, blocks.give_state
_take_state, _read_features, _divide = blocks.take_state, blocks.read_features, blocks.divide
_add_scores, _scores_memory = blocks.add_scores, blocks.scores_memory


def summarise(run: Run, key: Array, value: Array, mask: Array | None = None) -> tuple[Array]:
    """Return the state of a tile of keys and values."""
    shape = n_features(key.shape[-1] + 1), value.shape[-1] + 1
    return (each_matrix(_summarise, shape, key, value, _kept(mask), options=(run.weighting.normalise,)),)


def read(run: Run, query: Array, weighted: Array, totals: Array, scale: Array) -> tuple[Array]:
    """Return the outputs of a tile of queries over the keys in a state."""
    shape = query.shape[-2], _n_columns(run, weighted.shape[-1] - 1)
    return (each_matrix(_read, shape, query, weighted, totals, scale, options=_options(run)),)


def meet(run: Run, query: Array, key: Array, value: Array, scale: Array, mask: Array | None = None) -> tuple[Array]:
    """Return the outputs of a tile of queries over all keys."""
    shape = query.shape[-2], _n_columns(run, value.shape[-1])
    return (each_matrix(_meet, shape, query, key, value, scale, _kept(mask), options=_options(run)),)


def _kept(mask: Array | None) -> Array:
    """Return which keys are attended, (..., 1, tokens), or no columns for all of them."""
    return np.empty((1, 0), np.bool_) if mask is None else np.swapaxes(mask, -1, -2)


def _n_columns(run: Run, value_dim: int) -> int:
    return value_dim + run.keep + (run.keep and run.mean_size_one)


def _options(run: Run) -> tuple[float, float, bool, bool, bool]:
    weighting = run.weighting
    return float(weighting.beta), float(weighting.gamma), weighting.normalise, run.mean_size_one, run.keep


@compiled
def _size(count: float, head_dim: int, mean_size_one: bool) -> float:
    """Return the factor of outputs of mean size one; with no key attended any will do."""
    return math.sqrt((count if count != 0 else 1) / head_dim) if mean_size_one else 1.0


@compiled
def _count(kept: Array, first: int, tokens: int, counts: Array) -> None:
    """Write 1 for each token that is kept, 0 for the others of the tile."""
    counts[:tokens] = 1
    if kept.shape[0]:
        counts[:tokens] = kept[first : first + tokens]
    counts[tokens:] = 0


@compiled
def _summarise(key: Array, value: Array, kept: Array, normalise: bool, state: Array) -> None:
    """Write the states of keys, (heads, tokens, head_dim), and values, (heads, tokens, value_dim)."""
    heads, length, dim = key.shape
    width, columns, lanes, one = dim + 1, value.shape[2], BYTES // key.itemsize, key.dtype.type(1)
    offsets, padded = width // 2 + 1, _n_vectors(columns, key) * lanes
    tile, counts, panels = _zeros(_n_rows(width) * TOKENS, key), _zeros(TOKENS, key), _zeros(TOKENS * padded, key)
    sums, moments = _zeros(width * offsets * padded, key), _zeros(width * offsets * lanes, key)
    for head in range(heads):
        sums[:] = 0
        moments[:] = 0
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            _prepare(key[head], kept[head, 0], first, tokens, one, one, normalise, tile, True)
            _count(kept[head, 0], first, tokens, counts)
            _take_columns(value[head], kept[head, 0], first, tokens, columns, panels)
            _add_features(tile, counts, panels, tokens, width, columns, sums, moments)
        _give_state(sums, moments, width, state[head])


@compiled
def _read(
    query: Array, weighted: Array, totals: Array, scale: Array, beta: float, gamma: float,
    normalise: bool, mean_size_one: bool, keep: bool, output: Array,
) -> None:  # fmt: skip
    """Write the outputs of queries, (heads, tokens, head_dim), over states, (heads, features, value_dim + 1)."""
    heads, length, dim = query.shape
    width, columns, kind = dim + 1, weighted.shape[2] - 1, query.dtype.type
    offsets, padded = width // 2 + 1, _n_vectors(columns, query) * (BYTES // query.itemsize)
    tile, last, panels = _zeros(_n_rows(width) * TOKENS, query), _zeros(TOKENS, query), _zeros(TOKENS * padded, query)
    state, form, everything = (
        _zeros(width * offsets * padded, query),
        _zeros(width * offsets, query),
        np.empty(0, np.bool_),
    )
    for head in range(heads):
        _take_state(weighted[head], width, state, form)
        size = kind(_size(totals[head, 0, columns], dim, mean_size_one))
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            _prepare(
                query[head],
                everything,
                first,
                tokens,
                scale[head, 0, 0],
                kind(beta),
                normalise,
                tile,
                True,
            )
            _read_features(tile, state, form, tokens, width, columns, panels, last)
            _divide(panels, last, totals[head, 0], kind(gamma), size, keep, first, tokens, output[head])


@compiled
def _meet(
    query: Array, key: Array, value: Array, scale: Array, kept: Array, beta: float, gamma: float,
    normalise: bool, mean_size_one: bool, keep: bool, output: Array,
) -> None:  # fmt: skip
    """Write the outputs of queries, (heads, tokens, head_dim), over keys and values of a head each."""
    heads, n_queries, dim = query.shape
    n_keys, width, columns, kind, one = key.shape[1], dim + 1, value.shape[2], query.dtype.type, query.dtype.type(1)
    lanes, everything = BYTES // key.itemsize, np.empty(0, np.bool_)
    padded, n_tiles = _n_vectors(columns, key) * lanes, -(-n_queries // TOKENS)
    # All queries are prepared, and all sums stand by, so that a key is prepared once for all of them.
    near, far, counts = _zeros(n_tiles * width * TOKENS, key), _zeros(width * TOKENS, key), _zeros(TOKENS, key)
    panels, sums = _zeros(TOKENS * padded, key), _zeros(n_tiles * TOKENS * padded, key)
    normalisers, scores = _zeros(n_tiles * TOKENS * lanes, key), _scores_memory(key)
    totals, last = np.zeros(columns + 1, key.dtype), _zeros(TOKENS, key)
    for head in range(heads):
        sums[:] = 0
        normalisers[:] = 0
        totals[:] = 0
        for tile in range(n_tiles):
            rows, own = (
                min(TOKENS, n_queries - tile * TOKENS),
                near[tile * width * TOKENS : (tile + 1) * width * TOKENS],
            )
            _prepare(
                query[head],
                everything,
                tile * TOKENS,
                rows,
                scale[head, 0, 0],
                kind(beta),
                normalise,
                own,
                False,
            )
        for first in range(0, n_keys, TOKENS):
            tokens = min(TOKENS, n_keys - first)
            _prepare(key[head], kept[head, 0], first, tokens, one, one, normalise, far, False)
            _count(kept[head, 0], first, tokens, counts)
            _take_columns(value[head], kept[head, 0], first, tokens, columns, panels)
            _add_totals(value[head], counts, kept[head, 0], first, tokens, totals)
            for tile in range(n_tiles):
                _add_scores(
                    near[tile * width * TOKENS :], far, counts, panels, min(TOKENS, n_queries - tile * TOKENS), tokens,
                    width, columns, scores, sums[tile * TOKENS * padded :], normalisers[tile * TOKENS * lanes :],
                )  # fmt: skip
        size = kind(_size(totals[columns], dim, mean_size_one))
        for tile in range(n_tiles):
            first, rows = tile * TOKENS, min(TOKENS, n_queries - tile * TOKENS)
            for row in range(rows):
                place = (first + row) * lanes
                last[row] = normalisers[place : place + lanes].sum()
            _divide(sums[first * padded :], last, totals, kind(gamma), size, keep, first, rows, output[head])


@compiled
def _add_totals(value: Array, counts: Array, kept: Array, first: int, tokens: int, totals: Array) -> None:
    """Add [value, 1] of the tokens that are kept to totals."""
    columns = value.shape[1]
    for token in range(tokens):
        if kept.shape[0] and not kept[first + token]:
            continue
        row = value[first + token]
        for column in range(columns):
            totals[column] += row[column]
        totals[columns] += counts[token]
