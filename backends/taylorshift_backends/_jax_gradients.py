"""The hand-written gradients, known to JAX: a linear primitive that goes forwards and backwards by the core's code.

``jax.custom_vjp`` has no forward mode, ``linear_call`` neither batches nor lets its residuals move, and what JAX makes of
a causal loop when it turns it round would keep the state of every chunk. So the tangent of attention is a primitive of
its own, whose transpose is the core's pullback. Both are made of operations of JAX: their own derivatives, of all orders
and in all modes, are JAX's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from taylorshift_backends._jax_shards import vary_alike

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core import Evaluation, Operands

Array = Any
Arrays = tuple[Array, ...]
_MOVING = 5  # of the operands: those that have gradients if they are arrays


def differentiable(evaluation: Evaluation, operands: Operands) -> Arrays:
    """Return the results of an evaluation, compiled once for all operands of one kind, with the gradients of the core."""
    if isinstance(operands.scale, (int, float)):
        operands = operands._replace(scale=jnp.asarray(operands.scale, evaluation.call.dtype))
    anywhere = replace(evaluation, call=replace(evaluation.call, device=None))  # a program goes where its arrays are
    return _attend(anywhere, vary_alike(operands))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_tangents(evaluation: Evaluation, operands: Operands) -> Arrays:
    return evaluation.attend(operands)


# The program is around what has tangents of its own: the other way round JAX looks into the function at each call, which
# took as long again as the rest of a small one.
_attend = jax.jit(_with_tangents, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _attend_keeping(evaluation: Evaluation, operands: Operands) -> tuple[Arrays, Arrays]:
    return evaluation.attend_keeping(operands)


@_with_tangents.defjvp
def _attend_jvp(evaluation: Evaluation, primals: tuple[Operands], tangents: tuple[Operands]) -> tuple[Arrays, Arrays]:
    """Return results and tangents, the latter by the primitive."""
    (operands,), (moving,) = primals, tangents
    results, kept = _attend_keeping(evaluation, operands)
    places = tuple(i for i, each in enumerate(operands[:_MOVING]) if each is not None)
    arrays, tree = jax.tree.flatten((operands, kept))
    return results, tuple(_linear.bind(*arrays, *(moving[i] for i in places), rule=_Rule(evaluation, tree, places)))


@dataclass(frozen=True)
class _Rule:
    """What the primitive computes, as a value: it is compiled once.

    It is linear in its last arrays, the tangents of the operands at `places`; those before them are `tree`, the operands
    and what the evaluation kept. Each entry of `axes` says along which axes all its arrays are batched once more.
    """

    evaluation: Evaluation
    tree: Any
    places: tuple[int, ...]
    axes: tuple[tuple[int | None, ...], ...] = ()

    @property
    def fixed(self) -> int:
        """How many arrays the primitive is not linear in."""
        return self.tree.num_leaves

    def forward(self, *arrays: Array) -> Arrays:
        """Return the tangents of the results."""
        return self._batched(self._forward)(*arrays)

    def backward(self, *arrays: Array) -> Arrays:
        """Return the gradients to the operands at `places`; the last arrays are the gradients to the results."""
        return self._batched(self._backward)(*arrays)

    def _forward(self, *arrays: Array) -> Arrays:
        operands, _ = self.tree.unflatten(arrays[: self.fixed])
        moving = dict(zip(self.places, arrays[self.fixed :], strict=True))
        return self.evaluation.jvp(operands, tuple(moving.get(i) for i in range(_MOVING)))[1]

    def _backward(self, *arrays: Array) -> Arrays:
        operands, kept = self.tree.unflatten(arrays[: self.fixed])
        gradients = self.evaluation.vjp(operands, kept, arrays[self.fixed :])
        return tuple(gradients[i] for i in self.places)

    def _batched(self, function: Callable[..., Arrays]) -> Callable[..., Arrays]:
        for axes in self.axes:
            function = partial(_map_over, function, axes)
        return function


def _map_over(function: Callable[..., Arrays], axes: tuple[int | None, ...], *arrays: Array) -> Arrays:
    """Return the function of a batch; arrays behind those that `axes` name have it along their first axis."""
    return jax.vmap(function, (*axes, *(0 for _ in arrays[len(axes) :])))(*arrays)


_linear = Primitive("taylorshift_linear")
_linear.multiple_results = True


@partial(jax.jit, static_argnums=0)
def _forward(rule: _Rule, *arrays: Array) -> Arrays:
    return rule.forward(*arrays)


@partial(jax.jit, static_argnums=0)
def _backward(rule: _Rule, *arrays: Array) -> Arrays:
    return rule.backward(*arrays)


def _abstract(*arrays: Any, rule: _Rule) -> list[Any]:
    return jax.make_jaxpr(rule.forward)(*arrays).out_avals


def _transpose(cotangents: list[Any], *arrays: Any, rule: _Rule) -> list[Any]:
    """Return the gradients to the arrays that the primitive is linear in."""
    given = [ad.instantiate_zeros(each) for each in cotangents]
    gradients = _backward(rule, *arrays[: rule.fixed], *given)
    moving = arrays[rule.fixed :]
    wanted = [by if ad.is_undefined_primal(at) else None for at, by in zip(moving, gradients, strict=True)]
    return [None] * rule.fixed + wanted


def _jvp(primals: Arrays, tangents: Arrays, rule: _Rule) -> tuple[list[Array], list[Array]]:
    """Return the results, and how they move: by the primitive itself if only what it is linear in moves, else by JAX."""
    moving = [ad.instantiate_zeros(each) for each in tangents]
    if all(type(each) is ad.Zero for each in tangents[: rule.fixed]):
        results = _linear.bind(*primals, rule=rule)
        return results, _linear.bind(*primals[: rule.fixed], *moving[rule.fixed :], rule=rule)
    results, moved = jax.jvp(partial(_forward, rule), primals, tuple(moving))
    return list(results), list(moved)


def _batch(arrays: Arrays, axes: tuple[Any, ...], rule: _Rule) -> tuple[list[Array], list[int]]:
    """Return the results for a batch, along their first axes, by the primitive of one batch more."""
    size = next(each.shape[axis] for each, axis in zip(arrays, axes, strict=True) if axis is not None)
    moving = [_to_front(*each, size) for each in zip(arrays[rule.fixed :], axes[rule.fixed :], strict=True)]
    batched = replace(rule, axes=(*rule.axes, axes[: rule.fixed]))
    results = _linear.bind(*arrays[: rule.fixed], *moving, rule=batched)
    return results, [0] * len(results)


def _to_front(array: Array, axis: int | None, size: int) -> Array:
    if axis is None:
        return jnp.broadcast_to(array, (size, *array.shape))
    return jnp.moveaxis(array, axis, 0)


_linear.def_impl(lambda *arrays, rule: list(_forward(rule, *arrays)))
_linear.def_abstract_eval(_abstract)
mlir.register_lowering(_linear, mlir.lower_fun(lambda *arrays, rule: rule.forward(*arrays), multiple_results=True))
ad.primitive_transposes[_linear] = _transpose
ad.primitive_jvps[_linear] = _jvp
batching.primitive_batchers[_linear] = _batch
