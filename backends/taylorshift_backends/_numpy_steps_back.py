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
from taylorshift_backends._numpy_panels import n_vectors, of_head, zeros
from taylorshift_backends._numpy_rows import prepare
from taylorshift_backends._numpy_rows_back import (
    fold_rows,
    give_gradients,
    give_rows,
    lay_across,
    scale_rows,
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
    state = np.empty(carry.shape, carry.dtype)
    to_query, to_scale = (np.empty((*leading, query.shape[-2], n), query.dtype) for n in (query.shape[-1], 1))
    _read_vjp(
        *(matrices(each, leading) for each in (carry, query, kept, cotangent, weighted, scale)),
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


def _by_head(array: Array) -> Array:
    """Return a new array as (heads, rows, columns)."""
    return array.reshape((math.prod(array.shape[:-2]), *array.shape[-2:]))


@compiled
def _read_vjp(
    carry: Array, query: Array, kept: Array, cotangent: Array, weighted: Array, scale: Array, beta: float, gamma: float,
    normalise: bool, mean_size_one: bool, state: Array, to_query: Array, to_scale: Array,
) -> None:  # fmt: skip
    """Write the gradients to queries, (heads, tokens, head_dim), to the scale of each, and, added to carry, to a state."""
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
        _add_state(of_head(carry, head), sums, moments, width, gamma, totals, to_counts, state[head])


@compiled
def _add_state(
    carry: Array, sums: Array, moments: Array, width: int, gamma: float, totals: Array, to_counts: float, state: Array
) -> None:
    """Write carry with sums and moments added, and in the last row with gamma times totals."""
    columns, row = totals.shape[0], np.empty(totals.shape[0], state.dtype)
    for i in range(width):
        for offset in range(n_far(i, width)):
            give_row(sums, moments, width, i, offset, row)
            there, into = carry[offset * width + i], state[offset * width + i]
            for column in range(columns):
                into[column] = there[column] + row[column]
    for column in range(columns):
        state[-1, column] = carry[-1, column] + gamma * totals[column]
    state[-1, -1] += to_counts


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
