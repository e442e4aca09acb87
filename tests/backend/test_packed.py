"""Packed sequences: each attends to its own keys, and nothing reaches another."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_matches, assert_same_bits, assert_same_steps, summed
from hypothesis import given
from hypothesis import strategies as st
from oracle import attention_oracle, causal, packed
from problems import Problem, draw
from ways import assert_way, joined, problems, several

from taylorshift_core import Decoder, DTypeError, OptionError, ShapeError, _packed, attention, attention_packed, explain

if TYPE_CHECKING:
    from conftest import Library

FORMS = ("direct", "efficient", "auto")
derandomised = several(25)
lengths_of = st.lists(st.sampled_from([0, 1, 2, 3, 5]), min_size=1, max_size=4)


def _bounds(lengths: list[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def _with_lengths(problem: Problem, queries: int, keys: int) -> Problem:
    return Problem(**(vars(problem) | {"query_length": queries, "key_length": keys, "normalise_output": False}))


@pytest.mark.parametrize("form", FORMS)
@given(problem=problems(), lengths=lengths_of)
@derandomised
def test_sequences_attend_to_themselves(
    library: Library, dtype: str, form: str, problem: Problem, lengths: list[int]
) -> None:
    problem = _with_lengths(problem, sum(lengths), sum(lengths))
    way = lambda *arrays, **options: attention_packed(*arrays, cu_seqlens_q=_bounds(lengths), form=form, **options)  # noqa: E731
    assert_way(library, dtype, way, problem, packed(lengths, lengths))


@pytest.mark.parametrize("form", FORMS)
@given(problem=problems(), pairs=st.lists(st.tuples(*[st.sampled_from([0, 1, 2, 5])] * 2), min_size=1, max_size=4))
@pytest.mark.parametrize("is_causal", [False, True])
@derandomised
def test_sequences_attend_to_their_own_keys(
    library: Library, dtype: str, form: str, is_causal: bool, problem: Problem, pairs: list[tuple[int, int]]
) -> None:
    """Lengths of queries and keys differ, some are zero; causal counts both from the beginning of their sequence."""
    queries, keys = ([pair[i] for pair in pairs] for i in (0, 1))
    problem = _with_lengths(problem, sum(queries), sum(keys))
    allowed = packed(queries, keys)
    for q, k in zip(pairwise(_bounds(queries)), pairwise(_bounds(keys)), strict=True):
        allowed[slice(*q), slice(*k)] &= causal(q[1] - q[0], k[1] - k[0]) if is_causal else True
    bounds = {"cu_seqlens_q": tuple(_bounds(queries)), "cu_seqlens_k": np.asarray(_bounds(keys), dtype=np.int32)}
    way = lambda *arrays, **options: attention_packed(*arrays, **bounds, form=form, is_causal=is_causal, **options)  # noqa: E731
    assert_way(library, dtype, way, problem, allowed)


def _pack(library: Library, dtype: str) -> tuple[list[Any], list[int]]:
    lengths = [3, 0, 40, 1, 6]
    return [library.to_array(x, dtype) for x in draw(Problem(50, 50, 3, 2, 4, 2))[0]], _bounds(lengths)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison_in_one_sequence_stays_there(
    library: Library, dtype: str, form: str, is_causal: bool, poison: float
) -> None:
    arrays, bounds = _pack(library, dtype)

    def run(*inputs: Any) -> Any:
        return attention_packed(*inputs, cu_seqlens_q=bounds, form=form, is_causal=is_causal)

    clean = library.run(run, *arrays)
    for first, last in pairwise(bounds):
        spoiled = [library.exact(x) for x in arrays]
        for x in spoiled:
            x[:, first:last] = poison
        actual = library.run(run, *(library.to_array(x, dtype) for x in spoiled))
        assert not np.isfinite(library.exact(actual)[:, first:last]).any()
        assert_same_bits(library, actual[:, :first, :], clean[:, :first, :])
        assert_same_bits(library, actual[:, last:, :], clean[:, last:, :])


def _length_for_the_efficient_form(library: Library, dtype: str) -> int:
    like = [library.to_array(np.zeros((2, 1, 3)), dtype)] * 3
    views = lambda n: [library.namespace.broadcast_to(x, (2, n, 3)) for x in like]  # noqa: E731
    return next(n for n in (64, 256, 1024, 4096, 16384) if explain(*views(n)).form == "efficient")


@pytest.mark.parametrize("is_causal", [False, True])
def test_each_sequence_is_what_it_is_alone(library: Library, dtype: str, is_causal: bool) -> None:
    """To the bit, so each picks its own form: the longest here the efficient one, the others the direct one."""
    lengths = [3, 0, _length_for_the_efficient_form(library, dtype), 1, 6]
    bounds, total = _bounds(lengths), sum(lengths)
    arrays = [library.to_array(x, dtype) for x in draw(Problem(total, total, 3, 3, 2, 2))[0]]
    parts = [[x[..., slice(*pair), :] for x in arrays] for pair in pairwise(bounds)]
    assert {explain(*part).form for part in parts} == {"direct", "efficient"}
    alone = library.run(lambda *_: joined([attention(*part, is_causal=is_causal) for part in parts]), *arrays)
    actual = library.run(lambda *a: attention_packed(*a, cu_seqlens_q=bounds, is_causal=is_causal), *arrays)
    assert_same_steps(library, dtype, actual, alone, terms=12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at_once", [1, 40, 1 << 16])
@given(
    problem=problems(),
    pairs=st.lists(st.sampled_from([(0, 0), (0, 2), (2, 0), (1, 1), (2, 2), (3, 2)]), min_size=4, max_size=9),
)
@several(15)
def test_equal_lengths_are_attended_at_once(
    library: Library, dtype: str, form: str, at_once: int, problem: Problem, pairs: list[tuple[int, int]]
) -> None:
    """Many sequences of few lengths, in any order, in batches of any size."""
    queries, keys = ([pair[i] for pair in pairs] for i in (0, 1))
    problem = _with_lengths(problem, sum(queries), sum(keys))
    bounds = {"cu_seqlens_q": _bounds(queries), "cu_seqlens_k": _bounds(keys)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_packed, "_ENTRIES_AT_ONCE", at_once)
        way = lambda *arrays, **options: attention_packed(*arrays, **bounds, form=form, **options)  # noqa: E731
        assert_way(library, dtype, way, problem, packed(queries, keys))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lengths", [[3, 5, 3, 0, 1, 3, 5], [4, 4], [6]])
@pytest.mark.parametrize("heads", [(4, 2), None])
def test_a_pack_is_decoded_on_as_a_batch(
    library: Library, dtype: str, form: str, lengths: list[int], heads: tuple[int, int] | None
) -> None:
    """The states of all sequences come back in the order of the pack; each goes on with a token of its own."""
    n, total = len(lengths), sum(lengths)
    arrays = draw(Problem(total, total, 3, 2, *(heads or (1, 1)), key_mask="keys"))
    more = draw(Problem(n, n, 3, 2, *(heads or (1, 1))), seed=1)[0]
    here = [library.to_array(x if heads else x[0], dtype) for x in (*arrays[0], *more)]
    mask = library.to_array(arrays[1]["key_mask"])

    def run(*inputs: Any) -> Any:
        bounds = {"cu_seqlens_q": _bounds(lengths), "is_causal": True, "form": form}
        _, state = attention_packed(*inputs[:3], **bounds, key_mask=mask, return_state=True)
        xp = library.namespace
        step = [xp.expand_dims(x, axis=x.ndim - 1) for x in inputs[3:]]  # (heads, sequences, 1, dim)
        step = [xp.permute_dims(x, (1, 0, 2, 3)) for x in step] if heads else step
        output, _ = Decoder(state).step(*step)
        return output

    actual = library.run(run, *here)
    parts = [[library.exact(x)[..., slice(*pair), :] for x in here[:3]] for pair in pairwise(_bounds(lengths))]
    masks = [library.exact(mask)[slice(*pair)] for pair in pairwise(_bounds(lengths))]
    expected = []
    for i, ((_, key, value), of_keys) in enumerate(zip(parts, masks, strict=True)):
        query, *new = (library.exact(x)[..., i : i + 1, :] for x in here[3:])
        both = (np.concatenate(pair, axis=-2) for pair in zip((key, value), new, strict=True))
        expected.append(attention_oracle(query, *both, key_mask=np.append(of_keys, True)))
    reference = max(float(np.max(np.abs(library.exact(x)))) for x in (here[2], here[5]))
    assert_matches(library, dtype, actual, np.stack(expected), terms=20, reference=reference)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("axes", [2, 3])
@given(problem=problems(), before=lengths_of, data=st.data())
@several(6)
def test_a_pack_goes_on_from_the_states_of_another(
    library: Library, dtype: str, form: str, is_causal: bool, axes: int, problem: Problem, before: list[int], data: Any
) -> None:
    """What came before is one pack, what follows is another that sees both; half of the queries read what it gives back."""
    new = data.draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=len(before), max_size=len(before)))
    past, half, nobody = sum(before), sum(new), [0] * (len(before) + 1)
    problem = _with_lengths(problem, 2 * half, past + half)
    if axes == 2:
        flat: dict[str, Any] = dict.fromkeys(("query_batch", "key_batch", "value_batch"), ())
        problem = replace(problem, heads=1, kv_heads=1, scale="number", key_mask="keys", **flat)

    def way(query: Any, key: Any, value: Any, *, key_mask: Any, **options: Any) -> Any:
        query, key, value = (x[0, ...] if axes == 2 else x for x in (query, key, value))
        masks = (None, None) if key_mask is None else (key_mask[..., :past], key_mask[..., past:])
        old, own = ((key[..., part, :], value[..., part, :]) for part in (slice(past), slice(past, None)))
        options |= {"form": form, "return_state": True}
        bounds = {"cu_seqlens_q": nobody, "cu_seqlens_k": _bounds(before)}
        _, state = attention_packed(query[..., :0, :], *old, **bounds, key_mask=masks[0], **options)
        bounds = {"cu_seqlens_q": _bounds(new), "state": state}
        output, state = attention_packed(
            query[..., :half, :], *own, **bounds, key_mask=masks[1], is_causal=is_causal, **options
        )
        bounds |= {"cu_seqlens_k": nobody, "state": state}
        again, _ = attention_packed(query[..., half:, :], *(x[..., :0, :] for x in own), **bounds, **options)
        both = joined([output, again])
        return library.namespace.expand_dims(both, axis=0) if axes == 2 else both

    seen = np.concatenate([packed(new, before), packed(new, new)], axis=1)
    rule = np.concatenate([np.ones((half, past), dtype=np.bool_), causal(half, half)], axis=1)
    assert_way(library, dtype, way, problem, np.concatenate([seen & rule if is_causal else seen, seen]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_past_of_one_sequence_reaches_no_other(library: Library, dtype: str) -> None:
    arrays, bounds = _pack(library, dtype)
    _, state = attention_packed(*arrays, cu_seqlens_q=bounds, return_state=True)
    spoiled = library.exact(state.sums)
    spoiled[2] = np.nan
    run = lambda *a: attention_packed(*a[:3], cu_seqlens_q=bounds, state=replace(state, sums=a[3]), is_causal=True)  # noqa: E731
    clean = library.run(run, *arrays, state.sums)
    actual = library.run(run, *arrays, library.to_array(spoiled, summed(library, dtype)))
    assert np.isnan(library.exact(actual)[:, 3:43]).all()
    for part in (slice(0, 3), slice(43, 50)):
        assert_same_bits(library, actual[:, part, :], clean[:, part, :])


def test_states_that_are_not_one_a_sequence(library: Library) -> None:
    arrays, bounds = _pack(library, "float32")
    _, state = attention_packed(*arrays, cu_seqlens_q=bounds, return_state=True)
    few = replace(state, sums=state.sums[:4, ...])
    with pytest.raises(ShapeError, match=r"state of each of the 5 sequences.*got sums of shape \(4, 2, 10, 3\)"):
        attention_packed(*arrays, cu_seqlens_q=bounds, state=few)
    with pytest.raises(OptionError, match=r"state must be of the same kind.*got normalise True instead of False"):
        attention_packed(*arrays, cu_seqlens_q=bounds, state=state, normalise=False)
    with pytest.raises(OptionError, match="state must be a State"):
        attention_packed(*arrays, cu_seqlens_q=bounds, state=state.sums)  # type: ignore[arg-type]


def test_many_short_sequences_take_few_calls(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [3, 5, 3, 1] * 50
    arrays = [library.to_array(x, "float32") for x in draw(Problem(600, 600, 3, 2, 4, 2))[0]]
    calls: list[Any] = []
    counted = lambda *a, **k: calls.append(a) or attention(*a, **k)  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(_packed, "attention", counted)
    attention_packed(*arrays, cu_seqlens_q=_bounds(lengths))
    assert [tuple(query.shape) for query, _, _ in calls] == [(100, 4, 3, 3), (50, 4, 5, 3), (50, 4, 1, 3)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("is_causal", [False, True])
def test_poison_stays_in_its_sequence_among_equal_ones(library: Library, dtype: str, is_causal: bool) -> None:
    bounds = list(range(0, 51, 5))
    arrays = [library.to_array(x, dtype) for x in draw(Problem(50, 50, 3, 2, 4, 2))[0]]

    def run(*inputs: Any) -> Any:
        return attention_packed(*inputs, cu_seqlens_q=bounds, is_causal=is_causal)

    clean, spoiled = library.run(run, *arrays), [library.exact(x) for x in arrays]
    for x in spoiled:
        x[:, 20:25] = np.nan
    actual = library.run(run, *(library.to_array(x, dtype) for x in spoiled))
    assert np.isnan(library.exact(actual)[:, 20:25]).all()
    assert_same_bits(library, actual[:, :20, :], clean[:, :20, :])
    assert_same_bits(library, actual[:, 25:, :], clean[:, 25:, :])


def test_no_sequences(library: Library, dtype: str) -> None:
    arrays = [library.to_array(x, dtype) for x in draw(Problem(0, 0, 3, 2))[0]]
    for bounds in ([0], [0, 0]):
        assert tuple(library.run(lambda *a: attention_packed(*a, cu_seqlens_q=bounds), *arrays).shape) == (2, 0, 2)  # noqa: B023


def test_bounds_may_be_arrays_of_the_library(library: Library, dtype: str) -> None:
    arrays, bounds = _pack(library, dtype)
    there = library.to_array(np.asarray(bounds))
    expected = attention_packed(*arrays, cu_seqlens_q=bounds)
    assert_same_bits(library, attention_packed(*arrays, cu_seqlens_q=there, cu_seqlens_k=there), expected)


@pytest.mark.parametrize("bounds", [(), (0,), (1, 5), (0, 3), (0, 6), (0, 4, 3, 5), (0, -1, 5), (5,)])
def test_bounds_that_do_not_cut(library: Library, bounds: tuple[int, ...]) -> None:
    arrays = [library.to_array(x, "float32") for x in draw(Problem(5, 5))[0]]
    cut = r"must start at 0, never decrease, and end at the number of tokens of {}, 5; got \(.*accumulate\(lengths"
    with pytest.raises(ShapeError, match="cu_seqlens_q " + cut.format("query")):
        attention_packed(*arrays, cu_seqlens_q=bounds)
    with pytest.raises(ShapeError, match="cu_seqlens_k " + cut.format("key")):
        attention_packed(*arrays, cu_seqlens_q=(0, 5), cu_seqlens_k=bounds)


def test_bounds_of_other_kinds(library: Library) -> None:
    arrays = [library.to_array(x, "float32") for x in draw(Problem(5, 5))[0]]
    for bounds in ([0, 2.5, 5], "05", 5, np.asarray([0.0, 5.0]), np.asarray([[0, 5]])):
        with pytest.raises(DTypeError, match="cu_seqlens_q must be"):
            attention_packed(*arrays, cu_seqlens_q=bounds)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="same number of sequences; got 2 and 1"):
        attention_packed(*arrays, cu_seqlens_q=[0, 2, 5], cu_seqlens_k=[0, 5])
    with pytest.raises(ShapeError, match=r"cu_seqlens_k, by default cu_seqlens_q, must.*of key, 7"):
        attention_packed(*(library.to_array(x, "float32") for x in draw(Problem(5, 7))[0]), cu_seqlens_q=[0, 2, 5])
    with pytest.raises(OptionError, match="form must be"):
        attention_packed(*arrays, cu_seqlens_q=[0, 5], form="fast")
