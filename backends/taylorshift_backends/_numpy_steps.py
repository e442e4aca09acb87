"""The steps of both forms, compiled whole: from tokens as they were given to states and outputs, TOKENS at a time.

What the core does between the products (normalise, augment, divide) is a pass through memory each in NumPy, and at small
head dimensions they take longer than the products; here it happens where the tile lies in the cache. A step takes all
heads, and shares them among threads, see `_numpy_crew`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_compiled import leading_of, matrices
from taylorshift_backends._numpy_crew import operand, operands_at
from taylorshift_backends._numpy_features import (
    add_features,
    give_row,
    give_state,
    n_rows,
    quadratic_form,
    read_features,
    scale_squares,
    take_readable,
    take_state,
)
from taylorshift_backends._numpy_jit import compiled, job
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_pairs import add_scores, add_triangle, scores_memory
from taylorshift_backends._numpy_panels import (
    all_finite,
    divide,
    divide_row,
    factors_of,
    memory,
    n_vectors,
    of_head,
    panels_memory,
    take_columns,
    zeros,
)
from taylorshift_backends._numpy_rows import prepare
from taylorshift_backends._numpy_threads import crew, n_threads
from taylorshift_backends._numpy_vectors import BYTES
from taylorshift_core.features import n_features

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any
_WIDE = 40  # rows of a tile: from here on a chunk's scores are few beside the features, and chunks are longer
_WORTH_A_THREAD = 400_000  # multiplications: below it, a thread is not waited for
SHORTEST_PART = 256  # tokens of an item that are worth its beginning, if a thread has nothing to do otherwise
SHORTEST_SUM = 512  # tokens of one that takes or gives a state
_ITEMS = 4  # of a job for each thread, where heads are few: a thread may come late
_LONG = 8  # shortest parts in one of so many: each begins with a state to take, or zeros to write
_WHOLE = 48  # tokens: parts end behind whole blocks of all kernels
_EVERYTHING = np.empty((1, 0), np.bool_)
# The numbers in the operand of options.
NORMALISE, BETA, GAMMA, MEAN_SIZE_ONE, KEEP, PARTS = range(6)


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
    heads, n_columns = math.prod(leading), _n_columns(run, state.shape[-1] - 1)
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
    heads, n_columns = math.prod(leading), _n_columns(run, value.shape[-1])
    threads = threads_for(heads * length * key.shape[-2] * (query.shape[-1] + value.shape[-1]))
    parts = max(parts_for(heads, length, threads, SHORTEST_PART), -(-length // run.plan.query_tile))
    output = np.empty((*leading, length, n_columns), query.dtype)
    do(
        _meet_job, heads * parts, threads, leading, (query, key, value, scale, kept_of(mask)), options_of(run, parts),
        output.reshape((heads, length, n_columns)),
    )  # fmt: skip
    return (output,)


def scan(run: Run, carry: Array, query: Array, key: Array, value: Array, *rest: Array) -> tuple[Array, tuple[Array]]:
    """Return the state behind a tile of tokens, and the outputs of its queries over the keys before them and their own."""
    mask, scale = rest if len(rest) > 1 else (None, rest[0])
    leading, heads, columns = carry.shape[:-2], math.prod(carry.shape[:-2]), _n_columns(run, value.shape[-1])
    groups = math.prod(query.shape[:-2]) // max(heads, 1)
    state, output = np.empty(carry.shape, carry.dtype), np.empty((*query.shape[:-1], columns), query.dtype)
    _scan(
        matrices(carry, leading),
        np.ascontiguousarray(query).reshape((heads, groups, *query.shape[-2:])),
        *(matrices(each, leading) for each in (key, value, kept_of(mask))),
        np.ascontiguousarray(np.broadcast_to(scale[..., 0, 0], query.shape[:-2])).reshape((heads, groups)),
        *_scan_options(run),
        state.reshape((heads, *state.shape[-2:])),
        output.reshape((heads, groups, *output.shape[-2:])),
    )
    return state, (output,)


def _scan_options(run: Run) -> tuple[float, float, bool, bool, bool]:
    weighting = run.weighting
    return float(weighting.beta), float(weighting.gamma), weighting.normalise, run.mean_size_one, run.keep


def threads_for(work: int) -> int:
    """Return how many threads so many multiplications are worth."""
    return 1 if work < 2 * _WORTH_A_THREAD else min(n_threads(), work // _WORTH_A_THREAD)


def parts_for(heads: int, length: int, threads: int, shortest: int) -> int:
    """Return in how many parts the tokens of each head are taken, so that all threads have as much work."""
    if threads == 1 or heads >= _ITEMS * threads:
        return 1
    fair = threads // math.gcd(heads, threads)
    times = min(_ITEMS * threads // (max(heads, 1) * fair), length // (_LONG * shortest * fair))
    return max(1, min(fair * max(1, times), length // shortest))


def do(
    job: Any, items: int, threads: int, leading: tuple[int, ...], operands: tuple[Array, ...], options: Array,
    *results: Array,
) -> None:  # fmt: skip
    """Have a job done for matrices of operands whose leading axes broadcast, with options, to results."""
    dtype, others = results[0].dtype, (options, *results)
    found, shares = zip(*(_matrices(each, leading, dtype) for each in operands), strict=True)
    crew().do(job(dtype), items, threads, (*found, *others), (*shares, *[1] * len(others)))


def _matrices(array: Array, leading: tuple[int, ...], dtype: Any) -> tuple[Array, int]:
    """Return an array as (matrices, rows, columns), contiguous, and how many heads in a row share a matrix."""
    own, share = array.shape[:-2], 1
    if own != leading:
        full = (1,) * (len(leading) - len(own)) + own
        last = next((i for i in reversed(range(len(full))) if full[i] != 1), -1) + 1
        first = next((i for i in range(last) if full[i] != 1), last)
        if full[first:last] == leading[first:last]:
            share = math.prod(leading[last:])
        else:
            array, own = np.broadcast_to(array, (*leading, *array.shape[-2:])), leading
    found = array.reshape((math.prod(own), *array.shape[-2:]))
    if found.dtype not in (dtype, np.bool_) or not found.flags.c_contiguous:
        found = np.ascontiguousarray(found, np.bool_ if found.dtype == np.bool_ else dtype)
    return found, share


def kept_of(mask: Array | None) -> Array:
    """Return which keys are attended, (..., 1, tokens), or no columns for all of them."""
    return _EVERYTHING if mask is None else np.swapaxes(mask, -1, -2)


def _n_columns(run: Run, value_dim: int) -> int:
    return value_dim + run.keep + (run.keep and run.mean_size_one)


def options_of(run: Run, parts: int) -> Array:
    weighting = run.weighting
    numbers = weighting.normalise, weighting.beta, weighting.gamma, run.mean_size_one, run.keep, parts
    return np.asarray(numbers, np.float64).reshape((1, 1, -1))


@compiled
def part_at(item: int, parts: int, length: int) -> tuple[int, int, int]:
    """Return the head of an item, and the first token of its part and the one behind the last."""
    head, part, blocks = item // parts, item % parts, -(-length // _WHOLE)
    return head, min(blocks * part // parts * _WHOLE, length), min(blocks * (part + 1) // parts * _WHOLE, length)


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
            _count(kept, first, tokens, counts)
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
        state, form = zeros(width * offsets * padded, query), zeros(width * offsets, query)
        factors, shift = memory(TOKENS, query), memory(columns, query)
        size = kind(_size(total[columns], dim, mean_size_one))
        take_readable(weighted, width, state, form)
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
            _count(kept, first, tokens, counts)
            take_columns(value, kept, first, tokens, columns, panels)
            _add_totals(value, kept, first, tokens, totals)
            for tile in range(n_tiles):
                start = tile * TOKENS
                add_scores(
                    near[tile * of_tile :], far, counts, panels, min(TOKENS, end - begin - start), tokens, width, columns,
                    scores, sums[start * padded :], normalisers[start * lanes :],
                )  # fmt: skip
        size = kind(_size(totals[columns], dim, mean_size_one))
        for tile in range(n_tiles):
            start, tokens = tile * TOKENS, min(TOKENS, end - begin - tile * TOKENS)
            for row in range(tokens):
                place = (start + row) * lanes
                last[row] = normalisers[place : place + lanes].sum()
            factors_of(last, totals, gamma, size, keep, begin + start, tokens, output, factors)
            divide(sums[start * padded :], totals, gamma, factors, begin + start, tokens, output, shift)

    return meet


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
                    divide_row(found, token, last[token], totals, gamma, size, keep, outputs[first + token])
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
