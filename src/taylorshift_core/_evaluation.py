"""One call of attention as a function of arrays alone, with its derivatives: what a backend binds to its own autodiff."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from taylorshift_core import _forms, _prepare
from taylorshift_core._call import Call, check_call
from taylorshift_core._causal import Causal
from taylorshift_core._checks import Weighting, is_array
from taylorshift_core._divide import outputs_of
from taylorshift_core._forms import Inputs
from taylorshift_core._forms_gradients import attend_vjp
from taylorshift_core._leading import sum_to, zeros
from taylorshift_core._run import Run
from taylorshift_core._tangents import attend_jvp

Array = Any
Arrays = tuple[Array, ...]


class Operands(NamedTuple):
    """The arrays of one call. The first five have gradients: the scale may be a number, `sums` is those of a state."""

    query: Array
    key: Array
    value: Array
    scale: Array | float | None = None
    sums: Array | None = None
    key_mask: Array | None = None
    attn_mask: Array | None = None


@dataclass(frozen=True)
class Evaluation:
    """What to compute, without the arrays; hashable, so that a library may compile it once for all arrays of one kind.

    `with_state` says that the sums of the state behind all keys are a result beside the output.
    """

    call: Call
    run: Run
    causal: Causal | None = None
    with_state: bool = False

    @property
    def has_stand_in(self) -> bool:
        """Whether it is planned for another backend than that of its operands."""
        return self.run.plan.backend is not self.run.backend

    def of_stand_in(self, dtype: Any, device: Any) -> Evaluation:
        """Return the same for operands of the backend that stands in; `dtype` is that of their sums there."""
        backend, call, run = self.run.plan.backend, self.call, self.run
        call = Call(backend, call.problem, call.weighting, dtype, device, call.planner)
        run = Run(backend, run.plan, run.weighting, run.mean_size_one, run.keep)
        return Evaluation(call, run, self.causal, self.with_state)

    def without_stand_in(self) -> Evaluation:
        """Return the same, planned for the backend of its operands."""
        return replace(self, run=replace(self.run, plan=self.run.plan.on(self.run.backend)))

    @property
    def settings(self) -> dict[str, Any]:
        """Numbers and words that, with operands of any sizes, make this evaluation again: see `with_settings`."""
        plan, weighting = self.run.plan, self.run.weighting
        return {
            "form": plan.form,
            "tiles": [plan.query_tile, plan.key_tile, plan.offsets],
            "weighting": [weighting.beta, weighting.gamma, weighting.normalise],
            "mean_size_one": self.run.mean_size_one,
            "causal": None if self.causal is None else [self.causal.prefix, self.causal.block],
            "with_state": self.with_state,
        }

    @classmethod
    def with_settings(cls, settings: dict[str, Any], operands: Operands) -> Evaluation:
        """Return the evaluation of `settings` for operands of these sizes, which are checked."""
        query, key, value, scale, _, key_mask, attn_mask = operands
        weighting = Weighting(*settings["weighting"])
        call = check_call(query, key, value, key_mask, scale, normalise=weighting.normalise, attn_mask=attn_mask)
        query_tile, key_tile, offsets = settings["tiles"]
        plan = replace(call.plan(settings["form"]), query_tile=query_tile, key_tile=key_tile, offsets=offsets)
        run = Run(call.backend, plan, weighting, settings["mean_size_one"])
        causal = None if settings["causal"] is None else Causal(*settings["causal"])
        return cls(replace(call, weighting=weighting), run, causal, settings["with_state"])

    def attend(self, operands: Operands) -> Arrays:
        """Return the output, and the sums of a state if wanted."""
        if self.has_stand_in:
            return cast("Arrays", self._elsewhere("attend", operands))
        with self.run.backend.scope(operands.query):
            inputs = self._group(operands)
            return self._results(inputs, *_forms.attend(self.run, inputs, with_state=self.with_state))

    def attend_keeping(self, operands: Operands) -> tuple[Arrays, Arrays]:
        """Return the same, and what `vjp` needs beside the operands: one more output, normalisers, perhaps a state."""
        if self.has_stand_in:
            return cast("tuple[Arrays, Arrays]", self._elsewhere("attend_keeping", operands))
        run = replace(self.run, keep=True)
        with run.backend.scope(operands.query):
            inputs = self._group(operands)
            kept, sums = _forms.attend(run, inputs, with_state=self.with_state)
            results = self._results(inputs, outputs_of(run, kept, inputs.query), sums)
            return results, (kept,) if sums is None or self.causal is not None else (kept, sums)

    def vjp(self, operands: Operands, kept: Arrays, cotangents: tuple[Array | None, ...]) -> Arrays:
        """Return the gradients to the first five operands, of their shapes and dtypes; None for absent sums.

        `cotangents` belong to the results, None stands for zeros. The gradient to a scale that is no array has no axes.
        """
        if self.has_stand_in:
            return cast("Arrays", self._elsewhere("vjp", operands, kept, cotangents))
        xp, problem = self.run.xp, self.call.problem
        with self.run.backend.scope(operands.query):
            inputs, (cotangent, to_sums) = self._group(operands), (*cotangents, None)[:2]
            if cotangent is None:
                shape = *problem.batch, *operands.query.shape[-3:-1], problem.value_dim
                cotangent = zeros(xp, operands.query, shape)
            cotangent = _prepare.group_query(xp, cotangent, problem)
            to_sums = None if to_sums is None else _prepare.group_key(to_sums)
            return self._gradients(operands, inputs, attend_vjp(self.run, inputs, kept, cotangent, to_sums))

    def jvp(self, operands: Operands, tangents: tuple[Array | None, ...]) -> tuple[Arrays, Arrays]:
        """Return the results and their tangents, from tangents of the first five operands; None stands for zeros."""
        if self.has_stand_in:
            return cast("tuple[Arrays, Arrays]", self._elsewhere("jvp", operands, tangents))
        with self.run.backend.scope(operands.query):
            inputs, by = self._group(operands), self._group(self._moving(operands, tangents))
            outputs, sums = attend_jvp(self.run, inputs, by, with_state=self.with_state)
            at_by = [self._results(inputs, *each) for each in zip(outputs, sums, strict=True)]
            return at_by[0], at_by[1]

    def _elsewhere(self, method: str, *given: Any) -> Any:
        return self.run.backend.elsewhere(self, method, *given)

    def _group(self, operands: Operands) -> Inputs:
        query, key, value, scale, sums, key_mask, attn_mask = operands
        inputs = Inputs.group(self.call, query, key, value, key_mask, scale, attn_mask, sums, self.causal)
        if inputs.causal is None or self.run.plan.form != "direct" or not self.run.backend.traced:
            return inputs
        return replace(inputs, causal=None, allowed=inputs.causal.limits(self.run.xp, inputs.query, inputs.key))

    def _results(self, inputs: Inputs, output: Array, sums: Array | None) -> Arrays:
        xp = self.run.xp
        output = _prepare.ungroup(xp, output, self.call.problem)
        if not self.with_state:
            return (output,)
        sums = _forms.summarise(self.run, inputs) if sums is None else sums
        return output, _prepare.ungroup_key(xp, sums)

    def _gradients(self, operands: Operands, inputs: Inputs, gradients: Arrays) -> Arrays:
        """Return gradients with the leading axes of what they belong to, in its dtype."""
        xp, problem = self.run.xp, self.call.problem
        to_query, to_scale, to_key, to_value, to_sums = gradients
        to_query = _prepare.ungroup(xp, sum_to(xp, to_query, inputs.query.shape[:-2]), problem)
        to_key = _prepare.ungroup_key(xp, sum_to(xp, to_key, inputs.key.shape[:-2]))
        to_value = _prepare.ungroup_key(xp, sum_to(xp, to_value, inputs.value.shape[:-2]))
        to_scale = xp.sum(sum_to(xp, to_scale, inputs.scale.shape[:-2]), axis=to_scale.ndim - 2, keepdims=True)
        to_scale = xp.reshape(to_scale, tuple(getattr(operands.scale, "shape", ())))  # a number of NumPy has a shape
        if to_sums is not None and inputs.past is not None:
            to_sums = _prepare.ungroup_key(xp, sum_to(xp, to_sums, inputs.past.shape[:-2]))
        found = zip(operands, (to_query, to_key, to_value, to_scale, to_sums), strict=False)
        return tuple(xp.astype(by, at.dtype) if is_array(at) and by.dtype != at.dtype else by for at, by in found)

    def _moving(self, operands: Operands, tangents: tuple[Array | None, ...]) -> Operands:
        """Return the tangents as operands of their own, zeros for None."""
        query, key, value, scale, sums = (
            self.run.xp.zeros_like(at) if by is None and is_array(at) else by
            for at, by in zip(operands, tangents, strict=False)
        )
        return Operands(query, key, value, 0.0 if scale is None else scale, sums, operands.key_mask, operands.attn_mask)
