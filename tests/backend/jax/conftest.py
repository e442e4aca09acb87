"""What the tests of JAX alone share: by whom programs have attention computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest

from taylorshift_backends import _jax_numpy

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.append(str(Path(__file__).parent))  # `called`, a module of these tests; behind the other conftest


@pytest.fixture
def in_xla(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs compute all by themselves, as where NumPy's steps are not compiled."""
    yield from _numpy_is_faster(monkeypatch, faster=False)


@pytest.fixture
def numpy_is_faster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs call NumPy as where its steps are compiled, which they need not be."""
    yield from _numpy_is_faster(monkeypatch, faster=True)


def _numpy_is_faster(monkeypatch: pytest.MonkeyPatch, *, faster: bool) -> Iterator[None]:
    monkeypatch.setattr(_jax_numpy, "_numpy_is_faster", lambda: faster)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, numpy_is_faster: None) -> list[str]:
    """A list of methods that grows by one for each call of NumPy; the smallest call counts as worth one.

    No call may write into what it is given: that is memory of JAX, perhaps an array of the caller's.
    """
    monkeypatch.setattr(_jax_numpy, "_LEAST", dict.fromkeys(_jax_numpy._LEAST, 0.0))
    methods: list[str] = []
    original = _jax_numpy._Call.in_numpy

    def in_numpy(call: Any, *arrays: Any) -> Any:
        before = [each.copy() for each in arrays]
        results = original(call, *arrays)
        for was, is_now in zip(before, arrays, strict=True):
            np.testing.assert_array_equal(is_now, was)
        methods.append(call.method)
        return results

    monkeypatch.setattr(_jax_numpy._Call, "in_numpy", in_numpy)
    return methods
