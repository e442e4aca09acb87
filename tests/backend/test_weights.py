"""`attention_weights`: the matrix of the definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_kind, assert_matches, assert_same_bits, eps_of, within
from oracle import attention_weights_oracle
from problems import MASKS, Problem, draw, every_three_together

from taylorshift_core import attention, attention_weights

if TYPE_CHECKING:
    from conftest import Library

NAMES = ("scale", "normalise", "coefficients", "key_mask")


def _inputs(library: Library, dtype: str, problem: Problem) -> tuple[list[Any], dict[str, Any]]:
    """Return query and key, and the keywords of `attention_weights`, as the library's arrays."""
    (query, key, _), keywords = draw(problem)
    options = {name: keywords[name] for name in NAMES}
    options = {k: library.to_array(x, dtype) if isinstance(x, np.ndarray) else x for k, x in options.items()}
    return [library.to_array(x, dtype) for x in (query, key)], options


def _compare(library: Library, dtype: str, problem: Problem) -> Any:
    inputs, options = _inputs(library, dtype, problem)
    exact = {k: library.exact(x) if library.is_array(x) else x for k, x in options.items()}
    actual = library.run(attention_weights, *inputs, **options)
    expected = attention_weights_oracle(*(library.exact(x) for x in inputs), **exact)
    assert_matches(library, dtype, actual, expected, terms=problem.terms)
    return actual


@pytest.mark.parametrize("problem", [pytest.param(p, id=f"{i:03}") for i, p in enumerate(every_three_together())][::3])
def test_options(library: Library, dtype: str, problem: Problem) -> None:
    _compare(library, dtype, problem)


@pytest.mark.parametrize("query_length", [0, 1, 2, 30])
@pytest.mark.parametrize("key_length", [0, 1, 2, 70])
def test_lengths(library: Library, dtype: str, query_length: int, key_length: int) -> None:
    actual = _compare(library, dtype, Problem(query_length, key_length, heads=4))
    assert tuple(actual.shape) == (4, query_length, key_length)


def test_two_axes_are_one_head(library: Library, dtype: str) -> None:
    query, key = np.random.default_rng(5).standard_normal((2, 4, 3))
    inputs = [library.to_array(x, dtype) for x in (query, key[:3])]
    expected = attention_weights_oracle(*(library.exact(x) for x in inputs))
    assert_matches(library, dtype, library.run(attention_weights, *inputs), expected, terms=13)


@pytest.mark.parametrize("kind", MASKS)
def test_rows_sum_to_one_or_to_zero(library: Library, dtype: str, kind: str) -> None:
    inputs, options = _inputs(library, dtype, Problem(6, 40, heads=4, key_mask=kind))
    weights = library.exact(library.run(attention_weights, *inputs, **options))
    sums = weights.sum(axis=-1)
    assert (weights >= 0).all()
    nothing = (weights == 0).all(axis=-1)
    assert nothing.any() == (kind in ("batch, kv heads", "batch, heads", "nothing"))
    np.testing.assert_allclose(sums[~nothing], 1.0, rtol=4 * eps_of(library, dtype) * np.sqrt(50))


def test_zero_huge_and_tiny_rows(library: Library, dtype: str) -> None:
    (query, key, _), _ = draw(Problem())
    query[:, 0], key[:, 1] = 0.0, 0.0
    query[:, 1] *= within(dtype, 1e30)
    key[:, 2] *= within(dtype, 1e-30)
    inputs = [library.to_array(x, dtype) for x in (query, key)]
    expected = attention_weights_oracle(*(library.exact(x) for x in inputs))
    assert_matches(library, dtype, library.run(attention_weights, *inputs), expected, terms=15)


@pytest.mark.parametrize("form", ["direct", "efficient"])
def test_weights_times_values_are_attention(library: Library, dtype: str, form: str) -> None:
    problem = Problem(heads=4, key_mask="batch, heads", scale="per head", coefficients=(1.0, 0.0, 1.0))
    inputs, options = _inputs(library, dtype, problem)
    value = library.to_array(draw(problem)[0][2], dtype)
    weights = library.exact(library.run(attention_weights, *inputs, **options))
    expected = weights @ np.repeat(library.exact(value), 2, axis=-3)
    actual = library.run(attention, *inputs, value, form=form, **options)
    assert_matches(library, dtype, actual, expected, terms=problem.terms)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_stands_behind_the_mask_changes_no_bit(library: Library, dtype: str, bad: float) -> None:
    (query, key, _), _ = draw(Problem(heads=4))
    mask = library.to_array(np.asarray([True, False, True, True, False]))
    clean = library.run(attention_weights, *(library.to_array(x, dtype) for x in (query, key)), key_mask=mask)
    key[:, 1], key[0, 4] = bad, bad
    actual = library.run(attention_weights, *(library.to_array(x, dtype) for x in (query, key)), key_mask=mask)
    assert_same_bits(library, actual, clean)
    assert not library.exact(actual)[..., [1, 4]].any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_bad_query_row_spoils_its_row_alone(library: Library, dtype: str) -> None:
    (query, key, _), _ = draw(Problem(heads=4))
    query[2, 1, 0] = np.nan
    actual = library.run(attention_weights, *(library.to_array(x, dtype) for x in (query, key)))
    assert_kind(library, dtype, actual, (4, 5, 5))
    spoilt = np.isnan(library.exact(actual))
    assert spoilt[2, 1].all()
    assert spoilt.sum() == 5
