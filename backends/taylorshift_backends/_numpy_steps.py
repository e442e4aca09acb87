"""The steps of both forms, compiled whole: from tokens as they were given to states and outputs, TOKENS at a time.

What the core does between the products (normalise, augment, divide) is a pass through memory each in NumPy, and at small
head dimensions they take longer than the products; here it happens where the tile lies in the cache.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_compiled import each_matrix, matrices
from taylorshift_backends._numpy_features import (
    add_features,
    give_row,
    give_state,
    n_rows,
    quadratic_form,
    read_features,
    scale_squares,
    take_state,
)
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_pairs import add_scores, add_triangle, scores_memory
from taylorshift_backends._numpy_panels import all_finite, divide, n_vectors, of_head, take_columns, zeros
from taylorshift_backends._numpy_rows import prepare
from taylorshift_backends._numpy_vectors import BYTES
from taylorshift_core.features import n_features

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any
_WIDE = 40  # rows of a tile: from here on a chunk's scores are few beside the features, and chunks are longer


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


def scan(run: Run, carry: Array, query: Array, key: Array, value: Array, *rest: Array) -> tuple[Array, tuple[Array]]:
    """Return the state behind a tile of tokens, and the outputs of its queries over the keys before them and their own."""
    mask, scale = rest if len(rest) > 1 else (None, rest[0])
    leading, heads, columns = carry.shape[:-2], math.prod(carry.shape[:-2]), _n_columns(run, value.shape[-1])
    groups = math.prod(query.shape[:-2]) // max(heads, 1)
    state, output = np.empty(carry.shape, carry.dtype), np.empty((*query.shape[:-1], columns), query.dtype)
    _scan(
        matrices(carry, leading),
        np.ascontiguousarray(query).reshape((heads, groups, *query.shape[-2:])),
        *(matrices(each, leading) for each in (key, value, _kept(mask))),
        np.ascontiguousarray(np.broadcast_to(scale[..., 0, 0], query.shape[:-2])).reshape((heads, groups)),
        *_options(run),
        state.reshape((heads, *state.shape[-2:])),
        output.reshape((heads, groups, *output.shape[-2:])),
    )
    return state, (output,)


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
    heads, (_, length, dim) = state.shape[0], key.shape
    width, columns, lanes, one = dim + 1, value.shape[2], BYTES // key.itemsize, key.dtype.type(1)
    offsets, padded = width // 2 + 1, n_vectors(columns, key) * lanes
    tile, counts, panels = zeros(n_rows(width) * TOKENS, key), zeros(TOKENS, key), zeros(TOKENS * padded, key)
    sums, moments = zeros(width * offsets * padded, key), zeros(width * offsets * lanes, key)
    for head in range(heads):
        rows, values, own = of_head(key, head), of_head(value, head), of_head(kept, head)[0]
        sums[:] = 0
        moments[:] = 0
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            prepare(rows, own, first, tokens, one, one, normalise, tile, True)
            _count(own, first, tokens, counts)
            take_columns(values, own, first, tokens, columns, panels)
            add_features(tile, counts, panels, tokens, width, columns, sums, moments)
        give_state(sums, moments, width, state[head])


@compiled
def _read(
    query: Array, weighted: Array, totals: Array, scale: Array, beta: float, gamma: float,
    normalise: bool, mean_size_one: bool, keep: bool, output: Array,
) -> None:  # fmt: skip
    """Write the outputs of queries, (heads, tokens, head_dim), over states, (heads, features, value_dim + 1)."""
    heads, (_, length, dim) = output.shape[0], query.shape
    width, columns, kind = dim + 1, weighted.shape[2] - 1, query.dtype.type
    offsets, padded = width // 2 + 1, n_vectors(columns, query) * (BYTES // query.itemsize)
    tile, last, panels = zeros(n_rows(width) * TOKENS, query), zeros(TOKENS, query), zeros(TOKENS * padded, query)
    state, form = zeros(width * offsets * padded, query), zeros(width * offsets, query)
    beta, gamma, everything = kind(beta), kind(gamma), np.empty(0, np.bool_)
    for head in range(heads):
        rows, total, factor = of_head(query, head), of_head(totals, head)[0], of_head(scale, head)[0, 0]
        size = kind(_size(total[columns], dim, mean_size_one))
        take_state(of_head(weighted, head), width, state, form)
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            prepare(rows, everything, first, tokens, factor, beta, normalise, tile, True)
            read_features(tile, state, form, tokens, width, columns, panels, last)
            for token in range(tokens):
                divide(panels, token, last[token], total, gamma, size, keep, output[head, first + token])


@compiled
def _meet(
    query: Array, key: Array, value: Array, scale: Array, kept: Array, beta: float, gamma: float,
    normalise: bool, mean_size_one: bool, keep: bool, output: Array,
) -> None:  # fmt: skip
    """Write the outputs of queries, (heads, tokens, head_dim), over keys and values of a head each.

    All queries are prepared and all sums stand by, so that a key is prepared once for all of them.
    """
    heads, (_, n_queries, dim) = output.shape[0], query.shape
    n_keys, width, columns, kind, one = key.shape[1], dim + 1, value.shape[2], query.dtype.type, query.dtype.type(1)
    lanes, n_tiles = BYTES // key.itemsize, -(-n_queries // TOKENS)
    padded, of_tile = n_vectors(columns, key) * lanes, width * TOKENS
    near, far, counts = zeros(n_tiles * of_tile, key), zeros(of_tile, key), zeros(TOKENS, key)
    panels, sums = zeros(TOKENS * padded, key), zeros(n_tiles * TOKENS * padded, key)
    normalisers, scores = zeros(n_tiles * TOKENS * lanes, key), scores_memory(key)
    totals = np.zeros(columns + 1, key.dtype)
    beta, gamma, everything = kind(beta), kind(gamma), np.empty(0, np.bool_)
    for head in range(heads):
        queries, keys, values = of_head(query, head), of_head(key, head), of_head(value, head)
        factor, own = of_head(scale, head)[0, 0], of_head(kept, head)[0]
        sums[:] = 0
        normalisers[:] = 0
        totals[:] = 0
        for tile in range(n_tiles):
            start, rows = tile * TOKENS, min(TOKENS, n_queries - tile * TOKENS)
            prepare(queries, everything, start, rows, factor, beta, normalise, near[tile * of_tile :], False)
        for first in range(0, n_keys, TOKENS):
            tokens = min(TOKENS, n_keys - first)
            prepare(keys, own, first, tokens, one, one, normalise, far, False)
            _count(own, first, tokens, counts)
            take_columns(values, own, first, tokens, columns, panels)
            _add_totals(values, own, first, tokens, totals)
            for tile in range(n_tiles):
                start, rows = tile * TOKENS, min(TOKENS, n_queries - tile * TOKENS)
                add_scores(
                    near[tile * of_tile :], far, counts, panels, rows, tokens, width, columns,
                    scores, sums[start * padded :], normalisers[start * lanes :],
                )  # fmt: skip
        size = kind(_size(totals[columns], dim, mean_size_one))
        for tile in range(n_tiles):
            start, rows = tile * TOKENS, min(TOKENS, n_queries - tile * TOKENS)
            found = sums[start * padded :]
            for row in range(rows):
                place = (start + row) * lanes
                total = normalisers[place : place + lanes].sum()
                divide(found, row, total, totals, gamma, size, keep, output[head, start + row])


@compiled
def _scan(
    carry: Array, query: Array, key: Array, value: Array, kept: Array, scale: Array, beta: float, gamma: float,
    normalise: bool, mean_size_one: bool, keep: bool, state: Array, output: Array,
) -> None:  # fmt: skip
    """Walk along keys and values, (heads, tokens, dim), and the queries, (heads, groups, tokens, head_dim), that share them.

    What a chunk sees of earlier keys is read from the sums so far; inside it scores are made, half of them for nothing.
    """
    heads, groups, length, dim = query.shape
    width, columns, kind, one = dim + 1, value.shape[2], query.dtype.type, query.dtype.type(1)
    lanes, rows, chunk = BYTES // key.itemsize, width * (width // 2 + 1), TOKENS // 2 if width < _WIDE else TOKENS
    padded = n_vectors(columns, key) * lanes
    near, far = zeros(n_rows(width) * TOKENS, key), zeros(n_rows(width) * TOKENS, key)
    counts, panels, scores = zeros(TOKENS, key), zeros(TOKENS * padded, key), scores_memory(key)
    sums, moments, form = zeros(rows * padded, key), zeros(rows * lanes, key), zeros(rows, key)
    before, totals = np.empty(columns + 1, key.dtype), np.empty(columns + 1, key.dtype)
    found, last, spare = zeros(TOKENS * padded, key), zeros(TOKENS, key), zeros(TOKENS * lanes, key)
    beta, gamma, half, two, everything = kind(beta), kind(gamma), kind(0.5), kind(2), np.empty(0, np.bool_)
    for head in range(heads):
        own = of_head(kept, head)[0]
        take_state(carry[head], width, sums, form)
        moments[:] = 0
        moments[::lanes] = form
        for first in range(0, length, chunk):
            tokens = min(chunk, length - first)
            prepare(key[head], own, first, tokens, one, one, normalise, far, True)
            _count(own, first, tokens, counts)
            take_columns(value[head], own, first, tokens, columns, panels)
            quadratic_form(moments, width, form)
            finite = all_finite(value[head], own, first, tokens)
            give_row(sums, moments, width, width - 1, 0, before)  # the feature 1 * 1: plain sums of [value, 1]
            scale_squares(sums, width, columns, half)
            for group in range(groups):
                factor, outputs = scale[head, group], output[head, group]
                prepare(query[head, group], everything, first, tokens, factor, beta, normalise, near, True)
                read_features(near, sums, form, tokens, width, columns, found, last)
                found *= two
                add_triangle(
                    near, far, counts, panels, tokens, width, columns, finite, scores, spare, found, last
                )  # fmt: skip
                totals[:] = before
                for token in range(tokens):
                    _add_totals(value[head], own, first + token, 1, totals)
                    size = kind(_size(totals[columns], dim, mean_size_one))
                    divide(found, token, last[token], totals, gamma, size, keep, outputs[first + token])
            scale_squares(sums, width, columns, two)
            add_features(far, counts, panels, tokens, width, columns, sums, moments)
        give_state(sums, moments, width, state[head])


@compiled
def _add_totals(value: Array, kept: Array, first: int, tokens: int, totals: Array) -> None:
    """Add [value, 1] of the tokens that are kept to totals."""
    columns = value.shape[1]
    for token in range(tokens):
        if not kept.shape[0] or kept[first + token]:
            row = value[first + token]
            for column in range(columns):
                totals[column] += row[column]
            totals[columns] += 1
