"""Tensors on the CPU, computed by the NumPy adapter on views of their memory: its tiles are faster than PyTorch's operators."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from taylorshift_backends._torch_kinds import forwards, transformed
from taylorshift_core import Operands
from taylorshift_core.loops import most_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core import Evaluation

Array = Any
Arrays = tuple[Array, ...]
_SIDE_BY_SIDE = find_spec("threadpoolctl") is not None  # without it NumPy's adapter has one thread
_KINDS = torch.Tensor, torch.nn.Parameter  # others do more than look at memory
_DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def stand_in(query: Array) -> str | None:
    """Return the adapter that attention of tensors like this one is planned for, see `taylorshift_core.Backend`."""
    return "numpy" if _SIDE_BY_SIDE and _is_view(query) and query.dtype in _DTYPES else None


def elsewhere(evaluation: Evaluation, method: str, *given: Any) -> Any:
    """Return what a method of an evaluation returns: computed by NumPy where it can look at all tensors, else by PyTorch."""
    try:
        views = None if forwards() or transformed() else _mapped(_view, given)
    except _NoViewError:
        views = None
    if views is None:
        return getattr(evaluation.without_stand_in(), method)(*given)
    where = evaluation.of_stand_in(_DTYPES[given[0].query.dtype], "cpu")
    limit = most_threads.set(torch.get_num_threads())
    try:
        return _mapped(_tensor, getattr(where, method)(*views))
    finally:
        most_threads.reset(limit)


class _NoViewError(Exception):
    """A tensor whose memory NumPy cannot look at."""


def _is_view(thing: Any) -> bool:
    """Tell whether a tensor has memory that NumPy can look at."""
    return type(thing) in _KINDS and thing.device.type == "cpu" and thing.layout is torch.strided and not thing.is_neg()


def _mapped(function: Callable[[Any], Any], given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a tuple of arrays, or of tuples of them, with a function applied to each array."""
    parts = [
        each if each is None else _mapped(function, each) if isinstance(each, tuple) else function(each)
        for each in given
    ]
    return Operands._make(parts) if isinstance(given, Operands) else tuple(parts)


def _view(thing: Any) -> Any:
    if type(thing) not in _KINDS:
        if isinstance(thing, torch.Tensor):
            raise _NoViewError
        return thing
    try:
        return (thing.detach() if thing.requires_grad else thing).numpy()
    except (RuntimeError, TypeError) as error:  # not on the CPU, not in strides, negated when it is read
        raise _NoViewError from error


def _tensor(thing: Any) -> Any:
    if not isinstance(thing, np.ndarray | np.generic):
        return thing
    array = np.asarray(thing, order="C")
    # An axis of size 1 may have a stride of any sign, which PyTorch refuses.
    return torch.from_numpy(array if min(array.strides, default=0) >= 0 else array.copy())
