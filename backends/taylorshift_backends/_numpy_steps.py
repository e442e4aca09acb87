"""The steps of both forms, compiled whole: from tokens as they were given to states and outputs, TOKENS at a time.

What the core does between the products (normalise, augment, divide) is a pass through memory each in NumPy, and at small
head dimensions they take longer than the products; here it happens where the tile lies in the cache. A step takes all
heads, and shares them among threads, see `_numpy_crew`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_compiled import leading_of
from taylorshift_backends._numpy_crew import operand, operands_at
from taylorshift_backends._numpy_features import (
    add_features,
    add_lanes,
    give_state,
    n_rows,
    read_features,
    take_state,
)
from taylorshift_backends._numpy_items import (
    BETA,
    GAMMA,
    KEEP,
    MEAN_SIZE_ONE,
    NORMALISE,
    PARTS,
    SHORTEST_PART,
    SHORTEST_SUM,
    do,
    kept_of,
    n_columns_of,
    options_of,
    part_at,
    parts_for,
    threads_for,
)
from taylorshift_backends._numpy_jit import compiled, job
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_pairs import add_scores, scores_memory
from taylorshift_backends._numpy_panels import (
    count,
    divide,
    factors_of,
    memory,
    n_vectors,
    panels_memory,
    size_of,
    take_columns,
    zeros,
)
from taylorshift_backends._numpy_rows import prepare
from taylorshift_backends._numpy_vectors import BYTES
from taylorshift_core.features import n_features

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any


def summarise(run: Run, key: Array, value: Array, mask: Array | None = None) -> tuple[Array]:
    """Return the state of keys and values."""
    tokens = (key, value) if mask is None else (key, value, mask)
    leading, (length, dim), columns = leading_of(*tokens), key.shape[-2:], value.shape[-1] + 1
    heads, rows = math.prod(leading), n_features(dim + 1)
    threads = threads_for(heads * length * rows * columns)
    parts = parts_for(heads, length, threads, SHORTEST_SUM)
    states = np.empty((heads * parts, rows, columns), key.dtype)
    do(_summarise_job, heads * parts, threads, leading, (key, value, kept_of(mask)), options_of(run, parts), states)
    if parts > 1:
        states = np.sum(states.reshape((heads, parts, rows, columns)), axis=1)
    return (states.reshape((*leading, rows, columns)),)


def read(run: Run, query: Array, state: Array, scale: Array) -> tuple[Array]:
    """Return the outputs of queries over the keys in a state."""
    leading, length = leading_of(query, state, scale), query.shape[-2]
    heads, n_columns = math.prod(leading), n_columns_of(run, state.shape[-1] - 1)
    threads = threads_for(heads * length * math.prod(state.shape[-2:]))
    parts = parts_for(heads, length, threads, SHORTEST_SUM)
    output = np.empty((*leading, length, n_columns), query.dtype)
    do(
        _read_job, heads * parts, threads, leading, (query, state, scale), options_of(run, parts),
        output.reshape((heads, length, n_columns)),
    )  # fmt: skip
    return (output,)


def meet(run: Run, query: Array, key: Array, value: Array, scale: Array, mask: Array | None = None) -> tuple[Array]:
    """Return the outputs of queries over all keys."""
    operands = (query, key, value, scale) if mask is None else (query, key, value, scale, mask)
    leading, length = leading_of(*operands), query.shape[-2]
    heads, n_columns = math.prod(leading), n_columns_of(run, value.shape[-1])
    threads = threads_for(heads * length * key.shape[-2] * (query.shape[-1] + value.shape[-1]))
    parts = max(parts_for(heads, length, threads, SHORTEST_PART), -(-length // run.plan.query_tile))
    output = np.empty((*leading, length, n_columns), query.dtype)
    do(
        _meet_job, heads * parts, threads, leading, (query, key, value, scale, kept_of(mask)), options_of(run, parts),
        output.reshape((heads, length, n_columns)),
    )  # fmt: skip
    return (output,)


@job
def _summarise_job(kind: Any) -> Any:
    """Write the states of parts of keys and values."""

    def summarise(address: int, item: int) -> None:
        given = operands_at(address)
        options, one = operand(given, 3, 0, np.float64)[0], kind(1)
        parts = int(options[PARTS])
        length = operand(given, 0, 0, kind).shape[0]
        head, begin, end = part_at(item, parts, length)
        key, value, kept = (
            operand(given, 0, head, kind),
            operand(given, 1, head, kind),
            operand(given, 2, head, np.bool_)[0],
        )
        width, columns, lanes = key.shape[1] + 1, value.shape[1], BYTES // key.itemsize
        offsets, padded = width // 2 + 1, n_vectors(columns, key) * lanes
        tile, counts, panels = memory(n_rows(width) * TOKENS, key), memory(TOKENS, key), panels_memory(columns, key)
        sums, moments = zeros(width * offsets * padded, key), zeros(width * offsets * lanes, key)
        for first in range(begin, end, TOKENS):
            tokens = min(TOKENS, end - first)
            prepare(key, kept, first, tokens, one, one, options[NORMALISE] != 0, tile, True)
            count(kept, first, tokens, counts)
            take_columns(value, kept, first, tokens, columns, panels)
            add_features(tile, counts, panels, tokens, width, columns, sums, moments)
        give_state(sums, moments, width, operand(given, 4, item, kind))

    return summarise


@job
def _read_job(kind: Any) -> Any:
    """Write the outputs of parts of queries over states."""

    def read(address: int, item: int) -> None:
        given = operands_at(address)
        options = operand(given, 3, 0, np.float64)[0]
        normalise, mean_size_one, keep = options[NORMALISE] != 0, options[MEAN_SIZE_ONE] != 0, options[KEEP] != 0
        beta, gamma, everything = kind(options[BETA]), kind(options[GAMMA]), np.empty(0, np.bool_)
        length = operand(given, 0, 0, kind).shape[0]
        head, begin, end = part_at(item, int(options[PARTS]), length)
        query, weighted, factor = (
            operand(given, 0, head, kind),
            operand(given, 1, head, kind),
            operand(given, 2, head, kind)[0, 0],
        )
        output, dim, columns = operand(given, 4, head, kind), query.shape[1], weighted.shape[1] - 1
        width, total = dim + 1, weighted[dim]
        offsets, padded = width // 2 + 1, n_vectors(columns, query) * (BYTES // query.itemsize)
        tile, last, panels = (
            memory(n_rows(width) * TOKENS, query),
            memory(TOKENS, query),
            memory(TOKENS * padded, query),
        )
        state, form = memory(width * offsets * padded, query), memory(width * offsets, query)
        factors, shift = memory(TOKENS, query), memory(columns, query)
        size = kind(size_of(total[columns], dim, mean_size_one))
        take_state(weighted, width, kind(1), kind(2), state, form)
        for first in range(begin, end, TOKENS):
            tokens = min(TOKENS, end - first)
            prepare(query, everything, first, tokens, factor, beta, normalise, tile, True)
            read_features(tile, state, form, tokens, width, columns, panels, last)
            factors_of(last, total, gamma, size, keep, first, tokens, output, factors)
            divide(panels, total, gamma, factors, first, tokens, output, shift)

    return read


@job
def _meet_job(kind: Any) -> Any:
    """Write the outputs of parts of queries over keys and values.

    All queries of a part are prepared and all their sums stand by, so that a key is prepared once for all of them.
    """

    def meet(address: int, item: int) -> None:
        given = operands_at(address)
        options = operand(given, 5, 0, np.float64)[0]
        normalise, mean_size_one, keep = options[NORMALISE] != 0, options[MEAN_SIZE_ONE] != 0, options[KEEP] != 0
        beta, gamma, everything, one = kind(options[BETA]), kind(options[GAMMA]), np.empty(0, np.bool_), kind(1)
        length = operand(given, 0, 0, kind).shape[0]
        head, begin, end = part_at(item, int(options[PARTS]), length)
        query, key, value = operand(given, 0, head, kind), operand(given, 1, head, kind), operand(given, 2, head, kind)
        factor, kept, output = (
            operand(given, 3, head, kind)[0, 0],
            operand(given, 4, head, np.bool_)[0],
            operand(given, 6, head, kind),
        )
        n_keys, dim, columns = key.shape[0], query.shape[1], value.shape[1]
        width, lanes, n_tiles = dim + 1, BYTES // key.itemsize, -(-(end - begin) // TOKENS)
        padded, of_tile = n_vectors(columns, key) * lanes, width * TOKENS
        near, far, counts = memory(n_tiles * of_tile, key), memory(of_tile, key), memory(TOKENS, key)
        panels, sums = panels_memory(columns, key), zeros(n_tiles * TOKENS * padded, key)
        normalisers, scores = zeros(n_tiles * TOKENS * lanes, key), scores_memory(key)
        totals, last, factors, shift = (
            zeros(columns + 1, key),
            memory(TOKENS, key),
            memory(TOKENS, key),
            memory(columns, key),
        )
        for tile in range(n_tiles):
            start = begin + tile * TOKENS
            prepare(
                query,
                everything,
                start,
                min(TOKENS, end - start),
                factor,
                beta,
                normalise,
                near[tile * of_tile :],
                False,
            )
        for first in range(0, n_keys, TOKENS):
            tokens = min(TOKENS, n_keys - first)
            prepare(key, kept, first, tokens, one, one, normalise, far, False)
            count(kept, first, tokens, counts)
            take_columns(value, kept, first, tokens, columns, panels)
            _add_totals(value, kept, first, tokens, totals)
            for tile in range(n_tiles):
                start = tile * TOKENS
                add_scores(
                    near[tile * of_tile :], far, counts, panels, min(TOKENS, end - begin - start), tokens, width, columns,
                    scores, sums[start * padded :], normalisers[start * lanes :],
                )  # fmt: skip
        size = kind(size_of(totals[columns], dim, mean_size_one))
        for tile in range(n_tiles):
            start, tokens = tile * TOKENS, min(TOKENS, end - begin - tile * TOKENS)
            last[:] = 0
            add_lanes(normalisers[start * lanes :], tokens, last)
            factors_of(last, totals, gamma, size, keep, begin + start, tokens, output, factors)
            divide(sums[start * padded :], totals, gamma, factors, begin + start, tokens, output, shift)

    return meet


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
