"""What the tests of JAX alone share: by whom programs have attention computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import pytest

from taylorshift_backends import _jax_numpy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def in_xla(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs compute all by themselves, as where NumPy's steps are not compiled."""
    monkeypatch.setattr(_jax_numpy, "_numpy_is_faster", lambda: False)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A list of methods that grows by one for each call of NumPy; the smallest call counts as worth one."""
    least = {form: dict.fromkeys(methods, 0.0) for form, methods in _jax_numpy._WORTH_A_CALL.items()}
    monkeypatch.setattr(_jax_numpy, "_WORTH_A_CALL", least)
    methods: list[str] = []
    original = _jax_numpy._Call.in_numpy

    def in_numpy(call: Any, *arrays: Any) -> Any:
        methods.append(call.method)
        return original(call, *arrays)

    monkeypatch.setattr(_jax_numpy._Call, "in_numpy", in_numpy)
    jax.clear_caches()
    yield methods
    jax.clear_caches()
