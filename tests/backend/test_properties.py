"""What must hold of `attention` for any input: the facts at the end of the mathematics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from compare import assert_matches, eps_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import attention_oracle, weights_of
from problems import Problem, draw
from ways import several

from taylorshift_core import attention, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Library

FORMS = ("direct", "efficient")
each_form = pytest.mark.parametrize("form", FORMS)
derandomised = several(60)


@dataclass(frozen=True)
class Tokens:
    """One head of queries, keys and values (float32 numbers in float64), and which keys may be attended."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    mask: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what attention takes."""
        return self.query, self.key, self.value

    @property
    def terms(self) -> int:
        """Count keys and features."""
        return self.key.shape[0] + (self.query.shape[1] + 1) * (self.query.shape[1] + 2) // 2


@st.composite
def tokens(draw: st.DrawFn) -> Tokens:
    """Draw a few tokens with zero rows, equal rows and entries of any size up to 8, and at least one key attended."""
    head_dim, value_dim = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    query_length, key_length = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    entries = st.floats(-8, 8, width=32, allow_subnormal=False)
    query, key, value = (
        draw(hnp.arrays(np.float64, shape, elements=entries))
        for shape in ((query_length, head_dim), (key_length, head_dim), (key_length, value_dim))
    )
    mask = draw(hnp.arrays(np.bool_, key_length))
    mask[draw(st.integers(0, key_length - 1))] = True
    return Tokens(query, key, value, mask)


def _run(
    library: Library, dtype: str, form: str, arrays: Sequence[np.ndarray], mask: Any = None, **keywords: Any
) -> Any:
    """Call attention on query, key and value rounded to `dtype`."""
    if mask is not None:
        keywords["key_mask"] = library.to_array(mask)
    return library.run(attention, *(library.to_array(x, dtype) for x in arrays), form=form, **keywords)


def _rounded(library: Library, dtype: str, t: Tokens) -> Tokens:
    """Return the tokens as the library holds them."""
    return Tokens(*(library.exact(library.to_array(x, dtype)) for x in t.arrays), t.mask)


@each_form
@given(t=tokens(), scale=st.floats(-2, 2, width=32), normalise=st.booleans())
@derandomised
def test_equals_the_definition(
    library: Library, dtype: str, form: str, t: Tokens, scale: float, normalise: bool
) -> None:
    t = _rounded(library, dtype, t)
    if not normalise:
        scale *= 1 / 64  # entries up to 8: keeps scores near 1, where the sums of both forms are well conditioned
    expected = attention_oracle(t.query, t.key, t.value, scale=scale, normalise=normalise, key_mask=t.mask)
    actual = _run(library, dtype, form, t.arrays, t.mask, scale=scale, normalise=normalise)
    # The average may come out near zero though its terms do not: errors are those of terms of size max|value|.
    assert_matches(library, dtype, actual, expected, terms=t.terms, reference=_largest(t))


@each_form
@given(t=tokens())
@derandomised
def test_inside_the_range_of_the_values_attended(library: Library, dtype: str, form: str, t: Tokens) -> None:
    t = _rounded(library, dtype, t)
    actual = library.exact(_run(library, dtype, form, t.arrays, t.mask))
    margin = 4 * eps_of(library, dtype) * np.sqrt(t.terms) * _largest(t)
    assert np.all(actual >= np.min(t.value[t.mask], axis=0) - margin)
    assert np.all(actual <= np.max(t.value[t.mask], axis=0) + margin)


@each_form
@given(t=tokens(), seed=st.integers(0, 2**32 - 1))
@derandomised
def test_order_of_keys_changes_nothing(library: Library, dtype: str, form: str, t: Tokens, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(t.key))
    expected = library.exact(_run(library, dtype, form, t.arrays, t.mask))
    actual = _run(library, dtype, form, (t.query, t.key[order], t.value[order]), t.mask[order])
    assert_matches(library, dtype, actual, expected, terms=t.terms, reference=_largest(t))


@each_form
@given(t=tokens(), seed=st.integers(0, 2**32 - 1))
@derandomised
def test_lengths_of_rows_change_nothing(library: Library, dtype: str, form: str, t: Tokens, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Entries that the stretch would take below the smallest normal number are zero from the start.
    least, stretch = (2.0**-6, 8) if dtype == "float16" else (2.0**-40, 60)
    rows = [np.where(np.abs(each) < least, 0.0, each) for each in (t.query, t.key)]
    stretched = [each * 2.0 ** rng.integers(-stretch, stretch, size=(len(each), 1)) for each in rows]
    expected = library.exact(_run(library, dtype, form, (*rows, t.value)))
    actual = _run(library, dtype, form, (*stretched, t.value))
    assert_matches(library, dtype, actual, expected, terms=t.terms, reference=_largest(t))


@each_form
@given(t=tokens(), seed=st.integers(0, 2**32 - 1), normalise=st.booleans())
@derandomised
def test_rotating_query_and_key_together_changes_nothing(
    library: Library, dtype: str, form: str, t: Tokens, seed: int, normalise: bool
) -> None:
    size = t.query.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    turned = (t.query @ rotation, t.key @ rotation, t.value)
    keywords = {"normalise": normalise, "scale": None if normalise else 1 / 64}
    expected = library.exact(_run(library, dtype, form, t.arrays, **keywords))
    actual = _run(library, dtype, form, turned, **keywords)
    assert_matches(library, dtype, actual, expected, terms=t.terms + size, reference=_largest(t))


@each_form
@given(t=tokens(), share=st.floats(0, 1))
@derandomised
def test_parts_of_the_keys_average_to_the_whole(
    library: Library, dtype: str, form: str, t: Tokens, share: float
) -> None:
    """The outputs over two parts of the keys, weighted by their normalisers, are the output over all keys."""
    t = _rounded(library, dtype, t)
    cut = round(share * len(t.key))
    parts = [(t.query, t.key[part], t.value[part]) for part in (slice(None, cut), slice(cut, None))]
    weights = [weights_of(query, key).sum(axis=-1, keepdims=True) for query, key, _ in parts]
    outputs = [library.exact(_run(library, dtype, form, p)) for p in parts]
    expected = (weights[0] * outputs[0] + weights[1] * outputs[1]) / (weights[0] + weights[1])
    assert_matches(library, dtype, _run(library, dtype, form, t.arrays), expected, terms=t.terms, reference=_largest(t))


def _through_states(query: Any, *rest: Any) -> Any:
    """Summarise (key, value, mask) after (key, value, mask), add the states up, and read them with `query`."""
    states = [summarise(k, v, key_mask=m) for k, v, m in zip(rest[::3], rest[1::3], rest[2::3], strict=True)]
    return sum(states[1:], start=states[0]).attend(query, normalise_output=True)


@given(t=tokens(), cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@derandomised
def test_states_of_parts_add_up_to_the_state_of_the_whole(
    library: Library, dtype: str, t: Tokens, cuts: tuple[float, float]
) -> None:
    """In three parts, some of them perhaps empty; the token counts add up too."""
    t = _rounded(library, dtype, t)
    first, second = sorted(round(share * len(t.key)) for share in cuts)
    parts = [slice(None, first), slice(first, second), slice(second, None)]
    pieces = [piece for part in parts for piece in (t.key[part], t.value[part], t.mask[part])]
    arrays = [library.to_array(x, dtype) for x in (t.query, *pieces)]
    expected = attention_oracle(*t.arrays, key_mask=t.mask, normalise_output=True)
    reference = _largest(t) * max(1.0, np.sqrt(len(t.key) / t.query.shape[1]))
    actual = library.run(_through_states, *arrays)
    assert_matches(library, dtype, actual, expected, terms=t.terms, reference=reference)


@pytest.mark.parametrize("kind", ["absent", "keys", "batch", "batch, kv heads"])
def test_a_state_has_heads_and_batches(library: Library, dtype: str, kind: str) -> None:
    batch = {"query_batch": (2, 1), "key_batch": (1, 3), "value_batch": (2, 3)}
    (query, key, value), keywords = draw(Problem(heads=4, key_length=9, key_mask=kind, **batch))
    arrays = [library.to_array(x, dtype) for x in (query, key, value)]
    mask = keywords["key_mask"]
    expected = attention_oracle(*(library.exact(x) for x in arrays), key_mask=mask, normalise_output=True)
    actual = library.run(_through_states, *arrays, None if mask is None else library.to_array(mask))
    assert_matches(library, dtype, actual, expected, terms=19)


@each_form
@given(t=tokens())
@derandomised
def test_a_masked_key_is_a_key_left_out(library: Library, dtype: str, form: str, t: Tokens) -> None:
    kept = (t.query, t.key[t.mask], t.value[t.mask])
    expected = library.exact(_run(library, dtype, form, kept, normalise_output=True))
    actual = _run(library, dtype, form, t.arrays, t.mask, normalise_output=True)
    reference = _largest(t) * max(1.0, np.sqrt(t.mask.sum() / t.query.shape[1]))
    assert_matches(library, dtype, actual, expected, terms=t.terms, reference=reference)


@each_form
@given(t=tokens(), times=st.integers(2, 4))
@derandomised
def test_keys_given_several_times_change_nothing(
    library: Library, dtype: str, form: str, t: Tokens, times: int
) -> None:
    again = t.query, np.tile(t.key, (times, 1)), np.tile(t.value, (times, 1))
    expected = library.exact(_run(library, dtype, form, t.arrays, t.mask))
    actual = _run(library, dtype, form, again, np.tile(t.mask, times))
    assert_matches(library, dtype, actual, expected, terms=times * t.terms, reference=_largest(t))


@each_form
@given(t=tokens())
@derandomised
def test_equal_values_come_out_unchanged(library: Library, dtype: str, form: str, t: Tokens) -> None:
    t = _rounded(library, dtype, t)
    constant = (t.query, t.key, np.ones_like(t.value) * t.value[:1])
    expected = np.ones((len(t.query), 1)) * t.value[:1]
    assert_matches(library, dtype, _run(library, dtype, form, constant, t.mask), expected, terms=t.terms)


@each_form
@given(t=tokens(), seed=st.integers(0, 2**32 - 1))
@derandomised
def test_a_query_does_not_see_other_queries(library: Library, dtype: str, form: str, t: Tokens, seed: int) -> None:
    chosen = np.random.default_rng(seed).permutation(len(t.query))[: 1 + seed % len(t.query)]
    expected = library.exact(_run(library, dtype, form, t.arrays))[chosen]
    actual = _run(library, dtype, form, (t.query[chosen], t.key, t.value))
    assert_matches(library, dtype, actual, expected, terms=t.terms, reference=_largest(t))


@each_form
@pytest.mark.parametrize("kind", ["absent", "batch, kv heads", "batch, heads"])
def test_grouped_heads_are_repeated_key_heads(library: Library, dtype: str, form: str, kind: str) -> None:
    """Query heads 0 and 1 use key head 0, heads 2 and 3 key head 1: contiguous groups."""
    (query, key, value), keywords = draw(Problem(heads=4, kv_heads=2, key_mask=kind))
    mask = keywords["key_mask"]
    repeated = None if mask is None else np.repeat(mask, 4 // mask.shape[-2], axis=-2)
    grouped = (query, key, value)
    spread = (query, np.repeat(key, 2, axis=-3), np.repeat(value, 2, axis=-3))
    expected = library.exact(_run(library, dtype, form, spread, repeated))
    assert_matches(library, dtype, _run(library, dtype, form, grouped, mask), expected, terms=15)


def _largest(t: Tokens) -> float:
    return float(np.max(np.abs(t.value)))
