"""Arrays of libraries without an array namespace: taken through the library of their device, where they speak DLPack."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from taylorshift_core._namespace import has_namespace
from taylorshift_core._registry import load_backend
from taylorshift_core.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core._backend import Backend

P = ParamSpec("P")
R = TypeVar("R")
_LIBRARIES = {  # by the numbers that DLPack gives to kinds of devices
    1: ("numpy",),  # the CPU
    2: ("cupy", "torch"),  # CUDA
    3: ("numpy",),  # memory of the CPU, pinned for CUDA
    10: ("cupy", "torch"),  # ROCm
    13: ("cupy", "torch"),  # CUDA, managed
    14: ("dpnp",),  # oneAPI
}
_CUDA = 2


def takes_dlpack(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that refuses what is no array be called again, with what speaks DLPack taken as arrays."""

    @wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        try:
            return function(*arguments, **keywords)
        except BackendError:
            taken = [_taken(each) for each in arguments]
            named = {name: _taken(each) for name, each in keywords.items()}
            pairs = zip((*taken, *named.values()), (*arguments, *keywords.values()), strict=True)
            if all(new is old for new, old in pairs):
                raise
        return function(*taken, **named)

    return call


def _taken(thing: Any) -> Any:
    """Return an array of the library of its device, for what has none of its own; anything else as it is."""
    if isinstance(thing, list | tuple) and not hasattr(thing, "_fields"):
        several = [_taken(each) for each in thing]
        return thing if all(new is old for new, old in zip(several, thing, strict=True)) else several
    dlpack = hasattr(thing, "__dlpack__") and hasattr(thing, "__dlpack_device__")
    if not (dlpack or hasattr(thing, "__cuda_array_interface__")) or has_namespace(thing):
        return thing
    device = int(thing.__dlpack_device__()[0]) if dlpack else _CUDA
    kind = f"{type(thing).__module__}.{type(thing).__name__}"
    xp = _backend(kind, device).namespace
    try:
        return xp.from_dlpack(thing) if dlpack else xp.asarray(thing)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        msg = f"an array that is given by DLPack must be one that {xp.__name__} takes; got {kind}: {error}. Convert it."
        raise BackendError(msg) from error


def _backend(kind: str, device: int) -> Backend:
    """Return the first adapter whose library is there, of those for a kind of device."""
    for name in _LIBRARIES.get(device, ()):
        try:
            return load_backend(name)
        except BackendError:  # not installed: the next one
            continue
    wanted = " or ".join(_LIBRARIES.get(device, ())) or "its own library"
    msg = (
        f"an array that is given by DLPack must be on a device of a library that is installed; got {kind} on DLPack device "
        f"type {device}. Install {wanted}, or convert the array to one on the CPU."
    )
    raise BackendError(msg)
