"""What two states, or a state and the tokens of a call, must have in common before they mix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core._namespace import device_of
from taylorshift_core._registry import backend_of
from taylorshift_core.errors import OptionError

if TYPE_CHECKING:
    from taylorshift_core._call import Call
    from taylorshift_core._checks import Weighting
    from taylorshift_core._state import State


def check_combine(state: State, other: State) -> None:
    """Raise unless two states are sums of the same features; axes before the heads broadcast."""
    backend_of(state=state.sums, other=other.sums)
    pairs = {
        "dtype": (state.sums.dtype, other.sums.dtype),
        "head_dim": (state.head_dim, other.head_dim),
        "value_dim": (state.value_dim, other.value_dim),
        "heads": (tuple(state.sums.shape[-3:-2]), tuple(other.sums.shape[-3:-2])),
        "axes": (state.sums.ndim, other.sums.ndim),
    }
    pairs |= weightings(state.weighting, other.weighting)
    refuse_differences("states must be of the same kind to be combined", pairs)


def check_fits(state: State, call: Call) -> None:
    """Raise unless a state can stand for keys and values that came before those of a call."""
    problem = call.problem
    backend = backend_of(state=state.sums)
    heads = () if problem.single else (problem.kv_heads,)
    pairs = {
        "library": (backend.name, call.backend.name),
        "device": (device_of(state.sums), call.device),
        "dtype": (state.sums.dtype, call.dtype),
        "head_dim": (state.head_dim, problem.head_dim),
        "value_dim": (state.value_dim, problem.value_dim),
        "heads": (tuple(state.sums.shape[-3:-2]), heads),
        "axes": (state.sums.ndim, len(problem.batch) + len(heads) + 2),
    }
    pairs |= weightings(state.weighting, call.weighting)
    refuse_differences("state must be of the same kind as the keys and values", pairs)


def refuse_differences(rule: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    """Raise OptionError that names every pair whose two entries differ."""
    differing = [f"{name} {first} instead of {second}" for name, (first, second) in pairs.items() if first != second]
    if differing:
        msg = f"{rule}; got {', '.join(differing)}"
        raise OptionError(msg)


def weightings(first: Weighting, second: Weighting) -> dict[str, tuple[Any, Any]]:
    """Return the settings of two weightings by the names that they have in `attention`."""
    return {
        "normalise": (first.normalise, second.normalise),
        "coefficients / a": (_coefficients(first), _coefficients(second)),
    }


def _coefficients(weighting: Weighting) -> tuple[float, float, float]:
    return 1.0, 2 * weighting.beta, weighting.gamma + weighting.beta**2
