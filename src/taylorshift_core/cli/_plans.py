"""Plans on the command line: of sizes without arrays, as facts, and in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import explain
from taylorshift_core._plan import make_plan
from taylorshift_core.cli._console import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taylorshift_core import Backend, Plan

    Array = np.ndarray[Any, Any]


def stand_in(shape: Sequence[int], dtype: str | np.dtype[Any]) -> Array:
    """Return an array of a shape and dtype without contents: a single zero, seen from everywhere."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def plan_of(
    backend: Backend,
    shapes: Sequence[Sequence[int]],
    dtype: str,
    *,
    form: str = "auto",
    objective: str = "time",
    **options: Any,
) -> Plan:
    """Return the plan of a backend for query, key and value of some shapes; no array of these shapes is made.

    NumPy checks the call with arrays without contents, and an array of one number tells device and precision.
    """
    problem = explain(*(stand_in(shape, dtype) for shape in shapes), form=form, **options).problem
    small = explain(*[backend.from_numpy(np.zeros((1, 1), dtype))] * 3)
    return make_plan(problem, small.backend, form, small.itemsize, objective, small.device)


def facts_of(plan: Plan) -> dict[str, Any]:
    """Return what a plan says, for programs."""
    return {
        "backend": plan.backend.name,
        "device": plan.device,
        "sum_dtype": f"float{8 * plan.itemsize}",
        "form": plan.form,
        "reason": plan.reason,
        "predicted_seconds": plan.seconds,
        "operations": plan.operations,
        "operations_of_the_formula": plan.operations_of_the_formula,
        "temporary_bytes": plan.temporary_bytes,
        "state_bytes": plan.state_bytes,
        "query_tile_tokens": plan.query_tile,
        "key_tile_tokens": plan.key_tile,
        "offsets": plan.offsets,
        "crossover_tokens": plan.crossover,
        "relative_rounding_error": plan.rounding_error,
    }


def say_choices(plans: Sequence[Mapping[str, Any]]) -> None:
    """Print which form each backend takes and why, in one line for those that agree; from the facts of their plans."""
    for choice in dict.fromkeys((plan["form"], plan["reason"]) for plan in plans):
        where = ", ".join(plan["backend"] for plan in plans if (plan["form"], plan["reason"]) == choice)
        say(f'On {where} form="auto" takes the {choice[0]} form: {choice[1]}.')
