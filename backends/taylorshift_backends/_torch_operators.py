"""The attention and its gradients as operators of PyTorch: in a compiled or exported program a call is one node.

So a program is as short for a million tokens as for ten, lengths may be left open, and what runs is what runs without it:
tiles, with memory that does not grow with the features of all tokens.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch

from taylorshift_core import Evaluation, Operands

Array = Any
_OPERANDS = "Tensor query, Tensor key, Tensor value, Tensor? scale, Tensor? sums, Tensor? key_mask, Tensor? attn_mask"
_MOVING = 5  # of the operands have gradients


def attend_traced(evaluation: Evaluation, operands: Operands, *, recorded: bool) -> tuple[Array, ...]:
    """Return the results of an evaluation as outputs of an operator."""
    settings = json.dumps({"scale": _number(operands.scale), "keep": recorded, **evaluation.settings})
    scale = operands.scale if isinstance(operands.scale, torch.Tensor) else None
    return tuple(_attend(*operands._replace(scale=scale), settings))[: 1 + evaluation.with_state]


def _number(scale: Any) -> float | None:
    return None if scale is None or isinstance(scale, torch.Tensor) else float(scale)


def _evaluation(settings: str, operands: tuple[Array | None, ...]) -> tuple[Evaluation, Operands, bool]:
    options = json.loads(settings)
    given = Operands(*operands)
    given = given if given.scale is not None else given._replace(scale=options["scale"])
    return Evaluation.with_settings(options, given), given, options["keep"]


@torch.library.custom_op("taylorshift::attend", mutates_args=(), schema=f"({_OPERANDS}, str settings) -> Tensor[]")
def _attend(*arguments: Any) -> list[Array]:
    *operands, settings = arguments
    evaluation, given, keep = _evaluation(settings, tuple(operands))
    results, kept = evaluation.attend_keeping(given) if keep else (evaluation.attend(given), ())
    return [_own(each) for each in (*results, *kept)]


@torch.library.custom_op(
    "taylorshift::pull",
    mutates_args=(),
    schema=f"(Tensor? to_output, Tensor? to_sums, Tensor[] kept, {_OPERANDS}, str settings) -> Tensor[]",
)
def _pull(to_output: Array | None, to_sums: Array | None, kept: list[Array], *arguments: Any) -> list[Array]:
    *operands, settings = arguments
    evaluation, given, _ = _evaluation(settings, tuple(operands))
    gradients = evaluation.vjp(given, tuple(kept), (to_output, to_sums)[: 1 + evaluation.with_state])
    return [_own(by) for by, at in zip(gradients, operands, strict=False) if at is not None]


def _own(array: Array) -> Array:
    """Return a tensor that shares no memory with another output, laid out as its shape says."""
    return array.clone(memory_format=torch.contiguous_format)


@_attend.register_fake
def _(*arguments: Any) -> list[Array]:
    *operands, settings = arguments
    evaluation, given, keep = _evaluation(settings, tuple(operands))
    results, kept = replace(evaluation, causal=None).attend_keeping(
        given
    )  # shapes are the same, and no chunks walked along
    kept = kept[:1] if evaluation.causal is not None else kept
    return [_own(each) for each in (*results, *(kept if keep else ()))]


@_pull.register_fake
def _(_to_output: Array | None, _to_sums: Array | None, _kept: list[Array], *arguments: Any) -> list[Array]:
    return [torch.empty_like(at, memory_format=torch.contiguous_format) for at in arguments[:_MOVING] if at is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Array]) -> None:
    *operands, ctx.settings = inputs
    options = json.loads(ctx.settings)
    ctx.results = 1 + options["with_state"]
    ctx.save_for_backward(*operands, *output[ctx.results :])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, cotangents: list[Array | None]) -> Any:
    n_operands = len(Operands._fields)
    operands, kept = ctx.saved_tensors[:n_operands], ctx.saved_tensors[n_operands:]
    given = (*cotangents[: ctx.results], None)[:2]
    gradients = iter(_pull(*given, list(kept), *operands, ctx.settings))
    of_operands = [next(gradients) if at is not None else None for at in operands[:_MOVING]]
    return *of_operands, None, None, None


_attend.register_autograd(_backward, setup_context=_keep)
