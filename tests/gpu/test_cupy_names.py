"""Every function of the array API that the core calls exists in CuPy, and takes what the core gives it.

The names and keywords are collected by running the core under a recording namespace of NumPy.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import array_api_compat.cupy
import array_api_compat.numpy
import numpy as np
import pytest
from gpu.cases import FORMS, PROBLEMS, TILES
from problems import draw

from taylorshift_core import Backend, attention, attention_weights, explain, summarise

Call = tuple[str, int, frozenset[str]]  # name, number of positional arguments, keywords


class RecordingNamespace:
    """NumPy's namespace; remembers each call."""

    __name__ = array_api_compat.numpy.__name__

    def __init__(self) -> None:
        self.calls: set[Call] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(array_api_compat.numpy, name)
        if not callable(found) or isinstance(found, type):
            return found

        def record(*args: Any, **keywords: Any) -> Any:
            self.calls.add((name, len(args), frozenset(keywords)))
            return found(*args, **keywords)

        return record


def fits_cupy(call: Call) -> bool:
    """Tell whether CuPy has the function, with these keywords."""
    name, n_positional, keywords = call
    function = getattr(array_api_compat.cupy, name, None)
    if function is None:
        return False
    if hasattr(function, "nin"):  # a ufunc
        return bool(n_positional == function.nin and keywords <= {"dtype", "out"})
    try:
        inspect.signature(function).bind(*range(n_positional), **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def test_calls_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = RecordingNamespace()
    backend = Backend(name="numpy", namespace=namespace)
    monkeypatch.setattr("taylorshift_core._registry._backend_for", lambda _namespace: backend)
    for problem in PROBLEMS.values():
        (query, key, value), options = draw(problem)
        inputs = [x.astype(np.float32) for x in (query, key, value)]
        if isinstance(options["scale"], np.ndarray):
            options["scale"] = options["scale"].astype(np.float32)
        for form in FORMS:
            attention(*inputs, plan=dataclasses.replace(explain(*inputs, form=form), **TILES), **options)
            attention(*(x.astype(np.float16) for x in inputs), form=form, is_causal=True)
        attention_weights(*inputs[:2], key_mask=options["key_mask"])
        state = summarise(*inputs[1:])
        (state + state - state).attend(inputs[0])
    names = {name for name, _, _ in namespace.calls}
    assert {"matmul", "sum", "sqrt", "where", "concat", "astype"} <= names
    assert [call for call in namespace.calls if not fits_cupy(call)] == []


@pytest.mark.parametrize(
    "call",
    [
        ("sum", 1, frozenset({"dims"})),
        ("sum", 9, frozenset()),
        ("sqrt", 2, frozenset()),
        ("sqrt", 1, frozenset({"axis"})),
        ("square_root", 1, frozenset()),
    ],
    ids=lambda call: f"{call[0]}, {call[1]} arguments, {' '.join(call[2]) or 'no keyword'}",
)
def test_a_call_that_cupy_refuses(call: Call) -> None:
    assert not fits_cupy(call)
