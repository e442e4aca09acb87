"""Comparisons that raise: shape, dtype, device and array library as well as values."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from oracle import attention_oracle, cancellation
from problems import draw

from taylorshift_core import attention, explain

if TYPE_CHECKING:
    from conftest import Library
    from numpy.typing import NDArray
    from problems import Problem


def assert_matches(
    library: Library,
    dtype: str,
    actual: Any,
    expected: NDArray[np.float64],
    *,
    terms: int,
    reference: float | None = None,
) -> None:
    """Raise unless `actual` is the library's array of `dtype` on the test device and equals `expected`.

    The error allowed is ``4 * eps * sqrt(terms) * reference``; `reference` is max|expected| unless a test says why not.
    Where `expected` is NaN, `actual` must be; where `expected` is infinite, `actual` must equal it.
    """
    assert_kind(library, dtype, actual, expected.shape)
    got = library.exact(actual)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    if reference is None:
        reference = float(np.max(np.abs(expected[finite]), initial=0.0))
    error = float(np.max(np.abs(got[finite] - expected[finite]), initial=0.0))
    allowed = 4 * eps_of(library, dtype) * math.sqrt(terms) * reference
    if not error <= allowed:  # a NaN must not pass
        where = np.unravel_index(
            np.argmax(np.where(finite, np.nan_to_num(np.abs(got - expected), nan=np.inf), 0)), got.shape
        )
        at = tuple(int(i) for i in where)
        msg = f"error {error:.3g} > {allowed:.3g} allowed ({terms} terms, {dtype}); largest at {at}: got {got[at]}, expected {expected[at]}"
        raise AssertionError(msg)


def assert_kind(library: Library, dtype: str, actual: Any, shape: tuple[int, ...]) -> None:
    """Raise unless `actual` has the shape, and the array type, dtype and device of the inputs."""
    example = library.to_array(np.zeros(1), dtype)
    assert type(actual) is type(example)
    assert tuple(actual.shape) == tuple(shape)
    assert actual.dtype == example.dtype
    assert library.device_of(actual) == library.device_of(example)


def assert_same_bits(library: Library, actual: Any, expected: Any) -> None:
    """Raise unless two arrays of the library agree in kind and in every bit."""
    assert type(actual) is type(expected)
    assert tuple(actual.shape) == tuple(expected.shape)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(library.exact(actual), library.exact(expected))
    assert library.bits(actual) == library.bits(expected)


def assert_same_steps(library: Library, dtype: str, actual: Any, expected: Any, *, terms: int) -> None:
    """Raise unless two outputs of the same operations agree: in every bit, unless each was compiled in a program of its own.

    A compiler fuses the operations of each program as suits the rest of it; then both may err as results may.
    """
    if library.backend.traced:
        assert_matches(library, dtype, actual, library.exact(expected), terms=terms)
    else:
        assert_same_bits(library, actual, expected)


def assert_attention(library: Library, dtype: str, problem: Problem, form: str, **tiles: int) -> None:
    """Run one problem, cut into `tiles` of chosen sizes if any, and hold it against the oracle on the rounded inputs."""
    arrays, keywords = draw(problem)
    compare_attention(library, dtype, arrays, keywords, form=form, terms=problem.terms, tiles=tiles)


def compare_attention(
    library: Library,
    dtype: str,
    arrays: tuple[Any, Any, Any],
    keywords: dict[str, Any],
    *,
    form: str,
    terms: int,
    tiles: dict[str, int] | None = None,
) -> Any:
    """Round NumPy inputs to `dtype`, run them, hold the result against the oracle, and return it."""
    inputs = [library.to_array(x, dtype) for x in arrays]
    options = {name: library.to_array(x, dtype) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
    query, key, value = (library.exact(x) for x in inputs)
    exact = {name: library.exact(x) if isinstance(keywords[name], np.ndarray) else x for name, x in options.items()}
    plan = dataclasses.replace(explain(*inputs, form=form, **options), **tiles) if tiles else None
    actual = library.run(attention, *inputs, form=form, plan=plan, **options)
    expected = attention_oracle(query, key, value, **exact)
    reference = np.max(np.abs(expected), initial=0.0) * cancellation(query, key, **exact)
    assert_matches(library, dtype, actual, expected, terms=terms, reference=reference)
    return actual


def within(dtype: str, factor: float) -> float:
    """Return a factor of that size, or the nearest to it that takes no usual number out of the range of float16."""
    return min(max(factor, 1e-4), 1e4) if dtype == "float16" else factor


def summed(library: Library, dtype: str) -> str:
    """Return the precision that the library sums in, for inputs of `dtype`."""
    xp = library.namespace
    wide = library.backend.working_dtype(xp, getattr(xp, dtype))
    return next(name for name in ("float64", "float32") if wide == getattr(xp, name, None))


def eps_of(library: Library, dtype: str) -> float:
    """Return the spacing of `dtype` at 1."""
    return float(library.namespace.finfo(getattr(library.namespace, dtype)).eps)
