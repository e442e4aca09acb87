"""The direct form: every query meets every key, a tile of scores at a time. O(N**2 d)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core._divide import divide
from taylorshift_core._efficient import read
from taylorshift_core._namespace import device_of
from taylorshift_core._prepare import prepare_key, prepare_query, prepare_value

if TYPE_CHECKING:
    from taylorshift_core._run import Run

Array = Any


def attend(
    run: Run, query: Array, key: Array, value: Array, mask: Array | None, scale: Array, past: tuple[Array, ...] = ()
) -> Array:
    """Return the outputs of grouped queries over grouped keys and values, and over those in a `past` state if given.

    Keys and values are prepared once, O(key_length * (head_dim + value_dim)) memory; scores live a tile at a time.
    """
    step = None if past else run.backend.whole_step("meet", query, key, value)
    if step is not None:
        whole = (key, value, scale) if mask is None else (key, value, scale, mask)
        (output,) = run.backend.map_tiles(run, step, (query,), whole, run.plan.query_tile)
        return output
    keys, values = prepare_all(run, key, value, mask)
    return attend_prepared(run, query, keys, values, scale, past)


def attend_prepared(run: Run, query: Array, keys: Array, values: Array, scale: Array, past: tuple[Array, ...]) -> Array:
    """Return the outputs of grouped queries over prepared keys and values, all of which every query sees."""
    totals = run.xp.sum(values, axis=values.ndim - 2, keepdims=True)

    def step(
        run: Run, query: Array, keys: Array, values: Array, totals: Array, scale: Array, *past: Array
    ) -> tuple[Array]:
        x = prepare_query(run.backend, query, scale, run.weighting)
        sums, count = meet(run, x, keys, values) + run.weighting.gamma * totals, totals[..., -1:]
        return (divide(run, *with_past(run, x, sums, count, past), query),)

    (output,) = run.backend.map_tiles(run, step, (query,), (keys, values, totals, scale, *past), run.plan.query_tile)
    return output


def attend_allowed(
    run: Run,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    scale: Array,
    allowed: Array,
    past: tuple[Array, ...],
) -> Array:
    """Return the outputs of grouped queries over the keys that `allowed` lets each see, as `visible_to` reads it."""
    keys, values = prepare_all(run, key, value, mask)

    def step(
        run: Run, query: Array, allowed: Array, keys: Array, values: Array, scale: Array, *past: Array
    ) -> tuple[Array]:
        x, allowed = prepare_query(run.backend, query, scale, run.weighting), visible_to(run, allowed, keys)

        def inner(run: Run, keys: Array, values: Array, allowed: Array, x: Array) -> tuple[Array, Array]:
            return meet_allowed(run, x, keys, values, run.xp.matrix_transpose(allowed))

        tiled = keys, values, run.xp.matrix_transpose(allowed)
        sums, count = run.backend.fold_tiles(run, inner, tiled, (x,), run.plan.key_tile)
        return (divide(run, *with_past(run, x, sums, count, past), query),)

    tiled, whole = (query, allowed), (keys, values, scale, *past)
    (output,) = run.backend.map_tiles(run, step, tiled, whole, run.plan.query_tile)
    return output


def visible_to(run: Run, allowed: Array, keys: Array) -> Array:
    """Return which keys each query of a tile sees, (..., queries, keys): a dense mask as it is, or one made of limits.

    Limits are integers, shape (..., queries, 1): so many of the first keys are seen.
    """
    if allowed.dtype == run.xp.bool:
        return allowed
    return allowed > run.xp.arange(keys.shape[-2], device=device_of(allowed))


def with_past(run: Run, x: Array, sums: Array, count: Array, past: tuple[Array, ...]) -> tuple[Array, Array]:
    """Return sums and count with those of the keys in a past state added: (state times multiplicity, totals) or ()."""
    if not past:
        return sums, count
    return sums + read(run, x, *past), count + past[1][..., -1:]


def prepare_all(run: Run, key: Array, value: Array, mask: Array | None) -> tuple[Array, Array]:
    """Return all prepared keys and values, one row a token each."""
    keys = run.xp.matrix_transpose(prepare_key(run.backend, key, mask, run.weighting))
    return keys, prepare_value(run.backend, value, mask)


def meet(run: Run, x: Array, keys: Array, values: Array) -> Array:
    """Return the sums of [value, 1] weighted by (score + beta)**2, for a tile of prepared queries and all keys."""
    queries = run.xp.matrix_transpose(x)

    def step(run: Run, keys: Array, values: Array, queries: Array) -> tuple[Array]:
        return (run.backend.meet_tile(run.backend, queries, keys, values),)

    (sums,) = run.backend.fold_tiles(run, step, (keys, values), (queries,), run.plan.key_tile)
    return sums


def meet_allowed(run: Run, x: Array, keys: Array, values: Array, allowed: Array) -> tuple[Array, Array]:
    """Return the weighted sums and counts of a tile of prepared queries over the keys that `allowed` lets each see."""
    xp = run.xp
    weights = squared_scores(run, xp.matrix_transpose(x), keys)
    weights += run.weighting.gamma
    sums = run.backend.sum_allowed(xp, weights, values, allowed)
    if not run.mean_size_one:  # who divides by the weights alone does not need to know how many keys there were
        return sums, xp.zeros_like(sums[..., -1:])
    return sums, xp.matmul(xp.astype(allowed, values.dtype), values[..., -1:])


def matrix(run: Run, query: Array, key: Array, mask: Array | None, scale: Array) -> Array:
    """Return the attention matrix of grouped queries and keys, rows summing to 1 (to 0 where no key is attended)."""
    xp = run.xp
    queries = xp.matrix_transpose(prepare_query(run.backend, query, scale, run.weighting))
    keys = xp.matrix_transpose(prepare_key(run.backend, key, mask, run.weighting))
    weights = squared_scores(run, queries, keys) + run.weighting.gamma
    if mask is not None:
        weights = xp.where(xp.matrix_transpose(mask), weights, xp.zeros_like(weights))
    normaliser = xp.sum(weights, axis=weights.ndim - 1, keepdims=True)
    weights = weights / xp.where(normaliser == 0, xp.ones_like(normaliser), normaliser)
    return weights if weights.dtype == query.dtype else xp.astype(weights, query.dtype)


def squared_scores(run: Run, queries: Array, keys: Array) -> Array:
    """Return (score + beta)**2 of every prepared query with every prepared key, one row a token each."""
    return run.backend.squared_product(run.xp, queries, run.xp.matrix_transpose(keys))
