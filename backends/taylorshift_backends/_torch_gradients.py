"""The hand-written gradients, known to PyTorch: backwards, under vmap, and the derivatives of gradients.

What is written by hand is the first derivative backwards, the one that would store features. Forwards PyTorch follows the
core by itself and stores nothing; higher derivatives are its own too, of the core's code for the first, and do.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch

from taylorshift_backends._torch_kinds import forwards, mapped, recorded, traced, transformed
from taylorshift_backends._torch_operators import attend_traced
from taylorshift_core import Operands

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core import Evaluation

Array = Any
Arrays = tuple[Array, ...]
_MOVING = 5  # of the operands: those that have gradients if they are tensors


def differentiable(evaluation: Evaluation, operands: Operands) -> Arrays:
    """Return the results of an evaluation, recorded if their gradients may be asked for."""
    to_record = recorded(*operands[:_MOVING])
    if traced() and not transformed():
        return attend_traced(evaluation.without_stand_in(), operands, recorded=to_record)
    if not to_record or forwards():  # no place for functions of ours: inside them PyTorch loses an outer such mode
        return evaluation.attend(operands)
    results: Arrays = _Attend.apply(evaluation, *operands)
    return results[: 1 + evaluation.with_state]


class _Attend(torch.autograd.Function):
    """(evaluation, operands) -> results, and behind them what the gradients need."""

    generate_vmap_rule = True

    @staticmethod
    def forward(evaluation: Evaluation, *operands: Array) -> Arrays:
        results, kept = evaluation.attend_keeping(Operands(*operands))
        return *results, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Arrays) -> None:
        evaluation, *operands = inputs
        kept = output[1 + evaluation.with_state :]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.evaluation = evaluation
        _save(ctx, operands, kept)

    @staticmethod
    def backward(ctx: Any, *cotangents: Array | None) -> Any:
        operands, kept = _saved(ctx, len(Operands._fields))

        def pull(*cotangents: Array | None) -> Arrays:
            if forwards():
                return _pulled_anew(ctx.evaluation, operands, cotangents)
            if not torch.is_grad_enabled():  # nobody asks for derivatives of the gradients
                return _pulled(ctx.evaluation, operands, _padded(kept, 2), cotangents)
            pulled: Arrays = _Pull.apply(ctx.evaluation, *cotangents, *_padded(kept, 2), *operands)
            return pulled

        gradients = iter(mapped(pull, *_padded(cotangents[: 1 + ctx.evaluation.with_state], 2)))
        return None, *(next(gradients) if _has_gradient(i, each) else None for i, each in enumerate(operands))


class _Pull(torch.autograd.Function):
    """(evaluation, two cotangents, two things kept, operands) -> the gradients to those operands that have some."""

    generate_vmap_rule = True

    @staticmethod
    def forward(evaluation: Evaluation, *arrays: Array) -> Arrays:
        cotangents, kept, operands = arrays[:2], arrays[2:4], arrays[4:]
        return _pulled(evaluation, operands, kept, cotangents)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Arrays) -> None:  # noqa: ARG004  as PyTorch calls it
        evaluation, first, second, _, _, *operands = inputs
        ctx.evaluation = evaluation
        _save(ctx, (first, second), operands)

    @staticmethod
    def backward(ctx: Any, *cotangents: Array) -> Any:
        function, arrays, places = _pull_of(ctx)
        _, pull = torch.func.vjp(function, *arrays)
        gradients = dict(zip(places, mapped(lambda *by: pull(by), *cotangents), strict=True))
        return None, *(gradients.get(i) for i in range(4 + len(Operands._fields)))


# PyTorch asks for it at each call, and to read it off the code takes longer than the call.
for each in (_Attend, _Pull):
    each.forward.__signature__ = signature(each.forward)  # type: ignore[attr-defined]


def _pull_of(ctx: Any) -> tuple[Callable[..., Arrays], Arrays, list[int]]:
    """Return what `_Pull` computes as a function of tensors alone, those tensors, and their places in its arguments."""
    cotangents, operands = _saved(ctx, 2)
    given = [*cotangents, None, None, *operands]
    places = [i for i, each in enumerate(given[: 4 + _MOVING]) if isinstance(each, torch.Tensor)]

    def function(*arrays: Array) -> Arrays:
        at = dict(enumerate(given)) | dict(zip(places, arrays, strict=True))
        return _pulled_anew(ctx.evaluation, tuple(at[i] for i in range(4, len(given))), (at[0], at[1]))

    return function, tuple(given[place] for place in places), places


def _pulled_anew(evaluation: Evaluation, operands: Arrays, cotangents: Arrays) -> Arrays:
    """Return the same with what is kept computed from the operands, so that its derivatives by them count."""
    evaluation = evaluation.without_stand_in()
    _, kept = evaluation.attend_keeping(Operands(*operands))
    return _pulled(evaluation, operands, kept, cotangents)


def _pulled(evaluation: Evaluation, operands: Arrays, kept: Arrays, cotangents: Arrays) -> Arrays:
    gradients = evaluation.vjp(Operands(*operands), kept, cotangents)
    return tuple(each for i, each in enumerate(gradients) if _has_gradient(i, operands[i]))


def _has_gradient(place: int, operand: Any) -> bool:
    return place < _MOVING and isinstance(operand, torch.Tensor)


def _padded(arrays: Arrays, length: int) -> Arrays:
    return *arrays, *(None for _ in range(length - len(arrays)))


def _save(ctx: Any, *groups: Any) -> None:
    """Keep tensors as PyTorch wants them kept, and the rest beside them."""
    everything = [each for group in groups for each in group]
    tensors = [each for each in everything if isinstance(each, torch.Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.rest = [None if isinstance(each, torch.Tensor) else (each,) for each in everything]


def _saved(ctx: Any, first: int) -> tuple[Arrays, Arrays]:
    """Return what was kept, cut behind the first so many."""
    tensors = iter(ctx.saved_tensors)
    everything = tuple(next(tensors) if each is None else each[0] for each in ctx.rest)
    return everything[:first], everything[first:]
