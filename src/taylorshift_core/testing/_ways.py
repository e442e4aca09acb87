"""The ways to compute one problem: whole, through states, and with gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taylorshift_core._attention import attention, explain
from taylorshift_core._gradients import attention_vjp
from taylorshift_core._registry import backend_of
from taylorshift_core._state import State, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taylorshift_core.testing._problems import Problem

Array = Any
Arrays = dict[str, Array]
Results = list[tuple[str, Array]]  # each beside the name of what is expected
_NAMES = ("query", "key", "value")
_OF_STATES = ("normalise", "coefficients")
_OF_PLANS = ("scale", "key_mask", "normalise", "coefficients")


def ways(problem: Problem, *, gradients: bool) -> Iterator[tuple[str, str, Callable[[Problem, str, Arrays], Results]]]:
    """Yield each way: its row of the report, its form, and the function that computes it."""
    for form in problem.forms:
        yield f"{form}, causal" if problem.is_causal else form, form, whole
        if gradients and "cotangent" in problem.arrays:
            yield f"gradients, {form}", form, pulled
    if problem.has_states and not problem.is_causal:
        yield "state", "efficient", merged
        yield "state", "efficient", removed
    if problem.has_states and set(problem.options) == {"is_causal"}:
        yield "state, causal", "efficient", chunked


def whole(problem: Problem, form: str, given: Arrays) -> Results:
    """Call `attention` once."""
    return [("output", attention(*_operands(given), **_options(problem, form, given)))]


def pulled(problem: Problem, form: str, given: Arrays) -> Results:
    """Call `attention_vjp`, and pull the cotangent back."""
    output, pullback = attention_vjp(*_operands(given), **_options(problem, form, given))
    found = pullback(given["cotangent"])
    pairs = zip((*_NAMES, "scale"), found, strict=False)
    return [("output", output), *((f"gradient of {name}", by) for name, by in pairs)]


def merged(problem: Problem, _form: str, given: Arrays) -> Results:
    """Summarise two parts of the keys, and attend to both states merged."""
    cut = given["key"].shape[-2] // 3
    parts = [_summary(problem, given, part) for part in (slice(cut), slice(cut, None))]
    return [("output", _attended(problem, given, parts[0].merge(parts[1])))]


def removed(problem: Problem, _form: str, given: Arrays) -> Results:
    """Add a part of the keys once too often, and remove it again."""
    some = slice(given["key"].shape[-2] // 2)
    key, value, masks = _part(given, some)
    state = _summary(problem, given, slice(None)).add(key, value, **masks).remove(key, value, **masks)
    return [("output", _attended(problem, given, state))]


def chunked(_problem: Problem, form: str, given: Arrays) -> Results:
    """Take the tokens in two chunks, with the state of the first for the second, and join what comes out."""
    cut, state, parts = given["query"].shape[-2] // 2, None, []
    for part in (slice(cut), slice(cut, None)):
        key, value, masks = _part(given, part)
        scale = given.get("scale")
        output, state = attention(
            given["query"][..., part, :], key, value, form=form, is_causal=True, scale=scale, state=state,
            return_state=True, **masks,
        )  # fmt: skip
        parts.append(output)
    backend = backend_of(output=parts[0])
    with backend.scope(parts[0]):
        return [("output", backend.namespace.concat(parts, axis=parts[0].ndim - 2))]


def _operands(given: Arrays) -> list[Array]:
    return [given[name] for name in _NAMES]


def _options(problem: Problem, form: str, given: Arrays) -> dict[str, Any]:
    options: dict[str, Any] = {"form": form, **problem.options}
    options |= {name: given[name] for name in ("scale", "key_mask", "attn_mask") if name in given}
    if problem.tiles is not None:
        known: dict[str, Any] = {name: options[name] for name in _OF_PLANS if name in options}
        query_tile, key_tile, offsets = problem.tiles
        plan = explain(*_operands(given), form=form, **known)
        options["plan"] = replace(plan, query_tile=query_tile, key_tile=key_tile, offsets=offsets)
    return options


def _part(given: Arrays, part: slice) -> tuple[Array, Array, dict[str, Array]]:
    masks = {"key_mask": given["key_mask"][..., part]} if "key_mask" in given else {}
    return given["key"][..., part, :], given["value"][..., part, :], masks


def _summary(problem: Problem, given: Arrays, part: slice) -> State:
    key, value, masks = _part(given, part)
    options: dict[str, Any] = {name: problem.options[name] for name in _OF_STATES if name in problem.options}
    return summarise(key, value, **masks, **options)


def _attended(problem: Problem, given: Arrays, state: State) -> Array:
    scale = given.get("scale", problem.options.get("scale"))
    return state.attend(given["query"], scale=scale, normalise_output=problem.options.get("normalise_output", False))
