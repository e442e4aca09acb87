"""Causal attention and its relatives: every way to compute them against the definition in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_matches, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from oracle import attention_oracle, causal
from problems import Problem, draw
from ways import (
    LENGTHS,
    TILES,
    assert_way,
    chunked,
    eps_of_sums,
    in_one_pack,
    merged,
    problems,
    rounded,
    several,
    stepped,
    whole,
)

from taylorshift_core import Decoder, OptionError, ShapeError, SlidingWindow, attention, explain, summarise

if TYPE_CHECKING:
    from conftest import Library

FORMS = ("direct", "efficient")
each_form = pytest.mark.parametrize("form", FORMS)
derandomised = several(25)

CAUSAL = {
    "direct": whole("direct", is_causal=True),
    "efficient": whole("efficient", is_causal=True),
    "chunks": chunked(3),
    "one pack": in_one_pack(is_causal=True),
    "one token at a time": stepped(Decoder(tail=3)),
    "a few tokens at a time": stepped(Decoder(tail=4), (1, 1, 2, 1, 4)),
    "a window of everything": stepped(SlidingWindow(100, chunk=3), (1, 4)),
}
TO_ALL = {"direct": whole("direct"), "efficient": whole("efficient"), "merged": merged(3), "one pack": in_one_pack()}


@pytest.mark.parametrize("way", CAUSAL)
@given(problem=problems())
@derandomised
def test_every_way_of_causal_attention(library: Library, dtype: str, way: str, problem: Problem) -> None:
    n = problem.query_length
    assert_way(library, dtype, CAUSAL[way], problem, causal(n, n))


@pytest.mark.parametrize("way", TO_ALL)
@given(problem=problems(cross=True))
@derandomised
def test_every_way_of_attention_to_all_keys(library: Library, dtype: str, way: str, problem: Problem) -> None:
    assert_way(library, dtype, TO_ALL[way], problem, None)


@each_form
@given(
    problem=problems(cross=True),
    past=st.sampled_from([0, 1, 6]),
    block=st.sampled_from([1, 2, 4, 7, 50]),
    prefix=st.sampled_from([0, 1, 3, 20]),
)
@derandomised
def test_blocks_prefixes_and_a_past(
    library: Library, dtype: str, form: str, problem: Problem, past: int, block: int, prefix: int
) -> None:
    """The keys of the past are those of a state; the rest are seen by the causal rule, whichever length is longer."""
    problem = replace(problem, key_length=problem.key_length + past)
    allowed = causal(problem.query_length, problem.key_length, past=past, block=block, prefix=prefix)
    settings = {"block_causal": block, "prefix_length": prefix, "is_causal": block == 1, "return_state": True}

    def both(query: Any, key: Any, value: Any, *, key_mask: Any, **options: Any) -> tuple[Any, Any]:
        shared = {name: options[name] for name in ("normalise", "coefficients")}
        masks = (None, None) if key_mask is None else (key_mask[..., :past], key_mask[..., past:])
        before = summarise(key[..., :past, :], value[..., :past, :], key_mask=masks[0], **shared)
        new = query, key[..., past:, :], value[..., past:, :]
        plan = replace(explain(*new, form=form), **TILES)
        output, state = attention(*new, key_mask=masks[1], state=before, plan=plan, **settings, **options)
        return output, (state - summarise(key, value, key_mask=key_mask, **shared)).sums

    assert_way(library, dtype, lambda *arrays, **options: both(*arrays, **options)[0], problem, allowed)
    arrays, options = rounded(library, dtype, problem)
    difference = library.exact(library.run(lambda *arrays, **options: both(*arrays, **options)[1], *arrays, **options))
    largest = np.prod([np.max(np.abs(library.exact(x)), initial=1.0) for x in (arrays[1], arrays[1], arrays[2])])
    np.testing.assert_allclose(difference, 0, atol=4 * eps_of_sums(library, dtype) * problem.key_length * largest)


@each_form
@pytest.mark.parametrize("length", [127, 128, 129, 256, 257, 383, 640])
def test_lengths_around_real_chunks(library: Library, dtype: str, form: str, length: int) -> None:
    """Tiles as they are planned: several chunks side by side, one more or less, a prime number of tokens."""
    way = lambda *arrays, **options: attention(*arrays, form=form, is_causal=True, **options)  # noqa: E731
    problem = Problem(length, length, 3, 2, 4, 2, key_mask="batch, heads", normalise_output=True, scale="per head")
    assert_way(library, dtype, way, problem, causal(length, length))


@pytest.mark.parametrize("block", [10, 15, 64])
@pytest.mark.parametrize("past", [0, 5])
def test_blocks_with_a_state_of_their_own(library: Library, dtype: str, block: int, past: int) -> None:
    """From 10 tokens on, as many as a state of head_dim 3 has rows, a block is summed before it is read."""
    length = 130
    before = rounded(library, dtype, Problem(1, past, 3, 2, 4, 2, key_mask="keys"), seed=1)[0][1:]

    def way(query: Any, key: Any, value: Any, **options: Any) -> Any:
        state = summarise(*before) if past else None
        return attention(query, key, value, block_causal=block, form="efficient", state=state, **options)

    inputs, _ = rounded(library, dtype, Problem(length, length, 3, 2, 4, 2))
    actual = library.run(way, *inputs)
    q, k, v, *first = (library.exact(x) for x in (*inputs, *before))
    keys, values = (np.concatenate(pair, axis=-2) for pair in zip(first, (k, v), strict=True))
    expected = attention_oracle(
        q,
        keys,
        values,
        allowed=causal(length, length + past, past=past, block=block) | (np.arange(length + past) < past),
    )
    assert_matches(library, dtype, actual, expected, terms=length + 10, reference=float(np.max(np.abs(values))))


@each_form
def test_causal_by_hand(library: Library, dtype: str, form: str) -> None:
    """Unit scores 1, 0, -1 weigh 5/2, 1 and 1/2; the query sees one key more in each row."""
    query, key, value = np.asarray([[2.0, 0.0]] * 3), np.asarray([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]), np.eye(3)
    by_hand = np.asarray([[1, 0, 0], [2.5 / 3.5, 1 / 3.5, 0], [2.5 / 4, 1 / 4, 0.5 / 4]])
    np.testing.assert_allclose(attention_oracle(query, key, value, allowed=causal(3, 3)), by_hand, rtol=1e-15)
    inputs = [library.to_array(x, dtype) for x in (query, key, value)]
    assert_matches(library, dtype, library.run(attention, *inputs, form=form, is_causal=True), by_hand, terms=9)


@each_form
@given(problem=problems(cross=True), seed=st.integers(0, 1000))
@derandomised
def test_dense_masks(library: Library, dtype: str, form: str, problem: Problem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(), (1,), (problem.heads,), (*problem.query_batch, problem.heads)][seed % 4]
    allowed = rng.random((*rows, problem.query_length, problem.key_length)) < 0.6
    mask = library.to_array(allowed)
    way = whole("direct", attn_mask=mask) if form == "direct" else lambda *a, **k: attention(*a, attn_mask=mask, **k)
    assert_way(library, dtype, way, problem, allowed, seed)


def test_a_dense_mask_has_no_efficient_form(library: Library) -> None:
    inputs = [library.to_array(x, "float32") for x in draw(Problem())[0]]
    mask = library.to_array(np.ones((5, 5), dtype=np.bool_))
    with pytest.raises(OptionError, match=r"each query.*key_mask, is_causal, block_causal, prefix_length"):
        attention(*inputs, attn_mask=mask, form="efficient")
    with pytest.raises(OptionError, match="put the causal rule into attn_mask"):
        attention(*inputs, attn_mask=mask, is_causal=True)


GARBAGE = (np.nan, np.inf, -3.0e30)
unwarned = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy says so when it makes a NaN; that is its right


@unwarned
@pytest.mark.parametrize("way", CAUSAL)
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_what_comes_later_changes_no_bit(library: Library, dtype: str, way: str, garbage: float, place: str) -> None:
    arrays = dict(zip(("query", "key", "value"), draw(Problem(11, 11, 3, 2, 4, 2))[0], strict=True))
    clean = library.run(CAUSAL[way], *(library.to_array(x, dtype) for x in arrays.values()))
    arrays[place][:, 6:] = garbage
    actual = library.run(CAUSAL[way], *(library.to_array(x, dtype) for x in arrays.values()))
    assert_same_bits(library, actual[..., :6, :], clean[..., :6, :])


@unwarned
@pytest.mark.parametrize("way", [*CAUSAL, *(f"{name}, all keys" for name in TO_ALL)])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_no_bit(library: Library, dtype: str, way: str, garbage: float) -> None:
    """Sequences of lengths 11, 4 and 0, padded to 11 with zeros or with garbage; queries of padding are garbage too."""
    run = CAUSAL[way] if way in CAUSAL else TO_ALL[way.removesuffix(", all keys")]
    lengths = np.asarray([11, 4, 0])
    batch = {"query_batch": (3,), "key_batch": (3,), "value_batch": (3,)}
    arrays = draw(Problem(11, 11, 3, 2, 4, 2, **batch))[0]
    real = np.arange(11) < lengths[:, None]
    mask = library.to_array(real)

    def outputs(padding: float) -> Any:
        padded = [library.to_array(np.where(real[:, None, :, None], x, padding), dtype) for x in arrays]
        actual = library.run(run, *padded, key_mask=mask)
        return [actual[i, :, : int(n), :] for i, n in enumerate(lengths)]

    for actual, clean in zip(outputs(garbage), outputs(0.0), strict=True):
        assert_same_bits(library, actual, clean)
        assert np.isfinite(library.exact(actual)).all()


@unwarned
@each_form
@pytest.mark.parametrize("garbage", GARBAGE[:2])
def test_a_dense_mask_hides_what_it_hides(library: Library, dtype: str, form: str, garbage: float) -> None:
    query, key, value = draw(Problem(5, 6, 3, 2, 4, 2))[0]
    allowed = np.random.default_rng(0).random((5, 6)) < 0.6
    allowed[:, 3] = [True, False, True, False, False]
    way = whole("direct", attn_mask=library.to_array(allowed))
    clean = library.run(way, *(library.to_array(x, dtype) for x in (query, key, value)))
    key[:, 3], value[:, 3] = garbage, garbage
    actual = library.run(way, *(library.to_array(x, dtype) for x in (query, key, value)))
    for row in (1, 3, 4):
        assert_same_bits(library, actual[:, row, :], clean[:, row, :])
    assert not np.isfinite(library.exact(actual)[:, [0, 2]]).any()


@each_form
@given(problem=problems(), length=st.sampled_from(LENGTHS))
@derandomised
def test_causal_attention_of_a_beginning_is_a_beginning(
    library: Library, dtype: str, form: str, problem: Problem, length: int
) -> None:
    length = min(length, problem.query_length)

    def beginning(query: Any, key: Any, value: Any, *, key_mask: Any, **options: Any) -> Any:
        mask = None if key_mask is None else key_mask[..., :length]
        tokens = (array[..., :length, :] for array in (query, key, value))
        return whole(form, is_causal=True)(*tokens, key_mask=mask, **options)

    def of_all(*arrays: Any, **options: Any) -> Any:
        return whole(form, is_causal=True)(*arrays, **options)[..., :length, :]

    inputs, options = rounded(library, dtype, problem)
    expected = library.exact(library.run(of_all, *inputs, **options))
    actual = library.run(beginning, *inputs, **options)
    reference = float(np.max(np.abs(library.exact(inputs[2])), initial=0.0)) * max(1.0, problem.key_length**0.5)
    assert_matches(library, dtype, actual, expected, terms=problem.terms, reference=reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_causal": 0}, "block_causal must be an integer of at least 1; got 0"),
        ({"block_causal": 2.0}, "block_causal must be"),
        ({"is_causal": True, "prefix_length": -1}, "prefix_length must be an integer of at least 0; got -1"),
        ({"prefix_length": 3}, "prefix_length needs is_causal"),
        ({"state": "past"}, "state must be a State, from summarise"),
    ],
)
def test_options_out_of_range(library: Library, options: dict[str, Any], message: str) -> None:
    inputs = [library.to_array(x, "float32") for x in draw(Problem())[0]]
    with pytest.raises(OptionError, match=message):
        attention(*inputs, **options)


def test_one_state_cannot_be_of_several_masks(library: Library) -> None:
    (query, key, value), keywords = draw(Problem(heads=4, key_mask="batch, heads"))
    inputs = [library.to_array(x, "float32") for x in (query, key, value)]
    with pytest.raises(ShapeError, match="key_mask must have shape"):
        attention(*inputs, key_mask=library.to_array(keywords["key_mask"]), return_state=True)
