"""Every function of the array API that the core calls exists in CuPy, and takes what the core gives it.

Names and keywords are collected by running the core under a recording namespace of NumPy; no device is needed.
"""

from __future__ import annotations

import inspect
from typing import Any

import array_api_compat.cupy
import array_api_compat.numpy
import cupy
import numpy as np
import pytest
from calls import CALLS, tokens

from taylorshift_core import Backend, load_backend

Use = tuple[str, int, frozenset[str]]  # name, number of positional arguments, keywords


class RecordingNamespace:
    """NumPy's namespace; remembers each call, and each name that is no function."""

    __name__ = array_api_compat.numpy.__name__

    def __init__(self) -> None:
        self.calls: set[Use] = set()
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(array_api_compat.numpy, name)
        if not callable(found) or isinstance(found, type):
            self.names.add(name)
            return found

        def record(*args: Any, **keywords: Any) -> Any:
            self.calls.add((name, len(args), frozenset(keywords)))
            return found(*args, **keywords)

        return record


def fits_cupy(call: Use) -> bool:
    """Tell whether CuPy has the function, with these keywords."""
    name, n_positional, keywords = call
    function = getattr(array_api_compat.cupy, name, None)
    if function is None:
        return False
    if hasattr(function, "nin"):  # a ufunc
        return bool(n_positional == function.nin and keywords <= {"dtype", "out"})
    parameters = inspect.signature(function).parameters
    if any(
        each.kind is each.VAR_KEYWORD for each in parameters.values()
    ):  # of the wrapper: CuPy's own function decides
        passed_on = keywords - set(parameters)
        if not passed_on <= set(inspect.signature(getattr(cupy, name)).parameters if passed_on else ()):
            return False
    try:
        inspect.signature(function).bind(*range(n_positional), **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def test_calls_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = RecordingNamespace()
    backend = Backend(name="numpy", namespace=namespace)
    monkeypatch.setattr("taylorshift_core._registry._backend_for", lambda _namespace: backend)
    monkeypatch.setattr("ways.load_backend", lambda _name: backend)
    for dtype in (np.float16, np.float64):
        x = {name: each if each.dtype == np.bool_ else each.astype(dtype) for name, each in tokens().items()}
        for call in CALLS.values():
            call.run(x)
    assert {"matmul", "sum", "sqrt", "where", "concat", "astype", "zeros", "arange"} <= {
        name for name, *_ in namespace.calls
    }
    assert [call for call in sorted(namespace.calls, key=str) if not fits_cupy(call)] == []
    assert [name for name in sorted(namespace.names) if not hasattr(load_backend("cupy").namespace, name)] == []


@pytest.mark.parametrize(
    "call",
    [
        ("sum", 1, frozenset({"dims"})),
        ("sum", 1, frozenset({"initial"})),  # NumPy has it, and the wrapper around CuPy's passes it on
        ("sum", 9, frozenset()),
        ("sqrt", 2, frozenset()),
        ("sqrt", 1, frozenset({"axis"})),
        ("square_root", 1, frozenset()),
    ],
    ids=lambda call: f"{call[0]}, {call[1]} arguments, {' '.join(call[2]) or 'no keyword'}",
)
def test_a_call_that_cupy_refuses(call: Use) -> None:
    assert not fits_cupy(call)
