"""The hand-written gradients, known to JAX: one linear primitive that goes forwards and backwards by the core's code.

``jax.custom_vjp`` has no forward mode, and what JAX makes of a tangent when it turns it round would store features. So
the tangent of attention is a primitive of its own, whose transpose is the core's pullback. Both are made of operations
of JAX: their own derivatives, of all orders and in all modes, are JAX's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from taylorshift_core import Operands

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core import Evaluation

Array = Any
Arrays = tuple[Array, ...]
_MOVING = 5  # of the operands: those that have gradients if they are arrays
_N_OPERANDS = len(Operands._fields)


def differentiable(evaluation: Evaluation, operands: Operands) -> Arrays:
    """Return the results of an evaluation, with the gradients of the core."""
    return _attend(evaluation, operands)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend(evaluation: Evaluation, operands: Operands) -> Arrays:
    return evaluation.attend(operands)


@_attend.defjvp
def _attend_jvp(evaluation: Evaluation, primals: tuple[Operands], tangents: tuple[Operands]) -> tuple[Arrays, Arrays]:
    """Return results and tangents, the latter by the primitive."""
    (operands,), (moving,) = primals, tangents
    results, kept = evaluation.attend_keeping(operands)
    places = [i for i, each in enumerate(operands[:_MOVING]) if each is not None]
    arrays, tree = jax.tree_util.tree_flatten((tuple(operands), kept))

    def forward(*arrays: Array) -> Arrays:
        operands, _ = jax.tree_util.tree_unflatten(tree, arrays[: len(arrays) - len(places)])
        at = dict(zip(places, arrays[len(arrays) - len(places) :], strict=True))
        return evaluation.jvp(Operands(*operands), tuple(at.get(i) for i in range(_MOVING)))[1]

    def backward(*arrays: Array) -> Arrays:
        operands, kept = jax.tree_util.tree_unflatten(tree, arrays[: len(arrays) - len(results)])
        gradients = evaluation.vjp(Operands(*operands), kept, arrays[len(arrays) - len(results) :])
        return tuple(gradients[i] for i in places)

    directions = [moving[i] for i in places]
    moved = _linear.bind(*arrays, *directions, forward=forward, backward=backward, n_fixed=len(arrays))
    return results, tuple(moved)


_linear = Primitive("taylorshift_linear")
_linear.multiple_results = True


def _forward(*arrays: Array, forward: Callable[..., Arrays], **_: Any) -> list[Array]:
    return list(forward(*arrays))


def _abstract(*arrays: Any, forward: Callable[..., Arrays], **_: Any) -> list[Any]:
    shapes = jax.eval_shape(forward, *(jax.ShapeDtypeStruct(each.shape, each.dtype) for each in arrays))
    return [jax.core.ShapedArray(each.shape, each.dtype) for each in shapes]


def _transpose(cotangents: list[Any], *arrays: Any, backward: Callable[..., Arrays], n_fixed: int, **_: Any) -> list[Any]:
    """Return the gradients to the arrays that the primitive is linear in."""
    given = [ad.instantiate_zeros(each) for each in cotangents]
    gradients = backward(*arrays[:n_fixed], *given)
    wanted = [by if ad.is_undefined_primal(at) else None for at, by in zip(arrays[n_fixed:], gradients, strict=True)]
    return [None] * n_fixed + wanted


def _jvp(primals: Arrays, tangents: Arrays, n_fixed: int, **functions: Any) -> tuple[list[Array], list[Array]]:
    """Return the results, and how they move: by the primitive itself if only what it is linear in moves, else by JAX."""
    results = _linear.bind(*primals, n_fixed=n_fixed, **functions)
    moving = [ad.instantiate_zeros(each) for each in tangents]
    if all(type(each) is ad.Zero for each in tangents[:n_fixed]):
        return results, _linear.bind(*primals[:n_fixed], *moving[n_fixed:], n_fixed=n_fixed, **functions)
    _, moved = jax.jvp(functions["forward"], primals, tuple(moving))
    return results, list(moved)


def _batch(
    arrays: Arrays, axes: tuple[Any, ...], forward: Callable[..., Arrays], backward: Callable[..., Arrays], n_fixed: int
) -> tuple[list[Array], list[int]]:
    """Return results for a batch along their first axes, by the primitive of functions that take batches."""
    size = next(each.shape[axis] for each, axis in zip(arrays, axes, strict=True) if axis is not None)
    moving = [_to_front(each, axis, size) for each, axis in zip(arrays[n_fixed:], axes[n_fixed:], strict=True)]

    def batched(function: Callable[..., Arrays]) -> Callable[..., Arrays]:
        return lambda *arrays: jax.vmap(function, (*axes[:n_fixed], *(0 for _ in arrays[n_fixed:])))(*arrays)

    functions = {"forward": batched(forward), "backward": batched(backward)}
    results = _linear.bind(*arrays[:n_fixed], *moving, n_fixed=n_fixed, **functions)
    return results, [0] * len(results)


def _to_front(array: Array, axis: int | None, size: int) -> Array:
    if axis is None:
        return jax.numpy.broadcast_to(array, (size, *array.shape))
    return jax.numpy.moveaxis(array, axis, 0)


_linear.def_impl(_forward)
_linear.def_abstract_eval(_abstract)
mlir.register_lowering(_linear, mlir.lower_fun(_forward, multiple_results=True))
ad.primitive_transposes[_linear] = _transpose
ad.primitive_jvps[_linear] = _jvp
batching.primitive_batchers[_linear] = _batch
