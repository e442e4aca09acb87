"""What is being done with tensors around a call: whether they are computed at all, recorded, traced or transformed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any
Arrays = tuple[Array, ...]


def traced() -> bool:
    """Tell whether a program is being made of the call, to be run later: `torch.compile`, `torch.export`."""
    return torch.compiler.is_compiling()


def forwards() -> bool:
    """Tell whether forward mode is on."""
    return forward_ad._current_level >= 0


def transformed() -> bool:
    """Tell whether a transform of `torch.func` is on: vmap, grad, jvp."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def recorded(*arrays: Array) -> bool:
    """Tell whether gradients may be asked for; inside a transform, tensors do not say so themselves."""
    return torch.is_grad_enabled() and (
        transformed() or any(_is_tensor(each) and each.requires_grad for each in arrays)
    )


def stored(array: Array) -> bool:
    """Tell whether a tensor has memory of its own, in which it is worth while to look at one part after the other."""
    return type(array) in (torch.Tensor, torch.nn.Parameter) and array.device.type != "meta"


def writable(array: Array) -> bool:
    """Tell whether a tensor that is nobody else's may be written over: nothing looks at how it came about."""
    return stored(array) and not (recorded(array) or forwards() or transformed())


def plain(array: Array) -> bool:
    """Tell whether it is so on the CPU, where it also pays to write into memory that is used again."""
    return array.device.type == "cpu" and writable(array)


def mapped(function: Callable[..., Arrays], *arrays: Array | None) -> Arrays:
    """Return ``function(*arrays)``, with PyTorch's new vmap where ``grad(..., is_grads_batched=True)`` uses its first one.

    That one knows too few operations, and nothing of functions of ours; it is never nested, so its level is 1.
    """
    axes = tuple(0 if _is_tensor(each) and _is_batched(each) else None for each in arrays)
    if axes.count(0) == 0:
        return function(*arrays)
    whole = (
        each if axis is None else torch._remove_batch_dim(each, 1, 0, axis)
        for axis, each in zip(axes, arrays, strict=True)
    )
    results = torch.func.vmap(function, in_dims=axes)(*whole)
    return tuple(torch._add_batch_dim(each, 0, 1) for each in results)


def _is_batched(array: Array) -> bool:
    answer: bool = torch._C._functorch.is_legacy_batchedtensor(array)
    return answer


def _is_tensor(thing: Any) -> bool:
    return isinstance(thing, torch.Tensor)
