"""Everything about one call that is known before any work: its sizes, its library, its way of weighting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from taylorshift_core import _checks
from taylorshift_core._namespace import device_kind, device_of
from taylorshift_core._plan import Plan, make_plan
from taylorshift_core._registry import backend_of, load_backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taylorshift_core._backend import Backend

Array = Any
TAYLOR = (0.5, 1.0, 1.0)  # of exp, around 0, to second order


@dataclass(frozen=True)
class Call:
    """A call that passed the checks; `dtype` is the precision that it sums in.

    `planner` is the backend that attention is planned for where it is worth a call, if another one stands in for `backend`.
    """

    backend: Backend
    problem: _checks.Problem
    weighting: _checks.Weighting
    dtype: Any
    device: Any
    planner: Backend | None = None

    def plan(
        self,
        form: str,
        objective: str = "time",
        *,
        visible: str = "all",
        past: bool = False,
        with_state: bool = False,
        elsewhere: bool = False,
    ) -> Plan:
        """Return how to compute it: by the planner too, if it may be `elsewhere`; the rest is what a Problem holds."""
        problem = self.problem
        if visible != "all" or past or with_state:
            problem = replace(problem, visible=visible, past=past, with_state=with_state)
        itemsize = self.backend.namespace.finfo(self.dtype).bits // 8
        stand_in = self.planner if elsewhere else None
        return make_plan(problem, self.backend, form, itemsize, objective, device_kind(self.device), stand_in)


def check_call(
    query: Array,
    key: Array,
    value: Array | None = None,
    key_mask: Array | None = None,
    scale: float | Array | None = None,
    coefficients: Sequence[float] = TAYLOR,
    *,
    normalise: bool = True,
    attn_mask: Array | None = None,
) -> Call:
    """Check the arguments that all public functions share; raise one clear error, or return the call."""
    weighting = _checks.check_weighting(coefficients, normalise=normalise)
    _checks.check_scale_number(scale)
    floats = {"query": query, "key": key} | ({} if value is None else {"value": value})
    masks = {"key_mask": key_mask, "attn_mask": attn_mask}
    masks = {name: mask for name, mask in masks.items() if mask is not None}
    scales = {"scale": scale} if _checks.is_array(scale) else {}
    backend = backend_of(**floats, **masks, **scales)
    xp = backend.namespace
    _checks.check_dtype(xp, **floats)
    shapes = {name: _checks.known(each.shape) for name, each in floats.items()}
    problem = _checks.problem_of(shapes, masked=bool(masks))
    if key_mask is not None:
        _checks.check_mask(xp, key_mask, key, problem.batch, problem.heads)
    if attn_mask is not None:
        _checks.check_dense_mask(xp, attn_mask, problem)
    if scales:
        _checks.check_scale_array(xp, scale, query, problem.heads)
    stand_in = backend.stand_in(query)
    planner = None if stand_in is None else load_backend(stand_in)
    return Call(backend, problem, weighting, backend.working_dtype(xp, query.dtype), device_of(query), planner)
