"""Gradients of causal attention in the efficient form, chunk by chunk.

Queries need the state of the keys before them, so those chunks are walked along once more; keys need the gradient of
the states after them, so chunks are then walked along from the last to the first. The direct form needs no file of its
own: there the spans of `_direct_gradients` say who sees whom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from taylorshift_core import _chunk_gradients, _efficient
from taylorshift_core._direct_gradients import scores_vjp, values_vjp
from taylorshift_core._divide import divide_vjp
from taylorshift_core._efficient_gradients import (
    features_vjp,
    query_of_read_vjp,
    readable_vjp,
    state_of_read_vjp,
    state_of_vjp,
    summarise_vjp,
    weighted_vjp,
)
from taylorshift_core._leading import leading_of, spread, sum_to, zeros
from taylorshift_core._prepare import prepare_key, prepare_value
from taylorshift_core._prepare_gradients import key_vjp, query_vjp, units_of, value_vjp
from taylorshift_core.features import apply_multiplicity, n_features
from taylorshift_core.loops import cut, join

if TYPE_CHECKING:
    from taylorshift_core._causal import Causal
    from taylorshift_core._run import Run

Array = Any
Arrays = tuple[Array, ...]


def attend_vjp(
    run: Run, causal: Causal, reading: Arrays, tokens: Arrays, scale: Array, past: Array | None, to_state: Array | None
) -> Arrays:
    """Return the gradients to queries, to the scale of each, to keys, to values, and to the state they started from.

    `reading` is (query, kept, cotangent), `tokens` is (key, value) or (key, value, mask), and `to_state` is the gradient
    to the state behind all keys, or None. Costs 5 products of features where the forward pass has 2.
    """
    gradients = _chunk_gradients.attend_vjp(run, causal, reading, tokens, scale, past, to_state)
    if gradients is not None:
        return gradients
    if to_state is None:
        shape = n_features(tokens[0].shape[-1] + 1), tokens[1].shape[-1] + 1
        to_state = zeros(run.xp, reading[1], (*leading_of(*tokens, *(() if past is None else (past,))), *shape))
    to_query = _queries_vjp(run, causal, reading, tokens, scale, past)
    return *to_query, *_keys_vjp(run, causal, reading, tokens, scale, to_state)


def _queries_vjp(run: Run, causal: Causal, reading: Arrays, tokens: Arrays, scale: Array, past: Array | None) -> Arrays:
    """Return the gradients to queries and to the scale of each, along the chunks from the first to the last."""
    xp, queries = run.xp, reading[0].shape[-2]
    prefix, end, last = causal.parts(queries, tokens[0].shape[-2])

    def step(run: Run, state: Array, *arrays: Array) -> tuple[Array, Arrays]:
        own = _Chunk.of(run, *arrays)
        keys, visible = run.xp.matrix_transpose(own.keys), causal.allowed(run.xp, own.queries)
        _, to_scores = scores_vjp(run, run.xp.matrix_transpose(own.queries), own.to_sums, keys, own.values, visible)
        weighted = apply_multiplicity(run.xp, state, own.queries.shape[-2])
        to_queries = features_vjp(run, own.queries, weighted, own.to_sums)
        to_queries = to_queries + run.xp.matrix_transpose(run.xp.matmul(to_scores, keys))
        gradients = query_vjp(run.backend, arrays[0], own.units, arrays[-1], to_queries, run.weighting)
        return state + _efficient.state_of(run, own.keys, own.values), gradients

    def summed(state: Array | None, first: int, stop: int) -> Array:
        if state is not None and first == stop:
            return state
        key, value, *rest = cut(tokens, first, stop)
        new = _efficient.summarise(run, key, value, *(rest or [None]))
        return new if state is None else state + new

    def seeing(first: int, stop: int, state: Array) -> list[Arrays]:
        if first >= stop:
            return []
        return [query_of_read_vjp(run, cut(reading, first, stop), scale, state)]

    state = summed(past, 0, prefix)
    parts = seeing(0, min(prefix, queries), state)
    if end > prefix:
        tiled = *cut(reading, prefix, end), *cut(tokens, prefix, end)
        state, outputs = run.backend.scan_tiles(run, step, state, tiled, (scale,), causal.state_chunk(run.plan))
        parts.append(outputs)
    if queries > end:
        parts += seeing(end, queries, summed(state, end, last))
    return join(xp, parts or [query_of_read_vjp(run, reading, scale, state)])


def _keys_vjp(run: Run, causal: Causal, reading: Arrays, tokens: Arrays, scale: Array, to_state: Array) -> Arrays:
    """Return the gradients to keys, values and the state before them, along the chunks from the last to the first."""
    xp, queries, keys = run.xp, reading[0].shape[-2], tokens[0].shape[-2]
    prefix, end, last = causal.parts(queries, keys)

    def step(run: Run, state: Array, *arrays: Array) -> tuple[Array, Arrays]:
        own = _Chunk.of(run, *arrays)
        rows, keys = run.xp.matrix_transpose(own.queries), run.xp.matrix_transpose(own.keys)
        visible = run.xp.matrix_transpose(causal.allowed(run.xp, own.queries))  # tokens come from the last to the first
        scores, to_scores = scores_vjp(run, rows, own.to_sums, keys, own.values, visible)
        to_keys, to_values = state_of_vjp(run, own.keys, own.values, state)
        to_keys = to_keys + run.xp.matmul(own.queries, to_scores)
        to_values = to_values + values_vjp(run, scores, own.to_sums, visible)
        to_key = key_vjp(run.backend, arrays[3], own.mask, own.keys, to_keys, run.weighting)
        to_value = value_vjp(run.backend, own.mask, to_values)
        to_read = weighted_vjp(run, own.queries, own.to_sums, own.to_count)
        return state + readable_vjp(run, *to_read, own.queries.shape[-2]), (to_key, to_value)

    def through(first: int, stop: int, state: Array) -> list[Arrays]:
        if first >= stop:
            return []
        return [summarise_vjp(run, cut(tokens, first, stop), state)]

    def read_from(first: int, stop: int, state: Array) -> Array:
        if first >= stop:
            return state
        part = state_of_read_vjp(run, cut(reading, first, stop), scale)
        return state + sum_to(xp, part, state.shape[:-2])

    parts, state = through(last, keys, to_state), read_from(end, queries, to_state)
    parts += through(end, last, state)
    if end > prefix:
        tiled = _flip(xp, (*cut(reading, prefix, end), *cut(tokens, prefix, end)))
        carry, chunk = spread(xp, state, reading[1].shape[:-2]), causal.state_chunk(run.plan)
        carry, outputs = run.backend.scan_tiles(run, step, carry, tiled, (scale,), chunk)
        narrow = state.shape[:-2]
        state = sum_to(xp, carry, narrow)
        parts.append(_flip(xp, tuple(sum_to(xp, each, narrow) for each in outputs)))
    state = read_from(0, min(prefix, queries), state)
    parts += through(0, prefix, state)
    return *join(xp, parts[::-1] or [summarise_vjp(run, tokens, state)]), state


class _Chunk(NamedTuple):
    """A chunk as both passes need it: gradients to sums and counts of the queries, and all tokens prepared."""

    units: Array  # queries before they are scaled
    queries: Array
    to_sums: Array
    to_count: Array
    mask: Array | None
    keys: Array
    values: Array

    @classmethod
    def of(
        cls, run: Run, query: Array, kept: Array, cotangent: Array, key: Array, value: Array, *rest: Array
    ) -> _Chunk:
        """Return the chunk of raw arrays; `rest` is (mask, scale) or (scale,)."""
        mask, scale = rest if len(rest) > 1 else (None, rest[0])
        prepared = prepare_key(run.backend, key, mask, run.weighting), prepare_value(run.backend, value, mask)
        reading = units_of(run.backend, query, scale, run.weighting), divide_vjp(run, kept, cotangent, query.shape[-1])
        return cls(*reading[0], *reading[1], mask, *prepared)


def _flip(xp: Any, arrays: Arrays) -> Arrays:
    """Return the arrays with their tokens from the last to the first."""
    return tuple(xp.flip(array, axis=array.ndim - 2) for array in arrays)
