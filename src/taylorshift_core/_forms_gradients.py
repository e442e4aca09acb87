"""From what is visible to whom, to the function that computes its gradients: the reverse of `_forms`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taylorshift_core import _causal_gradients, _direct_gradients, _efficient_gradients
from taylorshift_core._leading import sum_to

if TYPE_CHECKING:
    from taylorshift_core._forms import Inputs
    from taylorshift_core._run import Run

Array = Any
Arrays = tuple[Array, ...]


def attend_vjp(run: Run, inputs: Inputs, kept: Arrays, cotangent: Array, to_state: Array | None) -> Arrays:
    """Return the gradients to queries, to the scale of each, to keys, to values, and to the past (None without one).

    `kept` is what `divide` kept and, in the efficient form that is not causal, the state that was read; `to_state` is
    the gradient to the state behind all keys. Results may have all the leading axes that the arrays broadcast to.
    """
    if inputs.allowed is not None:
        run = replace(run, plan=run.plan.holding_scores())
    reading = inputs.query, kept[0], cotangent
    tokens = (inputs.key, inputs.value) if inputs.mask is None else (inputs.key, inputs.value, inputs.mask)
    if run.plan.form == "direct":
        return _direct(run, inputs, reading, tokens, to_state)
    if inputs.causal is None:
        gradients = _efficient(run, reading, tokens, inputs.scale, kept[1], to_state)
    else:
        causal = inputs.causal, reading, tokens, inputs.scale, inputs.past, to_state
        gradients = _causal_gradients.attend_vjp(run, *causal)
    return (*gradients[:-1], None) if inputs.past is None else gradients


def _efficient(run: Run, reading: Arrays, tokens: Arrays, scale: Array, state: Array, to_state: Array | None) -> Arrays:
    to_query, to_scale, from_read = _efficient_gradients.read_vjp(run, reading, scale, state)
    from_read = sum_to(run.xp, from_read, state.shape[:-2])
    to_state = from_read if to_state is None else to_state + from_read
    return to_query, to_scale, *_efficient_gradients.summarise_vjp(run, tokens, to_state), to_state


def _direct(run: Run, inputs: Inputs, reading: Arrays, tokens: Arrays, to_state: Array | None) -> Arrays:
    """Return the sum of three: through the scores, through the past that was read, through the state returned."""
    visible = inputs.causal, inputs.allowed
    to_query, to_scale, to_key, to_value = _direct_gradients.attend_vjp(run, reading, tokens, inputs.scale, *visible)
    to_past = None
    if inputs.past is not None:
        from_past = _efficient_gradients.read_vjp(run, reading, inputs.scale, inputs.past)
        to_query, to_scale = to_query + from_past[0], to_scale + from_past[1]
        to_past = sum_to(run.xp, from_past[2], inputs.past.shape[:-2])
    if to_state is not None:
        from_state = _efficient_gradients.summarise_vjp(run, tokens, to_state)
        leading = to_state.shape[:-2]
        to_key, to_value = (
            sum_to(run.xp, to_key, leading) + from_state[0],
            sum_to(run.xp, to_value, leading) + from_state[1],
        )
        to_past = None if to_past is None else to_past + sum_to(run.xp, to_state, to_past.shape[:-2])
    return to_query, to_scale, to_key, to_value, to_past
