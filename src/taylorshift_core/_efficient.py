"""The efficient form: keys and values are summed into a state once, and each query reads that state. O(N d**3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core._divide import divide
from taylorshift_core._prepare import prepare_key, prepare_query, prepare_value
from taylorshift_core.features import apply_multiplicity

if TYPE_CHECKING:
    from taylorshift_core._run import Run

Array = Any


def summarise(run: Run, key: Array, value: Array, mask: Array | None) -> Array:
    """Return the state of grouped keys and values, shape (..., D, value_dim + 1).

    Costs ``2 * D * (value_dim + 1)`` operations a key and one tile of features in memory.
    """
    tiled = (key, value) if mask is None else (key, value, mask)
    step = run.backend.whole_step("summarise", *tiled) or _summarise_tile
    (state,) = run.backend.fold_tiles(run, step, tiled, (), run.plan.key_tile)
    return state


def _summarise_tile(run: Run, key: Array, value: Array, mask: Array | None = None) -> tuple[Array]:
    x = prepare_key(run.backend, key, mask, run.weighting)
    return (state_of(run, x, prepare_value(run.backend, value, mask)),)


def state_of(run: Run, x: Array, values: Array) -> Array:
    """Return the state of one tile of prepared keys and values."""
    return run.backend.state_tile(run.backend, x, values, run.plan.offsets_of(x.shape[-1]))


def attend(run: Run, query: Array, state: Array, scale: Array) -> Array:
    """Return the outputs of grouped queries over the keys in `state`."""
    step: Any = run.backend.whole_step("read", query, state, scale)
    read_of = (state,) if step else readable(run, state, query.shape[-1] + 1)
    (output,) = run.backend.map_tiles(run, step or _attend_tile, (query,), (*read_of, scale), run.plan.query_tile)
    return output


def _attend_tile(run: Run, query: Array, weighted: Array, totals: Array, scale: Array) -> tuple[Array]:
    x = prepare_query(run.backend, query, scale, run.weighting)
    return (divide(run, read(run, x, weighted, totals), totals[..., -1:], query),)


def read(run: Run, x: Array, weighted: Array, totals: Array) -> Array:
    """Return the weighted sums of [value, 1] of a tile of prepared queries; `weighted` is the state times multiplicity."""
    return read_columns(run, x, weighted) + run.weighting.gamma * totals


def read_columns(run: Run, x: Array, weighted: Array) -> Array:
    """Return the sum of features times `weighted` of a tile of prepared tokens."""
    return run.backend.read_tile(run.backend, x, weighted, run.plan.offsets_of(x.shape[-1]))


def readable(run: Run, state: Array, width: int) -> tuple[Array, Array]:
    """Return the state times multiplicity, and its totals: the plain sum of [value, 1], the row of the feature 1 * 1."""
    return apply_multiplicity(run.xp, state, width), state[..., width - 1 : width, :]
