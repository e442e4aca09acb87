"""Libraries that nobody wrote an adapter for: the array API is enough."""

from __future__ import annotations

import dataclasses
from typing import Any

import array_api_strict
import cubed
import mparray
import mpmath
import numpy as np
import pytest
from oracle import attention_oracle
from problems import Problem, draw

import taylorshift_core._registry as registry
from taylorshift_core import Backend, BackendError, attention, attention_vjp, backend_names, explain

FORMS = ("direct", "efficient")
PROBLEM = Problem(6, 5, 3, 2, 4, 2, (2,), (2,), (2,), scale="per head", key_mask="batch, heads", normalise_output=True)


def _inputs(make: Any, problem: Problem = PROBLEM) -> tuple[list[Any], dict[str, Any], np.ndarray]:
    """Return the arrays of a problem in some library, its options, and what the definition says."""
    arrays, keywords = draw(problem)
    options = {name: make(x) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
    return [make(x) for x in arrays], options, attention_oracle(*arrays, **keywords)


def _halves(array: np.ndarray) -> Any:
    return cubed.from_array(array, chunks=tuple(max(1, -(-size // 2)) for size in array.shape))


@pytest.mark.parametrize("library", [cubed, mparray])
def test_there_is_no_adapter_for_it(library: Any) -> None:
    array = cubed.from_array(np.ones((2, 2))) if library is cubed else mparray.asarray([[1.0]])
    assert library.__name__ not in backend_names()
    backend = registry.backend_of(array=array)
    assert type(backend) is Backend
    assert backend.name == library.__name__
    plain = Backend(name=backend.name, namespace=backend.namespace)
    fields = [field.name for field in dataclasses.fields(Backend) if field.name != "from_numpy"]
    assert all(getattr(backend, name) == getattr(plain, name) for name in fields)


@pytest.mark.parametrize("form", FORMS)
def test_cubed_in_chunks_along_all_axes(form: str) -> None:
    inputs, options, expected = _inputs(_halves)
    actual = attention(*inputs, form=form, **options)
    assert type(actual) is type(inputs[0])
    np.testing.assert_allclose(actual.compute(), expected, rtol=0, atol=1e-15)


def test_cubed_computes_nothing_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(*_: Any, **__: Any) -> None:
        msg = "a cubed array was computed early"
        raise AssertionError(msg)

    inputs, options, _ = _inputs(_halves)
    monkeypatch.setattr("cubed.core.array.compute", computed)
    output = attention(*inputs, form="efficient", **options)
    with pytest.raises(AssertionError, match="computed early"):
        output.compute()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_mparray_in_fifty_digits(form: str, is_causal: bool) -> None:
    """Both forms agree to all digits, so what they differ by elsewhere is rounding."""
    with mpmath.workdps(50):
        problem = dataclasses.replace(PROBLEM, query_length=5, normalise_output=not is_causal)
        inputs, options, expected = _inputs(mparray.asarray, problem)
        plan = dataclasses.replace(explain(*inputs, form=form), query_tile=2, key_tile=3)
        actual = attention(*inputs, plan=plan, is_causal=is_causal, **options)
        other = attention(*inputs, form="efficient" if form == "direct" else "direct", is_causal=is_causal, **options)
        assert mparray.max(mparray.abs(actual - other)) < mpmath.mpf(10) ** -45
        if not is_causal:
            np.testing.assert_allclose(actual._data.astype(np.float64), expected, rtol=0, atol=1e-15)


def test_mparray_has_gradients() -> None:
    with mpmath.workdps(50):
        inputs, options, _ = _inputs(mparray.asarray)
        step = mpmath.mpf(10) ** -16
        output, pull = attention_vjp(*inputs, form="efficient", **options)
        gradient = mparray.sum(pull(mparray.ones_like(output)).key)
        moved = [attention(inputs[0], inputs[1] + sign * step, inputs[2], **options) for sign in (1, -1)]
        difference = mparray.sum(moved[0] - moved[1]) / (2 * step)
        assert mparray.abs(gradient - difference) < mpmath.mpf(10) ** -28


def test_libraries_do_not_mix() -> None:
    strict, many = array_api_strict.ones((2, 2)), mparray.asarray([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(BackendError, match=r"one library; got query of array_api_strict, key of mparray"):
        attention(strict, many, strict)
