"""Tangents of both forms: by how much outputs and states change as all that they are made of moves.

Sums and their tangents stand side by side, ``(..., 2 * (value_dim + 1))``: one matrix product then makes both. Scores and
features move by the product rule, a tile at a time, so memory stays what it is without tangents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taylorshift_core._direct import visible_to
from taylorshift_core._direct_gradients import spans
from taylorshift_core._divide import divide_jvp
from taylorshift_core._efficient import read, readable, state_of
from taylorshift_core._prepare import prepare_key, prepare_value
from taylorshift_core._prepare_gradients import key_jvp, query_jvp, units_of, value_jvp
from taylorshift_core.features import offset_blocks
from taylorshift_core.loops import cut, join

if TYPE_CHECKING:
    from taylorshift_core._causal import Causal
    from taylorshift_core._forms import Inputs
    from taylorshift_core._run import Run

Array = Any
Arrays = tuple[Array, ...]


def attend_jvp(run: Run, at: Inputs, by: Inputs, *, with_state: bool) -> tuple[tuple[Array, Array], tuple[Any, Any]]:
    """Return the outputs and the states behind all keys, each with its tangent; no states unless asked for."""
    run = replace(run, plan=run.plan.holding_scores())
    past = None if at.past is None or by.past is None else run.xp.concat([at.past, by.past], axis=at.past.ndim - 1)
    if run.plan.form == "direct":
        outputs = _direct_jvp(run, at, by, past)
        state = _summed_jvp(run, at, by, past, 0, at.key.shape[-2]) if with_state else None
    elif at.causal is not None:
        outputs, state = _causal_jvp(run, at.causal, at, by, past)
    else:
        state = _summed_jvp(run, at, by, past, 0, at.key.shape[-2])
        outputs = _attend_state_jvp(run, cut((at.query, by.query), 0, None), state, (at.scale, by.scale))
    return outputs, _halves(state) if with_state else (None, None)


def _attend_state_jvp(run: Run, reading: Arrays, state: Array, scales: Arrays) -> Arrays:
    """Return outputs and tangents of (queries, their tangents) that read a state."""

    def step(
        run: Run, query: Array, by_query: Array, weighted: Array, totals: Array, scale: Array, by_scale: Array
    ) -> Arrays:
        x, by_x = _queries_jvp(run, query, by_query, scale, by_scale)
        return _divide(run, _read_jvp(run, x, by_x, weighted, totals), totals, query)

    whole = *readable(run, state, reading[0].shape[-1] + 1), *scales
    outputs: Arrays = run.backend.map_tiles(run, step, reading, whole, run.plan.query_tile)
    return outputs


def _summed_jvp(run: Run, at: Inputs, by: Inputs, state: Array | None, first: int, stop: int) -> Array:
    """Return a state and its tangent with those of keys first..stop-1 added."""

    def step(run: Run, *arrays: Array) -> tuple[Array]:
        return (_state_jvp(run, *_keys_jvp(run, *arrays)),)

    (new,) = run.backend.fold_tiles(run, step, cut(_tokens(at, by), first, stop), (), run.plan.key_tile)
    return new if state is None else state + new


def _causal_jvp(run: Run, causal: Causal, at: Inputs, by: Inputs, past: Array | None) -> tuple[Arrays, Array]:
    """Return outputs and tangents of the efficient form, and the state behind all keys with its own."""
    xp, scales, reading = run.xp, (at.scale, by.scale), (at.query, by.query)
    queries, keys, tokens = at.query.shape[-2], at.key.shape[-2], _tokens(at, by)
    prefix, end, last = causal.parts(queries, keys)

    def step(run: Run, state: Array, query: Array, by_query: Array, *rest: Array) -> tuple[Array, Arrays]:
        *tokens, scale, by_scale = rest
        x, by_x = _queries_jvp(run, query, by_query, scale, by_scale)
        own = _keys_jvp(run, *tokens)
        weighted, totals = readable(run, state, x.shape[-2])
        sums, count = _meet_jvp(run, x, by_x, *own, visible=causal.allowed(run.xp, x))
        sums = sums + _read_jvp(run, x, by_x, weighted, totals)
        return state + _state_jvp(run, *own), _divide(run, sums, totals, query, count)

    state = _summed_jvp(run, at, by, past, 0, prefix)
    parts = [_attend_state_jvp(run, cut(reading, 0, min(prefix, queries)), state, scales)]
    if end > prefix:
        tiled, chunk = (*cut(reading, prefix, end), *cut(tokens, prefix, end)), causal.state_chunk(run.plan)
        state, outputs = run.backend.scan_tiles(run, step, state, tiled, scales, chunk)
        parts.append(outputs)
    state = _summed_jvp(run, at, by, state, end, last)
    parts.append(_attend_state_jvp(run, cut(reading, end, queries), state, scales))
    return join(xp, parts), _summed_jvp(run, at, by, state, last, keys)


def _direct_jvp(run: Run, at: Inputs, by: Inputs, past: Array | None) -> Arrays:
    """Return outputs and tangents of the direct form."""
    xp, plan, causal = run.xp, run.plan, at.causal
    state = () if past is None else readable(run, past, at.query.shape[-1] + 1)
    reading = (at.query, by.query) if at.allowed is None else (at.query, by.query, at.allowed)
    x, by_x, values = _keys_jvp(run, *_tokens(at, by))
    tokens = xp.matrix_transpose(x), xp.matrix_transpose(by_x), values

    def span(first: int, stop: int, seen: int, last: int) -> Arrays:
        def step(run: Run, query: Array, by_query: Array, *rest: Array) -> Arrays:
            allowed, rest = (rest[0], rest[1:]) if at.allowed is not None else (None, rest)
            tokens, (scale, by_scale, *state) = rest[:3], rest[3:]
            x, by_x = _queries_jvp(run, query, by_query, scale, by_scale)
            sums, count = _meet_all_jvp(run, x, by_x, cut(tokens, 0, seen))
            if seen < last:
                visible = visible_to(run, allowed, tokens[0]) if causal is None else causal.allowed(run.xp, x)
                own_sums, own_count = _meet_all_jvp(run, x, by_x, cut(tokens, seen, last), visible)
                sums, count = sums + own_sums, count + own_count
            if not state:
                return _divide(run, sums, None, query, count)
            return _divide(run, sums + _read_jvp(run, x, by_x, *state), state[1], query, count)

        tile = max(stop - first, 1) if causal is not None and seen < last else plan.query_tile
        whole = *cut(tokens, 0, last), at.scale, by.scale, *state
        outputs: Arrays = run.backend.map_tiles(run, step, cut(reading, first, stop), whole, tile)
        return outputs

    return join(xp, [span(*each) for each in spans(run, causal, at.allowed, at.query, at.key)])


def _meet_all_jvp(run: Run, x: Array, by_x: Array, tokens: Arrays, visible: Array | None = None) -> Arrays:
    """Return what `_meet_jvp` does, for all prepared keys, one row a token, and a tile of them at a time."""
    xp = run.xp

    def step(run: Run, keys: Array, by_keys: Array, values: Array, *rest: Array) -> Arrays:
        *visible, x, by_x = rest
        seen = run.xp.matrix_transpose(visible[0]) if visible else None
        return _meet_jvp(
            run, x, by_x, run.xp.matrix_transpose(keys), run.xp.matrix_transpose(by_keys), values, visible=seen
        )

    tiled = tokens if visible is None else (*tokens, xp.matrix_transpose(visible))
    totals: Arrays = run.backend.fold_tiles(run, step, tiled, (x, by_x), run.plan.key_tile)
    return totals


def _meet_jvp(
    run: Run, x: Array, by_x: Array, keys: Array, by_keys: Array, values: Array, *, visible: Array | None
) -> Arrays:
    """Return the sums of prepared queries over prepared keys, with tangents, and the counts of keys seen."""
    xp, queries = run.xp, run.xp.matrix_transpose(x)
    scores = xp.matmul(queries, keys)
    by_scores = xp.matmul(xp.matrix_transpose(by_x), keys) + xp.matmul(queries, by_keys)
    weights, by_weights = scores * scores + run.weighting.gamma, 2 * scores * by_scores
    width = values.shape[-1] // 2
    counted = values[..., width - 1 : width]
    if visible is None:
        count = xp.sum(counted, axis=counted.ndim - 2, keepdims=True)
    else:
        weights, by_weights = (xp.where(visible, each, xp.zeros_like(each)) for each in (weights, by_weights))
        count = xp.matmul(xp.astype(visible, values.dtype), counted)
    return _beside(xp, xp.matmul(weights, values), xp.matmul(by_weights, values[..., :width])), count


def _queries_jvp(run: Run, query: Array, by_query: Array, scale: Array, by_scale: Array) -> Arrays:
    """Return a tile of queries, prepared, and its tangent."""
    units, x = units_of(run.backend, query, scale, run.weighting)
    return x, query_jvp(run.backend, query, units, scale, (by_query, by_scale), run.weighting)


def _keys_jvp(run: Run, key: Array, by_key: Array, value: Array, by_value: Array, mask: Array | None = None) -> Arrays:
    """Return a tile of keys, prepared, its tangent, and the values beside theirs."""
    x = prepare_key(run.backend, key, mask, run.weighting)
    values = [prepare_value(run.backend, value, mask), value_jvp(run.backend, by_value, mask)]
    by_x = key_jvp(run.backend, key, mask, x, by_key, run.weighting)
    return x, by_x, run.xp.concat(values, axis=value.ndim - 1)


def _state_jvp(run: Run, x: Array, by_x: Array, values: Array) -> Array:
    """Return the state of a tile of prepared keys, with its tangent beside it."""
    xp, half = run.xp, values[..., : values.shape[-1] // 2]
    blocks = offset_blocks(x.shape[-2], run.plan.offsets)
    parts = [xp.matmul(run.backend.tangent_tile(xp, x, by_x, first, last), half) for first, last, _, _ in blocks]
    by_keys = parts[0] if len(parts) == 1 else xp.concat(parts, axis=parts[0].ndim - 2)
    return _beside(xp, state_of(run, x, values), by_keys)


def _read_jvp(run: Run, x: Array, by_x: Array, weighted: Array, totals: Array) -> Array:
    """Return the weighted sums that a tile of prepared queries reads, with their tangents beside them."""
    xp, half = run.xp, weighted[..., : weighted.shape[-1] // 2]
    by_queries = xp.zeros_like(half[..., :1, :])
    for first, last, start, stop in offset_blocks(x.shape[-2], run.plan.offsets):
        features = run.backend.tangent_tile(xp, x, by_x, first, last)
        by_queries = xp.matmul(xp.matrix_transpose(features), half[..., start:stop, :]) + by_queries
    return _beside(xp, read(run, x, weighted, totals), by_queries)


def _divide(run: Run, sums: Array, totals: Array | None, query: Array, count: Array | None = None) -> Arrays:
    """Return outputs and tangents; tokens are counted in a state's totals, in a count of its own, or in both."""
    if totals is None:
        counts = count, 0
    else:
        had, by = (each[..., -1:] for each in _halves(totals))
        counts = had if count is None else had + count, by
    return divide_jvp(run, _halves(sums), counts, query)


def _tokens(at: Inputs, by: Inputs) -> Arrays:
    return (at.key, by.key, at.value, by.value) if at.mask is None else (at.key, by.key, at.value, by.value, at.mask)


def _beside(xp: Any, both: Array, more: Array) -> Array:
    """Return [sums, tangents] with more of the tangents added."""
    sums, tangents = _halves(both)
    return xp.concat([sums, tangents + more], axis=both.ndim - 1)


def _halves(both: Array) -> tuple[Array, Array]:
    half = both.shape[-1] // 2
    return both[..., :half], both[..., half:]
