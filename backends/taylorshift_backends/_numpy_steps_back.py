"""The steps of gradients, compiled whole as those of `_numpy_steps`: from gradients of outputs to those of tokens and states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_compiled import matrices
from taylorshift_backends._numpy_features import add_features, give_row, n_far, n_rows
from taylorshift_backends._numpy_features_back import add_back, add_read_and_back, take_form
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_pairs import scores_memory
from taylorshift_backends._numpy_pairs_back import add_scores_back
from taylorshift_backends._numpy_panels import n_vectors, of_head, zeros
from taylorshift_backends._numpy_rows import prepare
from taylorshift_backends._numpy_rows_back import (
    fold_rows,
    give_gradients,
    give_rows,
    lay_across,
    scale_rows,
    take_across,
    take_gradients,
    take_rows,
)
from taylorshift_backends._numpy_steps import kept_of
from taylorshift_backends._numpy_vectors import BYTES

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any
Arrays = tuple[Array, ...]


def read_vjp(
    run: Run, carry: Array, query: Array, kept: Array, cotangent: Array, weighted: Array, scale: Array
) -> tuple[Array, Arrays]:
    """Return `carry` with the gradients to what a tile of queries read, and those to the queries and the scale of each."""
    leading, weighting = carry.shape[:-2], run.weighting
    state = _own(carry)
    to_query, to_scale = (np.empty((*leading, query.shape[-2], n), query.dtype) for n in (query.shape[-1], 1))
    _read_vjp(
        *(matrices(each, leading) for each in (query, kept, cotangent, weighted, scale)),
        *(float(weighting.beta), float(weighting.gamma), weighting.normalise, run.mean_size_one),
        *(_by_head(each) for each in (state, to_query, to_scale)),
    )
    return state, (to_query, to_scale)


def summarise_vjp(run: Run, key: Array, value: Array, *rest: Array) -> Arrays:
    """Return the gradients to a tile of keys and values, from that to the state; `rest` is (mask, state) or (state,)."""
    mask, state = rest if len(rest) > 1 else (None, rest[0])
    given = key, value, kept_of(mask), state
    leading = np.broadcast_shapes(*(each.shape[:-2] for each in (key, value, *rest)))
    gradients = tuple(np.empty((*leading, *each.shape[-2:]), each.dtype) for each in (key, value))
    _summarise_vjp(
        *(matrices(each, leading) for each in given), run.weighting.normalise, *(_by_head(each) for each in gradients)
    )
    return gradients


def meet_vjp(
    run: Run, carry: Array, query: Array, kept: Array, cotangent: Array, key: Array, value: Array, scale: Array,
    mask: Array | None = None,
) -> tuple[Array, Arrays]:  # fmt: skip
    """Return `carry` with the gradients of a tile of queries to [keys, values], and those to it and to the scale of each."""
    leading, weighting = carry.shape[:-2], run.weighting
    to_tokens = _own(carry)
    to_query, to_scale = (np.empty((*leading, query.shape[-2], n), query.dtype) for n in (query.shape[-1], 1))
    _meet_vjp(
        *(matrices(each, leading) for each in (query, kept, cotangent, key, value, scale, kept_of(mask))),
        *(float(weighting.beta), float(weighting.gamma), weighting.normalise, run.mean_size_one),
        *(_by_head(each) for each in (to_tokens, to_query, to_scale)),
    )
    return to_tokens, (to_query, to_scale)


def _own(carry: Array) -> Array:
    """Return sums that may be added to: those of the tile before, or a copy of the zeros that a walk starts from."""
    return carry if carry.flags.writeable and carry.flags.c_contiguous else carry.copy()


def _by_head(array: Array) -> Array:
    """Return a new array as (heads, rows, columns)."""
    return array.reshape((math.prod(array.shape[:-2]), *array.shape[-2:]))


@compiled
def _read_vjp(
    query: Array, kept: Array, cotangent: Array, weighted: Array, scale: Array, beta: float, gamma: float,
    normalise: bool, mean_size_one: bool, state: Array, to_query: Array, to_scale: Array,
) -> None:  # fmt: skip
    """Write the gradients to queries, (heads, tokens, head_dim), and to the scale of each; add those to a state to it."""
    heads, (_, length, dim), columns = state.shape[0], query.shape, cotangent.shape[2]
    width, lanes, kind = dim + 1, BYTES // query.itemsize, query.dtype.type
    offsets, padded, rows = width // 2 + 1, n_vectors(columns, query) * lanes, n_rows(width)
    units, tile, back = zeros(width * TOKENS, query), zeros(rows * TOKENS, query), zeros(rows * TOKENS, query)
    across, panels = zeros((columns + 1) * TOKENS, query), zeros(TOKENS * padded, query)
    sums, moments = zeros(width * offsets * padded, query), zeros(width * offsets * lanes, query)
    totals, everything, beta, gamma = np.zeros(columns + 1, query.dtype), np.empty(0, np.bool_), kind(beta), kind(gamma)
    for head in range(heads):
        own, factor = of_head(query, head), of_head(scale, head)[0, 0]
        outputs, given, flat = of_head(kept, head), of_head(cotangent, head), of_head(weighted, head).reshape(-1)
        sums[:] = 0
        moments[:] = 0
        totals[:] = 0
        to_counts = kind(0)
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            prepare(own, everything, first, tokens, kind(1), beta, normalise, units, False)
            scale_rows(units, factor, dim, tile)
            to_counts += take_gradients(outputs, given, first, tokens, dim, mean_size_one, across)
            lay_across(across, tokens, columns, panels)
            back[:] = 0
            add_back(tile, flat, across, tokens, width, columns + 1, back)
            fold_rows(back, width, rows)
            give_gradients(
                own, everything, first, tokens, units, factor, normalise, back, to_query[head], to_scale[head, :, 0]
            )  # fmt: skip
            add_features(tile, across[columns * TOKENS :], panels, tokens, width, columns, sums, moments)
            for column in range(columns + 1):
                totals[column] += across[column * TOKENS : (column + 1) * TOKENS].sum()
        _add_state(sums, moments, width, gamma, totals, to_counts, state[head])


@compiled
def _add_state(
    sums: Array, moments: Array, width: int, gamma: float, totals: Array, to_counts: float, state: Array
) -> None:
    """Add sums and moments to a state, and gamma times totals to the row behind it."""
    row = np.empty(totals.shape[0], state.dtype)
    for i in range(width):
        for offset in range(n_far(i, width)):
            give_row(sums, moments, width, i, offset, row)
            _add(row, row.dtype.type(1), state[offset * width + i])
    _add(totals, gamma, state[-1])
    state[-1, -1] += to_counts


@compiled
def _add(row: Array, factor: float, total: Array) -> None:
    for column in range(total.shape[0]):
        total[column] += row[column] * factor


@compiled
def _summarise_vjp(
    key: Array, value: Array, kept: Array, to_state: Array, normalise: bool, to_key: Array, to_value: Array
) -> None:
    """Write the gradients to keys, (heads, tokens, head_dim), and values, from that to their state."""
    heads, length, dim = to_key.shape
    width, columns, one = dim + 1, value.shape[2], key.dtype.type(1)
    tile, back, alongs = zeros(width * TOKENS, key), zeros(width * TOKENS, key), np.empty(length, key.dtype)
    across, read = zeros((columns + 1) * TOKENS, key), zeros((columns + 1) * TOKENS, key)
    form = zeros(width * width * (columns + 1), key)
    for head in range(heads):
        keys, values, own = of_head(key, head), of_head(value, head), of_head(kept, head)[0]
        take_form(of_head(to_state, head), width, form)
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            prepare(keys, own, first, tokens, one, one, normalise, tile, False)
            take_rows(values, own, first, tokens, 2 * one, across)
            back[:] = 0
            read[:] = 0
            add_read_and_back(tile, form, across, tokens, width, columns + 1, read, back)
            give_gradients(keys, own, first, tokens, tile, one, normalise, back, to_key[head], alongs)
            give_rows(own, first, tokens, read, to_value[head])


@compiled
def _meet_vjp(
    query: Array, kept: Array, cotangent: Array, key: Array, value: Array, scale: Array, mask: Array,
    beta: float, gamma: float, normalise: bool, mean_size_one: bool, to_tokens: Array, to_query: Array, to_scale: Array,
) -> None:  # fmt: skip
    """Write the gradients to queries, (heads, tokens, head_dim), and to the scale of each; add those to [keys, values].

    All queries are prepared and all their gradients stand by, so that a key is prepared once for all of them.
    """
    heads, (_, n_queries, dim), (_, n_keys, columns) = to_tokens.shape[0], query.shape, value.shape
    width, kind, one = dim + 1, query.dtype.type, query.dtype.type(1)
    n_tiles, of_tile, of_sums = -(-n_queries // TOKENS), width * TOKENS, (columns + 1) * TOKENS
    of_panels = n_vectors(dim, query) * (BYTES // query.itemsize) * TOKENS
    near, units, cotangents = zeros(n_tiles * of_tile, query), zeros(of_tile, query), zeros(n_tiles * of_sums, query)
    to_queries, rows = zeros(n_tiles * of_panels, query), zeros(of_panels, query)
    far, values, to_keys, to_values = (
        zeros(of_tile, query),
        zeros(of_sums, query),
        zeros(of_tile, query),
        zeros(of_sums, query),
    )
    squares, to_scores, totals = scores_memory(query), scores_memory(query), np.zeros(columns, query.dtype)
    found, alongs = np.empty((TOKENS, dim + columns), query.dtype), np.empty(TOKENS, query.dtype)
    everything, beta, gamma = np.empty(0, np.bool_), kind(beta), kind(gamma)
    for head in range(heads):
        queries, keys, own, factor = (
            of_head(query, head),
            of_head(key, head),
            of_head(mask, head)[0],
            of_head(scale, head)[0, 0],
        )
        to_queries[:] = 0
        totals[:] = 0
        for tile in range(n_tiles):
            first, tokens = tile * TOKENS, min(TOKENS, n_queries - tile * TOKENS)
            prepare(queries, everything, first, tokens, factor, beta, normalise, near[tile * of_tile :], False)
            across = cotangents[tile * of_sums :]
            take_gradients(of_head(kept, head), of_head(cotangent, head), first, tokens, dim, mean_size_one, across)
            for column in range(columns):
                totals[column] += across[column * TOKENS : (column + 1) * TOKENS].sum() * gamma
        for first in range(0, n_keys, TOKENS):
            tokens = min(TOKENS, n_keys - first)
            prepare(keys, own, first, tokens, one, one, normalise, far, False)
            take_rows(of_head(value, head), own, first, tokens, 2 * one, values)
            lay_across(far, tokens, dim, rows)
            to_keys[:] = 0
            for column in range(columns):
                to_values[column * TOKENS : (column + 1) * TOKENS] = totals[column]
            for tile in range(n_tiles):
                add_scores_back(
                    near[tile * of_tile :], cotangents[tile * of_sums :], far, values, rows,
                    min(TOKENS, n_queries - tile * TOKENS), tokens, width, columns + 1,
                    squares, to_scores, to_queries[tile * of_panels :], to_keys, to_values,
                )  # fmt: skip
            give_gradients(keys[first:], own[first:], 0, tokens, far, one, normalise, to_keys, found[:, :dim], alongs)
            give_rows(own[first:], 0, tokens, to_values, found[:, dim:])
            for token in range(tokens):
                _add(found[token], one, to_tokens[head, first + token])
        for tile in range(n_tiles):
            first, tokens = tile * TOKENS, min(TOKENS, n_queries - tile * TOKENS)
            prepare(queries, everything, first, tokens, one, beta, normalise, units, False)
            take_across(to_queries[tile * of_panels :], tokens, dim, to_keys)
            give_gradients(
                queries, everything, first, tokens, units, factor, normalise, to_keys, to_query[head], to_scale[head, :, 0]
            )  # fmt: skip
