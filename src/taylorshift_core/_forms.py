"""From what is visible to whom, to the function that computes it: the one place where forms are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taylorshift_core import _causal, _direct, _efficient, _prepare

if TYPE_CHECKING:
    from taylorshift_core._call import Call
    from taylorshift_core._run import Run

Array = Any


@dataclass(frozen=True)
class Inputs:
    """Grouped arrays of one call, see `taylorshift_core._prepare`; `past` is the sums of a state, `allowed` a dense mask."""

    query: Array
    key: Array
    value: Array
    mask: Array | None
    scale: Array
    allowed: Array | None = None
    past: Array | None = None
    causal: _causal.Causal | None = None

    @classmethod
    def group(
        cls,
        call: Call,
        query: Array,
        key: Array,
        value: Array,
        key_mask: Array | None,
        scale: float | Array | None,
        attn_mask: Array | None = None,
        sums: Array | None = None,
        causal: _causal.Causal | None = None,
    ) -> Inputs:
        """Return the caller's arrays with the axes that the core works on."""
        xp, problem = call.backend.namespace, call.problem
        return cls(
            query=_prepare.group_query(xp, query, problem),
            key=_prepare.group_key(key),
            value=_prepare.group_key(value),
            mask=_prepare.group_mask(xp, key_mask, key, problem),
            scale=_prepare.group_scale(call, scale),
            allowed=_prepare.group_dense(xp, attn_mask, query, key, problem),
            past=None if sums is None else _prepare.group_key(sums),
            causal=causal,
        )


def attend(run: Run, inputs: Inputs, *, with_state: bool) -> tuple[Array, Array | None]:
    """Return the outputs, and the state behind all keys if the form made it on the way."""
    tokens = inputs.query, inputs.key, inputs.value, inputs.mask
    if run.plan.form == "direct":
        return _attend_direct(run, inputs), None
    if inputs.causal is not None:
        return _causal.attend_efficient(run, inputs.causal, *tokens, inputs.scale, inputs.past, with_state=with_state)
    state = summarise(run, inputs)
    return _efficient.attend(run, inputs.query, state, inputs.scale), state


def summarise(run: Run, inputs: Inputs) -> Array:
    """Return the state behind all keys, those of the past included."""
    state = _efficient.summarise(run, inputs.key, inputs.value, inputs.mask)
    return state if inputs.past is None else inputs.past + state


def _attend_direct(run: Run, inputs: Inputs) -> Array:
    past = () if inputs.past is None else _efficient.readable(run, inputs.past, inputs.query.shape[-1] + 1)
    tokens = inputs.query, inputs.key, inputs.value, inputs.mask
    if inputs.allowed is not None:
        return _direct.attend_allowed(run, *tokens, inputs.scale, inputs.allowed, past)
    if inputs.causal is not None:
        return _causal.attend_direct(run, inputs.causal, *tokens, inputs.scale, past)
    return _direct.attend(run, *tokens, inputs.scale, past)
