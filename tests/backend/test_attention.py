"""`attention` on one array library, both forms, against the definition in float64."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_attention, assert_matches, assert_same_bits, compare_attention, within
from oracle import attention_oracle
from problems import COLUMNS, FORMS, Problem, draw, every_three_together, readings

from taylorshift_core import attention, explain

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Library

PROBLEMS = [pytest.param(problem, id=f"{i:03}") for i, problem in enumerate(every_three_together())]
TILED = ("direct", "efficient")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_options_three_at_a_time(library: Library, dtype: str, problem: Problem, form: str) -> None:
    assert_attention(library, dtype, problem, form)


def test_any_three_options_meet_in_some_problem() -> None:
    rows = np.asarray(list(readings()))
    for columns in itertools.combinations(range(len(COLUMNS)), 3):
        assert len({tuple(row) for row in rows[:, columns].tolist()}) == 7**3
    assert max(len(choices) for choices in COLUMNS) <= 7


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key_length", [0, 1, 2])
@pytest.mark.parametrize("query_length", [0, 1, 2])
@pytest.mark.parametrize("mask", ["absent", "keys", "batch, heads", "nothing"])
def test_no_token_and_one(
    library: Library, dtype: str, query_length: int, key_length: int, mask: str, form: str
) -> None:
    problem = Problem(query_length=query_length, key_length=key_length, heads=4, key_mask=mask, normalise_output=True)
    assert_attention(library, dtype, problem, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [(0,), (2, 0), (1, 1, 2)])
def test_empty_and_many_batch_axes(library: Library, dtype: str, batch: tuple[int, ...], form: str) -> None:
    problem = Problem(query_batch=batch, key_batch=batch, value_batch=batch, key_mask="batch, heads", scale="full")
    assert_attention(library, dtype, problem, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 2, 0, -1.5, np.float32(0.5), np.float64(0.5), np.asarray(0.5)])
def test_two_axes_are_one_head(library: Library, dtype: str, form: str, scale: Any, masked: bool) -> None:
    rng = np.random.default_rng(1)
    arrays = (rng.standard_normal((6, 3)), rng.standard_normal((5, 3)), rng.standard_normal((5, 2)))
    keywords = {"scale": scale, "key_mask": np.asarray([True, False, True, True, False]) if masked else None}
    actual = compare_attention(library, dtype, arrays, keywords, form=form, terms=15)
    assert tuple(actual.shape) == (6, 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head_dim", [1, 2, 5, 8, 17, 64])
def test_head_dims_of_use(library: Library, dtype: str, head_dim: int, form: str) -> None:
    assert_attention(library, dtype, Problem(40, 50, head_dim, 3, key_mask="keys"), form)


QUERY_TILE, KEY_TILE = 8, 6
CROSSINGS = ("one token", "a tile less one", "exactly a tile", "a tile and one", "two tiles", "tiles and a short last")


def _length(crossing: str, tile: int) -> int:
    return dict(zip(CROSSINGS, (1, tile - 1, tile, tile + 1, 2 * tile, 3 * tile + tile // 2), strict=True))[crossing]


@pytest.mark.parametrize("form", TILED)
@pytest.mark.parametrize("keys", CROSSINGS)
@pytest.mark.parametrize("queries", CROSSINGS)
@pytest.mark.parametrize("mask", ["absent", "batch, heads"])
def test_lengths_by_the_tiles_they_cross(
    library: Library, dtype: str, form: str, queries: str, keys: str, mask: str
) -> None:
    lengths = _length(queries, QUERY_TILE), _length(keys, KEY_TILE)
    problem = Problem(*lengths, 3, 2, heads=4, key_mask=mask, normalise_output=True)
    assert_attention(library, dtype, problem, form, query_tile=QUERY_TILE, key_tile=KEY_TILE)


@pytest.mark.parametrize("form", TILED)
@pytest.mark.parametrize("tile", [1, 64])
@pytest.mark.parametrize("offsets", [1, 2, 3])
@pytest.mark.parametrize("head_dim", [1, 2, 3, 4, 5, 16, 33])
def test_features_cut_into_blocks(
    library: Library, dtype: str, form: str, head_dim: int, offsets: int, tile: int
) -> None:
    problem = Problem(5, 7, head_dim, 3, 4, 2, query_batch=(2,), key_batch=(1,), value_batch=(2,), key_mask="batch")
    assert_attention(library, dtype, problem, form, query_tile=tile, key_tile=tile, offsets=offsets)


@pytest.mark.parametrize("form", TILED)
def test_lengths_past_the_tiles_as_planned(library: Library, form: str) -> None:
    many = [library.to_array(np.zeros((1, 20000, 8)), "float32") for _ in range(3)]
    plan = explain(*many, form=form)
    assert plan.form == form
    assert 1 < plan.query_tile < 10000
    assert 1 < plan.key_tile < 10000
    problem = Problem(plan.query_tile + 3, plan.key_tile + 5, 8, 4, heads=1, kv_heads=1, key_mask="keys")
    assert_attention(library, "float32", problem, form)


@pytest.mark.parametrize("form", FORMS)
def test_square_without_linear_term(library: Library, dtype: str, form: str) -> None:
    """The weight score**2: no constant, so the sums come from enough keys to be far from zero."""
    assert_attention(library, dtype, Problem(30, 60, 4, 4, coefficients=(3.0, 0.0, 0.0)), form)
    assert_attention(library, dtype, Problem(30, 60, 4, 4, coefficients=(0.5, 1.0, 0.5), key_mask="keys"), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("coefficients", [(0.1, 0.06, 0.009), (0.1, 0.02, 0.001), (1, 2, 1), (0.7, 4.2, 6.3)])
def test_squares_whose_coefficients_are_rounded(
    library: Library, dtype: str, form: str, coefficients: tuple[float, float, float]
) -> None:
    """The weight a (score + beta)**2 may touch zero; rounded to float64, 4 a c may come out just below b²."""
    arrays, keywords = draw(Problem(30, 60, 4, 4))
    compare_attention(library, dtype, arrays, keywords | {"coefficients": coefficients}, form=form, terms=75)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("magnitude", [1.0, 1e30, 1e-30])
def test_zero_huge_and_tiny_rows(library: Library, dtype: str, form: str, magnitude: float) -> None:
    """A row's length divides out, whatever it is; a zero row stays zero and scores 0 with everything."""
    (query, key, value), keywords = draw(Problem(query_length=6, key_length=7))
    query[:, 1], key[:, 2], key[0, 0], query[0, 0] = 0.0, 0.0, 0.0, 0.0
    query[:, ::2] *= within(dtype, magnitude)
    key[:, 1::3] *= within(dtype, magnitude)
    compare_attention(library, dtype, (query, key, value), keywords, form=form, terms=17)


@pytest.mark.parametrize("form", FORMS)
def test_rows_whose_squares_leave_the_range(library: Library, dtype: str, form: str) -> None:
    """The largest and smallest powers of two that leave every entry a normal number."""
    finfo = np.finfo(dtype if hasattr(np, dtype) else np.float32)
    (query, key, value), keywords = draw(Problem(query_length=6, key_length=7))
    for rows in (query, key):
        rows[:, 0] *= 2.0 ** (finfo.maxexp - 4)
        rows[:, 1] = np.copysign(np.maximum(np.abs(rows[:, 1]), 0.01), rows[:, 1]) * 2.0 ** (finfo.minexp + 8)
    compare_attention(library, dtype, (query, key, value), keywords, form=form, terms=17)


@pytest.mark.parametrize("form", FORMS)
def test_zero_rows_not_normalised(library: Library, dtype: str, form: str) -> None:
    (query, key, value), keywords = draw(Problem(normalise=False))
    query[:, 1], key[:, 2] = 0.0, 0.0
    compare_attention(library, dtype, (query, key, value), keywords, form=form, terms=15)


@pytest.mark.parametrize("form", TILED)
def test_error_at_4096_tokens(library: Library, form: str, long_problem: Any) -> None:
    arrays, expected = long_problem
    allowed = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
    for dtype in (name for name in allowed if hasattr(library.namespace, name)):
        actual = library.run(attention, *(library.to_array(x, dtype) for x in arrays), form=form)
        error = np.max(np.abs(library.exact(actual) - expected)) / np.max(np.abs(expected))
        print(f"{library.name} {form} {dtype}: error {error:.2e} of max|oracle|, allowed {allowed[dtype]:.0e}")
        assert error <= allowed[dtype]


@pytest.fixture(scope="module")
def long_problem() -> Any:
    """4096 tokens, head_dim 64, one head; entries are float32 numbers, so both dtypes share the oracle."""
    rng = np.random.default_rng(4096)
    arrays = tuple(rng.standard_normal((1, 4096, 64)).astype(np.float32).astype(np.float64) for _ in range(3))
    return arrays, attention_oracle(*arrays)


@pytest.mark.parametrize("form", FORMS)
def test_layouts(library: Library, dtype: str, layout: str, form: str, tmp_path: Path) -> None:
    """Arrays that do not lie in memory as they are indexed."""
    arrays, keywords = draw(Problem(9, 11, 4, 3, 4, 2, key_mask="batch, kv heads"))
    laid = [library.layouts[layout](library, x, dtype, tmp_path) for x in arrays]
    mask = library.to_array(keywords["key_mask"])
    before = [library.bits(x) for x in laid]
    actual = library.run(attention, *laid, form=form, key_mask=mask)
    assert [library.bits(x) for x in laid] == before
    expected = attention_oracle(*(library.exact(x) for x in laid), key_mask=keywords["key_mask"])
    assert_matches(library, dtype, actual, expected, terms=26)


@pytest.mark.parametrize("form", FORMS)
def test_broadcast_views_of_one_token(library: Library, dtype: str, form: str) -> None:
    """Inputs whose tokens all share one place in memory: writing into one would write into all."""
    rng = np.random.default_rng(2)
    rows = [rng.standard_normal((1, 1, 3)) for _ in range(3)]
    xp = library.namespace
    inputs = [xp.broadcast_to(library.to_array(x, dtype), (2, 8, 3)) for x in rows]
    actual = library.run(attention, *inputs, form=form, normalise_output=True)
    expected = attention_oracle(*(library.exact(x) for x in inputs), normalise_output=True)
    assert_matches(library, dtype, actual, expected, terms=18)


@pytest.mark.parametrize("form", FORMS)
def test_keywords_left_out_are_their_defaults(library: Library, dtype: str, form: str) -> None:
    inputs = [library.to_array(x, dtype) for x in draw(Problem())[0]]
    plain = library.run(attention, *inputs, form=form)
    spelled = library.run(
        attention,
        *inputs,
        form=form,
        scale=1.0,
        normalise=True,
        coefficients=(0.5, 1.0, 1.0),
        key_mask=None,
        normalise_output=False,
    )
    assert_same_bits(library, plain, spelled)


@pytest.mark.parametrize(("length", "head_dim", "form"), [(20, 64, "direct"), (4000, 4, "efficient")])
def test_auto_is_the_form_that_explain_names(
    library: Library, dtype: str, length: int, head_dim: int, form: str
) -> None:
    """At sizes where one form does a hundred times the work of the other."""
    inputs = [library.to_array(x, dtype) for x in draw(Problem(length, length, head_dim, 4))[0]]
    plan = explain(*inputs)
    assert plan.form == form
    assert plan.reason.strip()
    assert "\n" not in plan.reason
    assert_same_bits(library, library.run(attention, *inputs), library.run(attention, *inputs, form=form))
    for asked in TILED:
        assert explain(*inputs, form=asked).form == asked


def test_arrays_come_and_go_unchanged(library: Library, dtype: str) -> None:
    array = np.random.default_rng(3).standard_normal((2, 3, 4))
    there = library.to_array(array, dtype)
    if dtype in ("float64", "float32"):
        np.testing.assert_array_equal(library.to_numpy(there), array.astype(dtype))
    again = library.to_array(library.to_numpy(there), None if hasattr(np, dtype) else dtype)
    assert_same_bits(library, again, there)
    assert library.device_of(there) == library.device_of(library.to_array(np.zeros(1)))


@pytest.mark.parametrize("form", FORMS)
def test_the_oracle_itself_on_a_case_done_by_hand(library: Library, dtype: str, form: str) -> None:
    """Unit scores 1, 0, -1 weigh 5/2, 1 and 1/2."""
    query, key, value = np.asarray([[2.0, 0.0]]), np.asarray([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]), np.eye(3)
    by_hand = np.asarray([[2.5, 1.0, 0.5]]) / 4.0
    np.testing.assert_allclose(attention_oracle(query, key, value), by_hand, rtol=1e-15)
    actual = library.run(attention, *(library.to_array(x, dtype) for x in (query, key, value)), form=form)
    assert_matches(library, dtype, actual, by_hand, terms=9)
