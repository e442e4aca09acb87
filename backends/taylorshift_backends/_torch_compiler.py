"""What the compiler of PyTorch is told: a public call is one piece, and a state a container of tensors."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from taylorshift_core import Plan
from taylorshift_core.pytrees import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable


def in_one_piece(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose Python code the compiler does not read: it runs as it is, and its operations are seen."""
    piece = torch._dynamo.nonstrict_trace(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        given = {name: each for name, each in kwargs.items() if each is not None}  # None is no input of a piece
        return piece(*args, **given)

    return call


def register_pytrees() -> None:
    """Tell PyTorch which tensors are in a state, a decoder or a window."""
    for kind in CLASSES:
        pytree.register_pytree_node(
            kind,
            _flatten,
            lambda present, rest, kind=kind: _unflatten(kind, present, rest),
            serialized_type_name=f"taylorshift_core.{kind.__name__}",
        )
    pytree.register_constant(Plan)


def _flatten(thing: Any) -> tuple[list[Any], Any]:
    """Return the parts that are there, and which those are beside the rest."""
    parts, rest = thing.tree_flatten()
    return [part for part in parts if part is not None], (tuple(part is not None for part in parts), rest)


def _unflatten(kind: Any, present: Any, rest: Any) -> Any:
    there, own = rest
    parts = iter(present)
    return kind.tree_unflatten(own, [next(parts) if each else None for each in there])
