"""Gradients of the efficient form: through the read-out to queries and state, through the state to keys and values.

Features are built again a tile at a time, and their gradients are folded back to the tile they belong to; neither ever
exists for all tokens. Two matrix products a token where the forward pass has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core._divide import divide_vjp
from taylorshift_core._efficient import read_columns, state_of
from taylorshift_core._leading import leading_of, zeros
from taylorshift_core._prepare import prepare_key, prepare_query, prepare_value
from taylorshift_core._prepare_gradients import key_vjp, query_vjp, units_of, value_vjp
from taylorshift_core.features import apply_multiplicity

if TYPE_CHECKING:
    from taylorshift_core._run import Run

Array = Any
Arrays = tuple[Array, ...]


def read_vjp(run: Run, reading: Arrays, scale: Array, state: Array) -> tuple[Array, Array, Array]:
    """Return the gradients to queries, to the scale of each, and to the state; `reading` is (query, kept, cotangent).

    In one walk: both need the queries prepared, and the gradients to their sums.
    """
    step: Any = run.backend.whole_step("read_vjp", *reading, scale, state)
    if step is not None:
        to_query, to_scale, to_state = step(run, *reading, scale, state)
        return to_query, to_scale, to_state
    xp, rows = run.xp, state.shape[-2]
    whole = apply_multiplicity(xp, state, reading[0].shape[-1] + 1), scale
    shape = *leading_of(*reading, *whole), rows + 1, state.shape[-1]
    carry = xp.broadcast_to(zeros(xp, state, (1,) * len(shape)), shape)
    carry, outputs = run.backend.scan_sums(run, _read_tile_vjp, carry, reading, whole, run.plan.query_tile)
    to_state = readable_vjp(run, carry[..., :rows, :], carry[..., rows:, :], reading[0].shape[-1] + 1)
    return *outputs, to_state


def _read_tile_vjp(
    run: Run, carry: Array, query: Array, kept: Array, cotangent: Array, weighted: Array, scale: Array
) -> tuple[Array, Arrays]:
    units, x = units_of(run.backend, query, scale, run.weighting)
    to_sums, to_count = divide_vjp(run, kept, cotangent, query.shape[-1])
    to_read = run.xp.concat(weighted_vjp(run, x, to_sums, to_count), axis=to_sums.ndim - 2)
    to_x = features_vjp(run, x, weighted, to_sums)
    return carry + to_read, query_vjp(run.backend, query, units, scale, to_x, run.weighting)


def query_of_read_vjp(run: Run, reading: Arrays, scale: Array, state: Array) -> tuple[Array, Array]:
    """Return the gradients to queries and to the scale of each."""

    def step(
        run: Run, query: Array, kept: Array, cotangent: Array, weighted: Array, scale: Array
    ) -> tuple[Array, Array]:
        units, x = units_of(run.backend, query, scale, run.weighting)
        to_sums, _ = divide_vjp(run, kept, cotangent, query.shape[-1])
        to_x = features_vjp(run, x, weighted, to_sums)
        return query_vjp(run.backend, query, units, scale, to_x, run.weighting)

    whole = apply_multiplicity(run.xp, state, reading[0].shape[-1] + 1), scale
    to_query, to_scale = run.backend.map_tiles(run, step, reading, whole, run.plan.query_tile)
    return to_query, to_scale


def state_of_read_vjp(run: Run, reading: Arrays, scale: Array) -> Array:
    """Return the gradient to the state that the queries read."""

    def step(run: Run, query: Array, kept: Array, cotangent: Array, scale: Array) -> tuple[Array, Array]:
        x = prepare_query(run.backend, query, scale, run.weighting)
        return weighted_vjp(run, x, *divide_vjp(run, kept, cotangent, query.shape[-1]))

    weighted, totals = run.backend.fold_tiles(run, step, reading, (scale,), run.plan.query_tile)
    return readable_vjp(run, weighted, totals, reading[0].shape[-1] + 1)


def summarise_vjp(run: Run, tokens: Arrays, state: Array) -> tuple[Array, Array]:
    """Return the gradients to keys and values, from that to the state they were summed into.

    `tokens` is (key, value) or (key, value, mask).
    """
    step: Any = run.backend.whole_step("summarise_vjp", *tokens, state)
    if step is not None:
        to_key, to_value = step(run, *tokens, state)
        return to_key, to_value
    to_key, to_value = run.backend.map_tiles(run, _summarise_tile_vjp, tokens, (state,), run.plan.key_tile)
    return to_key, to_value


def _summarise_tile_vjp(run: Run, key: Array, value: Array, *rest: Array) -> tuple[Array, Array]:
    mask, state = rest if len(rest) > 1 else (None, rest[0])
    x, values = prepare_key(run.backend, key, mask, run.weighting), prepare_value(run.backend, value, mask)
    to_x, to_values = state_of_vjp(run, x, values, state)
    return key_vjp(run.backend, key, mask, x, to_x, run.weighting), value_vjp(run.backend, mask, to_values)


def weighted_vjp(run: Run, x: Array, to_sums: Array, to_count: Array) -> tuple[Array, Array]:
    """Return the gradients to what a tile of prepared queries reads: the state times multiplicity, and its totals."""
    xp, axis = run.xp, to_sums.ndim - 2
    to_totals = run.weighting.gamma * xp.sum(to_sums, axis=axis, keepdims=True)
    if run.mean_size_one:
        to_count = to_totals[..., -1:] + xp.sum(to_count, axis=axis, keepdims=True)
        to_totals = xp.concat([to_totals[..., :-1], to_count], axis=axis + 1)
    return state_of(run, x, to_sums), to_totals


def readable_vjp(run: Run, to_weighted: Array, to_totals: Array, width: int) -> Array:
    """Return the gradient to a state, from those to what is read of it."""
    state = apply_multiplicity(run.xp, to_weighted, width)
    totals = state[..., width - 1 : width, :] + to_totals
    return run.xp.concat([state[..., : width - 1, :], totals, state[..., width:, :]], axis=state.ndim - 2)


def state_of_vjp(run: Run, x: Array, values: Array, state: Array) -> tuple[Array, Array]:
    """Return the gradients to a tile of prepared keys and values, from that to the state."""
    return features_vjp(run, x, state, values), read_columns(run, x, state)


def features_vjp(run: Run, x: Array, weighted: Array, columns: Array) -> Array:
    """Return the gradient of ``sum(columns * (features(x).T @ weighted))`` to a tile of prepared tokens `x`."""
    return run.backend.back_tile(run.backend, x, weighted, columns, run.plan.offsets_of(x.shape[-1]))
