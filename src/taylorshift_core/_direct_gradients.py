"""Gradients of the direct form: scores are computed again a tile at a time, and lead back to both of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core._direct import prepare_all, visible_to
from taylorshift_core._divide import divide_vjp
from taylorshift_core._leading import leading_of, sum_to, zeros
from taylorshift_core._prepare import prepare_key
from taylorshift_core._prepare_gradients import key_vjp, query_vjp, units_of, value_vjp
from taylorshift_core.loops import cut, join

if TYPE_CHECKING:
    from taylorshift_core._causal import Causal
    from taylorshift_core._run import Run

Array = Any
Arrays = tuple[Array, ...]


def attend_vjp(
    run: Run, reading: Arrays, tokens: Arrays, scale: Array, causal: Causal | None, allowed: Array | None
) -> tuple[Array, Array, Array, Array]:
    """Return the gradients to queries, to the scale of each, to keys, and to values.

    `reading` is (query, kept, cotangent), `tokens` is (key, value) or (key, value, mask). Spans are walked along from
    the last to the first: once none is left that sees a key, its gradient is whole, and no longer carried along. Beside
    the gradients it holds the prepared keys and values and theirs, O(key_length * (head_dim + value_dim)).
    """
    found = whole_vjp(run, reading, tokens, scale, causal) if allowed is None else None
    if found is not None:
        return found
    key, value, *mask = tokens
    xp, prepared, kept = run.xp, prepare_all(run, key, value, mask[0] if mask else None), reading[1]
    shape = *kept.shape[:-2], key.shape[-2], prepared[0].shape[-1] + prepared[1].shape[-1]
    carry = xp.broadcast_to(zeros(xp, kept, (1,) * len(shape)), shape)
    tiled = reading if allowed is None else (*reading, allowed)
    of_queries, of_keys = [], []
    for first, stop, seen, last in reversed(spans(run, causal, allowed, reading[0], key)):
        if last < carry.shape[-2]:  # a copy: a view would keep the whole of it
            whole = xp.astype(carry[..., last:, :], carry.dtype)
            of_keys.append(_prepared_vjp(run, cut(tokens, last, carry.shape[-2]), whole))
            carry = carry[..., :last, :]
        tile = run.plan.query_tile if last == seen or causal is None else max(stop - first, 1)
        span = cut(tiled, first, stop), cut(prepared, 0, last), scale
        carry, outputs = _span_vjp(run, causal, carry, *span, seen, tile)
        of_queries.append(outputs)
    of_keys.append(_prepared_vjp(run, cut(tokens, 0, carry.shape[-2]), carry))
    to_query, to_scale = join(xp, of_queries[::-1])
    return to_query, to_scale, *join(xp, of_keys[::-1])


def whole_vjp(
    run: Run, reading: Arrays, tokens: Arrays, scale: Array, causal: Causal | None
) -> tuple[Array, Array, Array, Array] | None:
    """Return the same by a whole step of the backend, or None where it has none for them."""
    name, own, queries, keys = "meet_vjp", tokens, reading[0].shape[-2], tokens[0].shape[-2]
    if causal is not None:
        if not causal.is_plain(queries, keys):
            return None
        name, own = "meet_causal_vjp", cut(tokens, 0, queries)
    step: Any = run.backend.whole_step(name, *reading, scale, *own[:2])
    if step is None:
        return None
    to_query, to_scale, *of_tokens = step(run, *reading, scale, *own)
    to_tokens = tuple(sum_to(run.xp, each, leading_of(*tokens)) for each in of_tokens)
    if keys > own[0].shape[-2]:  # seen by none
        unseen = tuple(zeros(run.xp, each, (*each.shape[:-2], keys - queries, each.shape[-1])) for each in to_tokens)
        to_tokens = join(run.xp, [to_tokens, unseen])
    return to_query, to_scale, *to_tokens


def spans(
    run: Run, causal: Causal | None, allowed: Array | None, query: Array, key: Array
) -> list[tuple[int, int, int, int]]:
    """Return (first, stop, seen, last) of runs of queries that see keys up to `seen`, and some of those up to `last`."""
    queries, keys = query.shape[-2], key.shape[-2]
    if causal is None:
        return [(0, queries, keys if allowed is None else 0, keys)]
    prefix, end, last = causal.parts(queries, keys)
    chunk = causal.score_chunk(run.plan.query_tile)
    bounds = [(first, min(first + chunk, end)) for first in range(prefix, end, chunk)]
    parts = [
        (0, min(prefix, queries), prefix, prefix),
        *((*each, *each) for each in bounds),
        (end, queries, last, last),
    ]
    return [part for part in parts if part[0] < part[1]] or [(0, queries, last, last)]


def scores_vjp(
    run: Run, queries: Array, to_sums: Array, keys: Array, values: Array, visible: Array
) -> tuple[Array, Array]:
    """Return (score + beta) of a tile of prepared queries and keys, one row a token each, and the gradients to it."""
    xp = run.xp
    scores = xp.matmul(queries, xp.matrix_transpose(keys))
    to_scores = xp.matmul(2 * to_sums, xp.matrix_transpose(values))
    to_scores *= scores
    return scores, xp.where(visible, to_scores, xp.zeros_like(to_scores))


def values_vjp(run: Run, scores: Array, to_sums: Array, visible: Array) -> Array:
    """Return the gradients to the prepared values that a tile of queries summed with these scores."""
    xp = run.xp
    weights = xp.where(visible, scores * scores + run.weighting.gamma, xp.zeros_like(scores))
    return xp.matmul(xp.matrix_transpose(weights), to_sums)


def _span_vjp(
    run: Run, causal: Causal | None, carry: Array, tiled: Arrays, prepared: Arrays, scale: Array, seen: int, tile: int
) -> tuple[Array, Arrays]:
    """Return `carry`, the gradients of [keys, values], with those of a run of queries added, and the queries' own."""

    def step(run: Run, carry: Array, query: Array, kept: Array, cotangent: Array, *rest: Array) -> tuple[Array, Arrays]:
        *allowed, keys, values, scale = rest
        units, x = units_of(run.backend, query, scale, run.weighting)
        to_sums, _ = divide_vjp(run, kept, cotangent, query.shape[-1])
        reading = run.xp.matrix_transpose(x), to_sums
        to_queries = zeros(run.xp, to_sums, (*to_sums.shape[:-1], keys.shape[-1]))
        prepared = keys, values, carry
        to_queries, parts = _meet_vjp(run, to_queries, reading, cut(prepared, 0, seen))
        if seen < keys.shape[-2]:
            visible = visible_to(run, allowed[0], keys) if causal is None else causal.allowed(run.xp, x)
            own = *cut(prepared, seen, keys.shape[-2]), run.xp.matrix_transpose(visible)
            to_queries, own_parts = _meet_vjp(run, to_queries, reading, own)
            parts = join(run.xp, [parts, own_parts])
        gradients = query_vjp(run.backend, query, units, scale, run.xp.matrix_transpose(to_queries), run.weighting)
        return parts[0], gradients

    return run.backend.scan_tiles(run, step, carry, tiled, (*prepared, scale), tile)


def _meet_vjp(run: Run, to_queries: Array, reading: Arrays, tiled: Arrays) -> tuple[Array, Arrays]:
    """Return the gradients of a tile of queries to it and to keys and values, each added to what is there.

    `tiled` is (keys, values, gradients to [keys, values]), and which of the queries sees each.
    """

    def step(
        run: Run, to_queries: Array, keys: Array, values: Array, to_prepared: Array, *rest: Array
    ) -> tuple[Array, Arrays]:
        xp, (*visible, queries, to_sums) = run.xp, rest
        if visible:
            seen = xp.matrix_transpose(visible[0])
            scores, to_scores = scores_vjp(run, queries, to_sums, keys, values, seen)
            more, to_keys = xp.matmul(to_scores, keys), xp.matmul(xp.matrix_transpose(to_scores), queries)
            to_values = values_vjp(run, scores, to_sums, seen)
        else:
            more, to_keys, to_values = run.backend.meet_back_tile(run.backend, queries, keys, values, to_sums)
            to_values = to_values + run.weighting.gamma * xp.sum(to_sums, axis=to_sums.ndim - 2, keepdims=True)
        to_prepared = to_prepared + xp.concat([to_keys, to_values], axis=to_values.ndim - 1)
        return to_queries + more, (to_prepared,)

    tile = max(run.plan.key_tile // 2, 1)  # scores, and the gradients to them
    return run.backend.scan_sums(run, step, to_queries, tiled, reading, tile)


def _prepared_vjp(run: Run, tokens: Arrays, to_prepared: Array) -> tuple[Array, Array]:
    """Return the gradients to keys and values, from those to [keys, values] as they were prepared."""
    xp, width = run.xp, tokens[0].shape[-1] + 1

    def step(run: Run, key: Array, *rest: Array) -> tuple[Array, Array]:
        *mask, to_prepared = rest
        seen = mask[0] if mask else None
        units, to_units = (
            prepare_key(run.backend, key, seen, run.weighting),
            run.xp.matrix_transpose(to_prepared[..., :width]),
        )
        to_key = key_vjp(run.backend, key, seen, units, to_units, run.weighting)
        return to_key, value_vjp(run.backend, seen, to_prepared[..., width:])

    to_prepared = sum_to(xp, to_prepared, leading_of(*tokens))
    key, _, *mask = tokens
    to_key, to_value = run.backend.map_tiles(run, step, (key, *mask, to_prepared), (), run.plan.key_tile)
    return to_key, to_value
