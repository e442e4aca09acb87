"""The steps of gradients, compiled whole as those of `_numpy_steps`: from gradients of outputs to those of tokens and states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_compiled import leading_of
from taylorshift_backends._numpy_crew import operand, operands_at
from taylorshift_backends._numpy_features import add_features, give_state, n_rows
from taylorshift_backends._numpy_features_back import add_back, add_read_and_back, take_form
from taylorshift_backends._numpy_items import (
    BETA,
    GAMMA,
    MEAN_SIZE_ONE,
    NORMALISE,
    PARTS,
    SHORTEST_SUM,
    do,
    kept_of,
    options_of,
    part_at,
    part_of_triangle_at,
    parts_for,
    threads_for,
)
from taylorshift_backends._numpy_jit import compiled, job
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_pairs import scores_memory
from taylorshift_backends._numpy_pairs_back import add_scores_back
from taylorshift_backends._numpy_panels import memory, n_vectors, panels_memory, zeros
from taylorshift_backends._numpy_rows import prepare, prepare_with
from taylorshift_backends._numpy_rows_back import (
    fold_rows,
    give_rows,
    lay_across,
    pull_rows,
    scale_rows,
    take_across,
    take_gradients,
    take_values,
)
from taylorshift_backends._numpy_vectors import BYTES

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any
Arrays = tuple[Array, ...]


def read_vjp(
    run: Run, query: Array, kept: Array, cotangent: Array, scale: Array, state: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients to queries, to the scale of each, and to the state that they read."""
    operands = query, kept, cotangent, scale, state
    leading, (length, dim), (rows, columns) = leading_of(*operands), query.shape[-2:], state.shape[-2:]
    heads = math.prod(leading)
    threads = threads_for(2 * heads * length * rows * columns)
    parts = parts_for(heads, length, threads, SHORTEST_SUM)
    to_query, to_scale = (np.empty((*leading, length, n), query.dtype) for n in (dim, 1))
    states = np.empty((heads * parts, rows, columns), query.dtype)
    results = _by_head(to_query), _by_head(to_scale), states
    do(_read_vjp_job, heads * parts, threads, leading, operands, options_of(run, parts), *results)
    return to_query, to_scale, _summed(states, leading, parts)


def summarise_vjp(run: Run, key: Array, value: Array, *rest: Array) -> tuple[Array, Array]:
    """Return the gradients to keys and values, from that to the state; `rest` is (mask, state) or (state,)."""
    mask, state = rest if len(rest) > 1 else (None, rest[0])
    leading, length = leading_of(key, value, *rest), key.shape[-2]
    heads = math.prod(leading)
    threads = threads_for(2 * heads * length * math.prod(state.shape[-2:]))
    parts = parts_for(heads, length, threads, SHORTEST_SUM)
    to_key, to_value = (np.empty((*leading, *each.shape[-2:]), each.dtype) for each in (key, value))
    operands, results = (key, value, kept_of(mask), state), (_by_head(to_key), _by_head(to_value))
    do(_summarise_vjp_job, heads * parts, threads, leading, operands, options_of(run, parts), *results)
    return to_key, to_value


def meet_vjp(
    run: Run,
    query: Array,
    kept: Array,
    cotangent: Array,
    scale: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    is_causal: bool = False,
) -> tuple[Array, Array, Array, Array]:
    """Return the gradients to queries, to the scale of each, to keys, and to values, where every query sees all keys.

    Or, `is_causal`, those up to its own place; then there are as many queries as keys.
    """
    given = query, kept, cotangent, scale, key, value
    leading, (length, dim) = leading_of(*given, *(() if mask is None else (mask,))), query.shape[-2:]
    heads = math.prod(leading)
    threads = threads_for(3 * heads * length * key.shape[-2] * (dim + value.shape[-1]))
    # As few parts as give each thread one: each holds gradients to all keys of its own.
    parts = min(-(-threads // max(heads, 1)), -(-length // TOKENS))
    to_query, to_scale = (np.empty((*leading, length, n), query.dtype) for n in (dim, 1))
    to_key, to_value = (np.zeros((heads * parts, *each.shape[-2:]), query.dtype) for each in (key, value))
    results = _by_head(to_query), _by_head(to_scale), to_key, to_value
    options = np.append(options_of(run, parts), (run.plan.query_tile, is_causal)).reshape((1, 1, -1))
    do(_meet_vjp_job, heads * parts, threads, leading, (*given, kept_of(mask)), options, *results)
    return to_query, to_scale, _summed(to_key, leading, parts), _summed(to_value, leading, parts)


def meet_causal_vjp(run: Run, *arrays: Array) -> tuple[Array, Array, Array, Array]:
    """Return the gradients of `meet_vjp` where a query sees the keys up to its own place."""
    return meet_vjp(run, *arrays, is_causal=True)


def _by_head(array: Array) -> Array:
    """Return a new array as (heads, rows, columns)."""
    return array.reshape((math.prod(array.shape[:-2]), *array.shape[-2:]))


def _summed(found: Array, leading: tuple[int, ...], parts: int) -> Array:
    """Return the sums of the parts of each head."""
    matrix = found.shape[-2:]
    if parts > 1:
        found = np.sum(found.reshape((math.prod(leading), parts, *matrix)), axis=1)
    return found.reshape((*leading, *matrix))


@job
def _read_vjp_job(kind: Any) -> Any:
    """Write the gradients of parts of queries."""

    def read_vjp(address: int, item: int) -> None:
        given = operands_at(address)
        options = operand(given, 5, 0, np.float64)[0]
        normalise, mean_size_one = options[NORMALISE] != 0, options[MEAN_SIZE_ONE] != 0
        beta, gamma, everything = kind(options[BETA]), kind(options[GAMMA]), np.empty(0, np.bool_)
        head, begin, end = part_at(item, int(options[PARTS]), operand(given, 0, 0, kind).shape[0])
        query, kept, cotangent = (
            operand(given, 0, head, kind),
            operand(given, 1, head, kind),
            operand(given, 2, head, kind),
        )
        factor, state = operand(given, 3, head, kind)[0, 0], operand(given, 4, head, kind)
        to_query, to_scale = operand(given, 6, head, kind), operand(given, 7, head, kind)
        dim, columns, lanes = query.shape[1], cotangent.shape[1], BYTES // query.itemsize
        width = dim + 1
        offsets, padded, rows = width // 2 + 1, n_vectors(columns, query) * lanes, n_rows(width)
        units, tile, back = memory(width * TOKENS, query), memory(rows * TOKENS, query), memory(rows * TOKENS, query)
        across, outputs = memory((columns + 1) * TOKENS, query), memory(kept.shape[1] * TOKENS, query)
        panels, factors, totals = panels_memory(columns, query), memory(TOKENS, query), zeros(columns + 1, query)
        sums, moments = zeros(width * offsets * padded, query), zeros(width * offsets * lanes, query)
        weighted, to_counts = memory(state.size, query), 0.0
        _take_weighted(state, width, weighted)
        for first in range(begin, end, TOKENS):
            tokens = min(TOKENS, end - first)
            prepare_with(query, everything, first, tokens, kind(1), beta, normalise, units, False, factors)
            scale_rows(units, factor, width, tile)
            to_counts += take_gradients(kept, cotangent, first, tokens, dim, mean_size_one, outputs, across)
            lay_across(across, tokens, columns, panels)
            back[:] = 0
            add_back(tile, weighted, across, tokens, width, columns + 1, back)
            fold_rows(back, width, rows)
            pull_rows(query, first, tokens, units, factors, factor, normalise, back)
            give_rows(everything, first, tokens, back, to_query)
            to_scale[first : first + tokens, 0] = back[dim * TOKENS : dim * TOKENS + tokens]
            add_features(tile, across[columns * TOKENS :], panels, tokens, width, columns, sums, moments)
            _add_totals(across, totals)
        _give_readable(sums, moments, width, gamma, totals, to_counts, operand(given, 8, item, kind))

    return read_vjp


@compiled
def _take_weighted(state: Array, width: int, weighted: Array) -> None:
    """Write a state, each row times the multiplicity of its feature."""
    flat, squares = state.reshape(state.size), width * state.shape[1]
    for place in range(squares):
        weighted[place] = flat[place]
    for place in range(squares, state.size):
        weighted[place] = 2 * flat[place]


@compiled
def _add_totals(across: Array, totals: Array) -> None:
    """Add the sums of the columns of a tile to totals."""
    for column in range(totals.shape[0]):
        totals[column] += across[column * TOKENS : (column + 1) * TOKENS].sum()


@compiled
def _fill(totals: Array, tile: Array) -> None:
    """Write a number a column to all tokens of a tile."""
    for column in range(totals.shape[0]):
        tile[column * TOKENS : (column + 1) * TOKENS] = totals[column]


@compiled
def _add_later(cotangents: Array, begin: int, end: int, first: int, tokens: int, totals: Array, tile: Array) -> None:
    """Write to a tile of keys the sums of the columns of their own query and those behind it, whose totals are given.

    Queries from `begin` to `end` stand in tiles of cotangents. Totals are those of the first key's query on afterwards.
    """
    columns = totals.shape[0]
    for column in range(columns):
        total = totals[column]
        for token in range(tokens - 1, -1, -1):
            query = first + token - begin
            if 0 <= query < end - begin:
                total += cotangents[(query // TOKENS * columns + column) * TOKENS + query % TOKENS]
            tile[column * TOKENS + token] = total
        tile[column * TOKENS + tokens : (column + 1) * TOKENS] = 0
        totals[column] = total


@compiled
def _give_readable(
    sums: Array, moments: Array, width: int, gamma: float, totals: Array, to_counts: float, state: Array
) -> None:
    """Write the gradient to a state: sums and moments times multiplicity, and what every query reads of the totals."""
    give_state(sums, moments, width, state)
    columns = state.shape[1]
    for row in range(width, state.shape[0]):
        for column in range(columns):
            state[row, column] *= 2
    for column in range(columns):
        state[width - 1, column] += gamma * totals[column]
    state[width - 1, columns - 1] += to_counts


@job
def _summarise_vjp_job(kind: Any) -> Any:
    """Write the gradients to parts of keys and values, from that to their state."""

    def summarise_vjp(address: int, item: int) -> None:
        given = operands_at(address)
        options, one = operand(given, 4, 0, np.float64)[0], kind(1)
        normalise = options[NORMALISE] != 0
        head, begin, end = part_at(item, int(options[PARTS]), operand(given, 0, 0, kind).shape[0])
        key, value, kept = (
            operand(given, 0, head, kind),
            operand(given, 1, head, kind),
            operand(given, 2, head, np.bool_)[0],
        )
        to_key, to_value = operand(given, 5, head, kind), operand(given, 6, head, kind)
        width, columns = key.shape[1] + 1, value.shape[1]
        tile, back, factors = memory(width * TOKENS, key), memory(width * TOKENS, key), memory(TOKENS, key)
        across, read = memory((columns + 1) * TOKENS, key), memory((columns + 1) * TOKENS, key)
        form = memory(width * width * (columns + 1), key)
        take_form(operand(given, 3, head, kind), width, form)
        for first in range(begin, end, TOKENS):
            tokens = min(TOKENS, end - first)
            prepare_with(key, kept, first, tokens, one, one, normalise, tile, False, factors)
            take_values(value, kept, first, tokens, 2 * one, across)
            back[:] = 0
            read[:] = 0
            add_read_and_back(tile, form, across, tokens, width, columns + 1, read, back)
            pull_rows(key, first, tokens, tile, factors, one, normalise, back)
            give_rows(kept, first, tokens, back, to_key)
            give_rows(kept, first, tokens, read, to_value)

    return summarise_vjp


@job
def _meet_vjp_job(kind: Any) -> Any:
    """Write the gradients of parts of queries, and add those to their keys and values, a tile of the plan at a time."""

    def meet_vjp(address: int, item: int) -> None:
        given = operands_at(address)
        options = operand(given, 7, 0, np.float64)[0]
        normalise, mean_size_one = options[NORMALISE] != 0, options[MEAN_SIZE_ONE] != 0
        longest, is_causal = int(options[-2]), options[-1] != 0
        beta, gamma = kind(options[BETA]), kind(options[GAMMA])
        parts, length = int(options[PARTS]), operand(given, 0, 0, kind).shape[0]
        if is_causal:
            head, begin, end = part_of_triangle_at(item, parts, length)
        else:
            head, begin, end = part_at(item, parts, length)
        query, kept, cotangent = (
            operand(given, 0, head, kind),
            operand(given, 1, head, kind),
            operand(given, 2, head, kind),
        )
        factor, mask = operand(given, 3, head, kind)[0, 0], operand(given, 6, head, np.bool_)[0]
        key, value = operand(given, 4, head, kind), operand(given, 5, head, kind)
        to_query, to_scale = operand(given, 8, head, kind), operand(given, 9, head, kind)
        to_key, to_value = operand(given, 10, item, kind), operand(given, 11, item, kind)
        for first in range(begin, end, longest):
            last = min(first + longest, end)
            _meet_vjp(
                query, kept, cotangent, key, value, mask, factor, beta, gamma, normalise, mean_size_one, is_causal,
                first, last, to_query, to_scale, to_key, to_value,
            )  # fmt: skip

    return meet_vjp


@compiled
def _meet_vjp(
    query: Array, kept: Array, cotangent: Array, key: Array, value: Array, mask: Array, factor: float, beta: float,
    gamma: float, normalise: bool, mean_size_one: bool, is_causal: bool, begin: int, end: int, to_query: Array,
    to_scale: Array, to_key: Array, to_value: Array,
) -> None:  # fmt: skip
    """Write the gradients of some queries of a head, and add those to its keys and values.

    All are prepared and all their gradients stand by, so that a key is prepared once for all of them. Keys come from
    the last on: causal gradients to values have a part that is a sum over all later queries.
    """
    (n_keys, columns), dim, one = value.shape, query.shape[1], value.dtype.type(1)
    width, n_tiles, everything = dim + 1, -(-(end - begin) // TOKENS), np.empty(0, np.bool_)
    of_tile, of_sums = width * TOKENS, (columns + 1) * TOKENS
    of_panels = n_vectors(dim, query) * (BYTES // query.itemsize) * TOKENS
    near, cotangents = memory(n_tiles * of_tile, query), memory(n_tiles * of_sums, query)
    to_queries, rows = zeros(n_tiles * of_panels, query), panels_memory(dim, query)
    tile, back, factors = memory(of_tile, query), memory(of_tile, query), memory(TOKENS, query)
    values, to_values, outputs = memory(of_sums, query), memory(of_sums, query), memory(kept.shape[1] * TOKENS, query)
    squares, to_scores, totals = scores_memory(query), scores_memory(query), zeros(columns + 1, query)
    found = np.empty((TOKENS, dim), query.dtype), np.empty((TOKENS, columns), query.dtype)
    for i in range(n_tiles):
        first, some = begin + i * TOKENS, min(TOKENS, end - begin - i * TOKENS)
        across = cotangents[i * of_sums : (i + 1) * of_sums]
        prepare(query, everything, first, some, factor, beta, normalise, near[i * of_tile : (i + 1) * of_tile], False)
        take_gradients(kept, cotangent, first, some, dim, mean_size_one, outputs, across)
        if not is_causal:
            _add_totals(across, totals)
    n_keys = min(n_keys, end) if is_causal else n_keys
    for first in range((n_keys - 1) // TOKENS * TOKENS, -1, -TOKENS):
        tokens = min(TOKENS, n_keys - first)
        prepare_with(key, mask, first, tokens, one, one, normalise, tile, False, factors)
        take_values(value, mask, first, tokens, 2 * one, values)
        lay_across(tile, tokens, dim, rows)
        back[:] = 0
        if is_causal:
            _add_later(cotangents, begin, end, first, tokens, totals, to_values)
        else:
            _fill(totals, to_values)
        for column in range(columns * TOKENS):
            to_values[column] *= gamma
        for i in range(n_tiles):
            ahead = begin + i * TOKENS - first if is_causal else TOKENS
            add_scores_back(
                near[i * of_tile :], cotangents[i * of_sums :], tile, values, rows,
                min(TOKENS, end - begin - i * TOKENS), tokens, ahead, width, columns + 1,
                squares, to_scores, to_queries[i * of_panels :], back, to_values,
            )  # fmt: skip
        pull_rows(key, first, tokens, tile, factors, one, normalise, back)
        give_rows(mask[first:], 0, tokens, back, found[0])
        give_rows(mask[first:], 0, tokens, to_values, found[1])
        to_key[first : first + tokens] += found[0][:tokens]
        to_value[first : first + tokens] += found[1][:tokens]
    for i in range(n_tiles):
        first, some = begin + i * TOKENS, min(TOKENS, end - begin - i * TOKENS)
        prepare_with(query, everything, first, some, one, beta, normalise, tile, False, factors)
        take_across(to_queries[i * of_panels :], some, dim, back)
        pull_rows(query, first, some, tile, factors, factor, normalise, back)
        give_rows(everything, first, some, back, to_query)
        to_scale[first : first + some, 0] = back[dim * TOKENS : dim * TOKENS + some]
