"""The doors of the library: its public functions, which an adapter may wrap for a compiler that traces Python code.

What stands behind a door is checked, planned and looked up by names, none of which such a compiler can follow or should.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from taylorshift_core._registry import backend_names, load_backend
from taylorshift_core.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")
_behind: dict[str, Callable[..., Any]] = {}
_wrappers: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = []


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function one that adapters may wrap."""
    name = f"{function.__module__}.{function.__qualname__}"
    _behind[name] = function
    for wrapper in _wrappers:
        _behind[name] = wrapper(_behind[name])

    @wraps(function)
    def door(*args: P.args, **kwargs: P.kwargs) -> R:
        _load_imported()
        result: R = _behind[name](*args, **kwargs)
        return result

    return door


def wrap_entries(wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap all public functions, those too that are defined later."""
    _wrappers.append(wrapper)
    for name, function in _behind.items():
        _behind[name] = wrapper(function)


def _load_imported() -> None:
    """Load the adapters of libraries that are imported already, so that they have wrapped what they need to."""
    waiting = _waiting()
    for name in [name for name in tuple(waiting) if name in sys.modules]:  # other threads take names off meanwhile
        waiting.discard(name)
        with suppress(BackendError):
            load_backend(name)


@cache
def _waiting() -> set[str]:
    """Return the names of adapters that nobody tried to load here, for those who take off what they try."""
    return set(backend_names())


_load_imported._dynamo_marked_constant = True  # type: ignore[attr-defined]  # PyTorch's compiler: call it, do not trace it
