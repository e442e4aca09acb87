"""Where NaN and inf may go: a query spoils its row, a key its heads, a value its column, what is masked nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_kind, assert_same_bits, eps_of
from oracle import attention_oracle
from problems import MASKS, Problem, draw

from taylorshift_core import attention

if TYPE_CHECKING:
    from conftest import Library

each_form = pytest.mark.parametrize("form", ["direct", "efficient"])


def _run(library: Library, dtype: str, form: str, *arrays: np.ndarray, mask: Any = None, **keywords: Any) -> Any:
    """Call attention on query, key and value rounded to `dtype`."""
    if mask is not None:
        keywords["key_mask"] = library.to_array(mask)
    return library.run(attention, *(library.to_array(x, dtype) for x in arrays), form=form, **keywords)


NOT_NUMBERS = [np.nan, np.inf, -np.inf]
unwarned = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy says so when it makes a NaN; that is its right


@unwarned
@each_form
@pytest.mark.parametrize("bad", NOT_NUMBERS)
@pytest.mark.parametrize("normalise", [True, False])
def test_a_bad_query_row_spoils_its_output_row_alone(
    library: Library, dtype: str, form: str, bad: float, normalise: bool
) -> None:
    (query, key, value), _ = draw(Problem(heads=4, query_length=7, key_length=9))
    clean = _run(library, dtype, form, query, key, value, normalise=normalise)
    query[1, 3, 2] = bad
    actual = library.exact(_run(library, dtype, form, query, key, value, normalise=normalise))
    assert not np.isfinite(actual[1, 3]).any()
    expected = library.exact(clean)
    actual[1, 3] = expected[1, 3]
    np.testing.assert_array_equal(actual, expected)


@unwarned
@each_form
@pytest.mark.parametrize("bad", NOT_NUMBERS)
@pytest.mark.parametrize("normalise", [True, False])
def test_a_bad_key_row_spoils_the_heads_that_attend_it(
    library: Library, dtype: str, form: str, bad: float, normalise: bool
) -> None:
    (query, key, value), _ = draw(Problem(heads=4, query_length=7, key_length=9))
    clean = library.exact(_run(library, dtype, form, query, key, value, normalise=normalise))
    key[0, 4, 1] = bad
    actual = library.exact(_run(library, dtype, form, query, key, value, normalise=normalise))
    assert not np.isfinite(actual[:2]).any()
    np.testing.assert_array_equal(actual[2:], clean[2:])


@unwarned
@each_form
@pytest.mark.parametrize("bad", NOT_NUMBERS)
def test_a_bad_value_spoils_its_column_alone(library: Library, dtype: str, form: str, bad: float) -> None:
    (query, key, value), _ = draw(Problem(heads=4, query_length=7, key_length=9))
    clean = library.exact(_run(library, dtype, form, query, key, value))
    value[0, 4, 1] = bad
    actual = library.exact(_run(library, dtype, form, query, key, value))
    assert not np.isfinite(actual[:2, :, 1]).any()
    actual[:2, :, 1] = clean[:2, :, 1]
    np.testing.assert_array_equal(actual, clean)


@each_form
@pytest.mark.parametrize("bad", NOT_NUMBERS)
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("kind", [name for name in MASKS if name != "absent"])
def test_what_stands_behind_the_mask_changes_no_bit(
    library: Library, dtype: str, form: str, kind: str, normalise: bool, bad: float
) -> None:
    batch = {"query_batch": (2,), "key_batch": (2,), "value_batch": (2,)}
    (query, key, value), keywords = draw(Problem(heads=4, key_length=9, key_mask=kind, **batch))
    mask = keywords["key_mask"]
    clean = _run(library, dtype, form, query, key, value, mask=mask, normalise=normalise)
    hidden = _attended_by_none(mask)
    for array in (key, value):
        array[np.broadcast_to(hidden, array.shape[:-1])] = bad
    actual = _run(library, dtype, form, query, key, value, mask=mask, normalise=normalise)
    assert np.isfinite(library.exact(actual)).all()
    assert_same_bits(library, actual, clean)


@unwarned
@each_form
@pytest.mark.parametrize("bad", NOT_NUMBERS)
@pytest.mark.parametrize("place", ["key", "value"])
def test_a_head_that_masks_a_bad_token_is_not_spoiled_by_one_that_does_not(
    library: Library, dtype: str, form: str, place: str, bad: float
) -> None:
    (query, key, value), _ = draw(Problem(heads=4, key_length=9))
    mask = np.ones((4, 9), dtype=np.bool_)
    mask[0, 5] = False  # heads 0 and 1 share the key head whose token 5 is bad
    (key if place == "key" else value)[0, 5] = bad
    actual = library.exact(_run(library, dtype, form, query, key, value, mask=mask))
    rounded = [library.exact(library.to_array(x, dtype)) for x in (query, key, value)]
    expected = attention_oracle(*rounded, key_mask=mask)
    assert not np.isfinite(actual[1]).any()
    assert np.isfinite(expected[[0, 2, 3]]).all()
    error = np.max(np.abs(actual[[0, 2, 3]] - expected[[0, 2, 3]]))
    assert error <= 4 * eps_of(library, dtype) * np.sqrt(19) * np.max(np.abs(expected[[0, 2, 3]]))


@each_form
@pytest.mark.parametrize("normalise_output", [False, True])
def test_no_key_attended_gives_exact_zeros(library: Library, dtype: str, form: str, normalise_output: bool) -> None:
    (query, key, value), _ = draw(Problem(heads=4))
    mask = np.ones((4, 5), dtype=np.bool_)
    mask[2] = False
    actual = _run(library, dtype, form, query, key, value, mask=mask, normalise_output=normalise_output)
    assert_kind(library, dtype, actual, (4, 5, 3))
    assert not library.exact(actual)[2].any()
    assert library.exact(actual)[[0, 1, 3]].all()


def _attended_by_none(mask: np.ndarray) -> np.ndarray:
    """Return where no query head attends, (..., kv_heads or 1, keys) beside a key of shape (2, 2, 9, 3)."""
    if mask.ndim < 3:
        return ~mask[..., None, :]
    heads = mask.shape[-2]
    return ~mask if heads < 4 else ~np.logical_or(mask[:, ::2], mask[:, 1::2])
