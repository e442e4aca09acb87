"""A few queries at a time over a state and recent tokens: what decoding and sliding windows are made of.

Tokens that came last are kept prepared and unfolded. For so few queries it pays to put the multiplicity on their
features instead of the whole state, and the query heads that share a key head side by side as columns of one product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taylorshift_core import _prepare
from taylorshift_core._checks import check_mask
from taylorshift_core._divide import divide
from taylorshift_core.errors import ShapeError
from taylorshift_core.features import apply_multiplicity, n_offsets, offset_blocks

if TYPE_CHECKING:
    from taylorshift_core._backend import Backend
    from taylorshift_core._call import Call
    from taylorshift_core._run import Run

Array = Any
_FOLD_BYTES = 1 << 23  # of features at a time: few calls, and no more memory for many heads


@dataclass(frozen=True, eq=False)
class Tokens:
    """Prepared keys, shape (..., kv_heads, head_dim + 1, tokens), and values, shape (..., kv_heads, tokens, value_dim + 1)."""

    keys: Array
    values: Array

    @property
    def length(self) -> int:
        """How many tokens there are."""
        n: int = self.values.shape[-2]
        return n

    def __getitem__(self, part: slice) -> Tokens:
        """Return some of the tokens."""
        return Tokens(self.keys[..., part], self.values[..., part, :])

    def tree_flatten(self) -> tuple[tuple[Array, Array], None]:
        """Return the arrays, and the rest."""
        return (self.keys, self.values), None

    @classmethod
    def tree_unflatten(cls, _rest: None, arrays: Any) -> Tokens:
        """Return the tokens of what `tree_flatten` returned."""
        return cls(*arrays)


def check_step(call: Call) -> None:
    """Raise ShapeError unless the tokens of a call are queries and keys alike."""
    problem = call.problem
    if problem.query_length != problem.key_length:
        msg = (
            f"query and key must have the same length in a step, one for each new token; "
            f"got query_length {problem.query_length} and key_length {problem.key_length}. "
            f"Keys without queries: State.add, or attention(..., return_state=True)."
        )
        raise ShapeError(msg)


def prepare(run: Run, call: Call, key: Array, value: Array, key_mask: Array | None) -> Tokens:
    """Return the tokens of a call, with all axes before the tokens whole, so that tokens of several calls join."""
    xp, problem = run.xp, call.problem
    if key_mask is not None:
        check_mask(xp, key_mask, key, problem.batch, problem.kv_heads)  # one state a key head: one row of the mask
    mask = _prepare.group_mask(xp, key_mask, key, problem)
    keys = _prepare.prepare_key(run.backend, _prepare.group_key(key), mask, run.weighting)
    values = _prepare.prepare_value(run.backend, _prepare.group_key(value), mask)
    leading = () if problem.single else (*problem.batch, problem.kv_heads)
    return Tokens(*(_whole(xp, _prepare.ungroup_key(xp, array), leading) for array in (keys, values)))


def _whole(xp: Any, array: Array, leading: tuple[Any, ...]) -> Array:
    return array if array.shape[:-2] == leading else xp.broadcast_to(array, (*leading, *array.shape[-2:]))


def join(xp: Any, *parts: Tokens | None) -> Tokens:
    """Return the tokens of all parts, one after the other."""
    tokens = [part for part in parts if part is not None]
    if len(tokens) == 1:
        return tokens[0]
    axis = tokens[0].keys.ndim - 1
    keys, values = ([getattr(part, name) for part in tokens] for name in ("keys", "values"))
    return Tokens(xp.concat(keys, axis=axis), xp.concat(values, axis=axis - 1))


def fold(backend: Backend, tokens: Tokens) -> Array:
    """Return the sums of a state of the tokens, in one matrix product: ``2 * D * (value_dim + 1)`` operations a token."""
    xp, keys = backend.namespace, tokens.keys
    row = math.prod(keys.shape) * xp.finfo(keys.dtype).bits // 8  # bytes of the features of one offset, all heads
    blocks = offset_blocks(keys.shape[-2], max(1, _FOLD_BYTES // max(row, 1)))
    parts = [xp.matmul(backend.feature_tile(xp, keys, first, last), tokens.values) for first, last, _, _ in blocks]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=parts[0].ndim - 2)


def attend(
    run: Run, call: Call, query: Array, scale: Array | None, past: Array | None, recent: Tokens, allowed: Array | None
) -> Array:
    """Return the outputs of the queries of a call over a past state, all of it, and recent tokens.

    Parameters
    ----------
    past : array, shape (..., kv_heads, D, value_dim + 1), optional
    allowed : boolean array, shape (query_length, tokens), optional
        Which recent tokens each query sees; all if not given. What is not seen changes nothing, NaN included.
    """
    xp, problem = run.xp, call.problem
    x = _prepare.group_query(xp, query, problem)
    x = _prepare.prepare_query(run.backend, x, _prepare.group_scale(call, scale), run.weighting)
    if not problem.single:
        axes = tuple(range(x.ndim))
        x = xp.permute_dims(x, (*axes[:-3], axes[-2], axes[-3], axes[-1]))
        x = xp.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))
        allowed = allowed if allowed is None or problem.groups == 1 else xp.concat([allowed] * problem.groups, axis=0)
    sums, count = _meet(run, x, recent, allowed)
    if past is not None:
        seen = _read(run, x, past)
        sums, count = sums + seen[0], count + seen[1]
    sums = xp.where(count != 0, sums, xp.zeros_like(sums))  # rounding, where all tokens have left a window
    output = divide(run, sums, count, query)
    return output if problem.single else xp.reshape(output, (*output.shape[:-3], *query.shape[-3:-1], output.shape[-1]))


def _read(run: Run, x: Array, state: Array) -> tuple[Array, Array]:
    """Return weighted sums and counts of prepared queries over the keys in a state."""
    width = x.shape[-2]
    features = apply_multiplicity(run.xp, run.backend.feature_tile(run.xp, x, 0, n_offsets(width)), width)
    totals = state[..., width - 1 : width, :]
    sums = run.xp.matmul(run.xp.matrix_transpose(features), state) + run.weighting.gamma * totals
    return sums, totals[..., -1:]


def _meet(run: Run, x: Array, tokens: Tokens, allowed: Array | None) -> tuple[Array, Array]:
    """Return weighted sums and counts of prepared queries over tokens."""
    xp, values = run.xp, tokens.values
    scores = xp.matmul(xp.matrix_transpose(x), tokens.keys)
    weights = scores * scores + run.weighting.gamma
    if allowed is None:
        return xp.matmul(weights, values), xp.sum(values[..., -1:], axis=values.ndim - 2, keepdims=True)
    weights, ones = xp.where(allowed, weights, xp.zeros_like(weights)), xp.astype(allowed, values.dtype)
    finite = xp.isfinite(values)  # zero times NaN is NaN: sum without them, and spoil only who sees them
    spoiled = xp.matmul(ones, xp.where(finite, xp.zeros_like(values), xp.ones_like(values))) > 0
    sums = xp.matmul(weights, xp.where(finite, values, xp.zeros_like(values)))
    return xp.where(spoiled, xp.full_like(sums, xp.nan), sums), xp.matmul(ones, values[..., -1:])
