"""The state: a sum that merges, subtracts, reads, travels between libraries and through files."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_kind, assert_matches, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from oracle import attention_oracle, weights_of
from problems import Problem, draw
from ways import MASKS_OF_STATES, eps_of_sums, problems, rounded, several

from taylorshift_core import BackendError, DTypeError, OptionError, ShapeError, State, attention, summarise
from taylorshift_core.pytrees import CLASSES

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Library

derandomised = several(25)


def _arrays(library: Library, dtype: str, **sizes: Any) -> list[Any]:
    return [library.to_array(x, dtype) for x in draw(Problem(**({"key_length": 9, "value_dim": 2} | sizes)))[0]]


def _whole_and_rest(key: Any, value: Any, mask: Any, cuts: list[int], **shared: Any) -> Any:
    """Return the difference of the state of all tokens and the merged states of the parts between `cuts`."""
    bounds = sorted({0, key.shape[-2], *(min(at, key.shape[-2]) for at in cuts)})
    parts = [slice(*pair) for pair in pairwise(bounds)] or [slice(0, 0)]
    masks = [None if mask is None else mask[..., part] for part in parts]
    states = [
        summarise(key[..., part, :], value[..., part, :], key_mask=m, **shared)
        for part, m in zip(parts, masks, strict=True)
    ]
    return (states[-1].merge(*states[:-1]) - summarise(key, value, key_mask=mask, **shared)).sums


@given(problem=problems(cross=True), cuts=st.lists(st.integers(0, 11), max_size=4))
@derandomised
def test_split_anywhere_and_merged_is_the_whole(
    library: Library, dtype: str, problem: Problem, cuts: list[int]
) -> None:
    (_, key, value), options = rounded(library, dtype, problem)

    def difference(key: Any, value: Any) -> Any:
        shared = {name: options[name] for name in ("normalise", "coefficients")}
        return _whole_and_rest(key, value, options["key_mask"], cuts, **shared)

    actual = library.exact(library.run(difference, key, value))
    largest = np.prod([np.max(np.abs(library.exact(x)), initial=1.0) for x in (key, key, value)])
    np.testing.assert_allclose(actual, 0, atol=4 * eps_of_sums(library, dtype) * problem.key_length * largest)


@pytest.mark.parametrize("mask", MASKS_OF_STATES)
@pytest.mark.parametrize("removed", [0, 1, 4, 9])
def test_tokens_that_were_removed_were_never_there(library: Library, dtype: str, removed: int, mask: str) -> None:
    """Added in one piece, removed one token after the other, last to first."""
    problem = Problem(4, 9, 3, 2, 4, 2, key_mask=mask, query_batch=(2,), key_batch=(2,), value_batch=(2,))
    (query, key, value), options = rounded(library, dtype, problem)

    def left(query: Any, key: Any, value: Any, *, key_mask: Any) -> Any:
        state = summarise(key, value, key_mask=key_mask)
        for i in range(8, 8 - removed, -1):
            part = None if key_mask is None else key_mask[..., i : i + 1]
            state = state.remove(key[..., i : i + 1, :], value[..., i : i + 1, :], key_mask=part)
        return state.attend(query)

    actual = library.run(left, query, key, value, key_mask=options["key_mask"])
    kept = 9 - removed
    q, k, v = (library.exact(x) for x in (query, key, value))
    mask_kept = None if options["key_mask"] is None else library.exact(options["key_mask"])[..., :kept]
    expected = attention_oracle(q, k[..., :kept, :], v[..., :kept, :], key_mask=mask_kept)
    assert_matches(library, dtype, actual, expected, terms=9 * 19, reference=np.max(np.abs(v)))


def test_added_again_is_what_it_was(library: Library, dtype: str) -> None:
    query, key, value = _arrays(library, dtype)

    def around(query: Any, key: Any, value: Any) -> Any:
        part = key[..., 2:5, :], value[..., 2:5, :]
        return summarise(key, value).remove(*part).add(*part).attend(query)

    expected = library.exact(library.run(attention, query, key, value))
    actual = library.run(around, query, key, value)
    assert_matches(library, dtype, actual, expected, terms=20, reference=np.max(np.abs(library.exact(value))))


def test_read_is_the_sums_of_the_definition(library: Library, dtype: str) -> None:
    """Up to the factor a, here 1/4: columns are sums of weight times value, and of weights."""
    (query, key, value), options = rounded(library, dtype, Problem(4, 9, 3, 2, 4, 2, scale="per head"))
    coefficients = (0.25, 0.3, 1.1)
    read = lambda q, k, v, scale: summarise(k, v, coefficients=coefficients).read(q, scale=scale)  # noqa: E731
    actual = library.run(read, query, key, value, options["scale"])
    q, k, v = (library.exact(x) for x in (query, key, value))
    weights = weights_of(q, k, scale=library.exact(options["scale"]), coefficients=coefficients) / 0.25
    repeated = np.repeat(v, 2, axis=-3)
    expected = np.concatenate([weights @ repeated, weights.sum(axis=-1, keepdims=True)], axis=-1)
    sums = "float64" if dtype == "float64" else "float32"
    assert_matches(library, sums, actual, expected, terms=19)


def test_a_past_is_seen_by_all(library: Library, dtype: str) -> None:
    """A state that stands for keys of one batch entry is shared by all."""
    (query, key, value), _ = rounded(
        library, dtype, Problem(4, 5, 3, 2, 4, 2, query_batch=(3,), key_batch=(3,), value_batch=(3,))
    )
    before = _arrays(library, dtype, key_length=6, head_dim=3)[1:]
    shared = [library.namespace.expand_dims(x, axis=0) for x in before]
    run = lambda q, k, v, *past: attention(q, k, v, state=summarise(*past), form="efficient")  # noqa: E731
    actual = library.run(run, query, key, value, *shared)
    q, k, v, *past = (library.exact(x) for x in (query, key, value, *shared))
    everything = [
        np.concatenate([np.broadcast_to(a, (3, *a.shape[1:])), b], axis=-2) for a, b in zip(past, (k, v), strict=True)
    ]
    assert_matches(library, dtype, actual, attention_oracle(q, *everything), terms=21, reference=np.max(np.abs(v)))


def test_the_count_of_tokens(library: Library, dtype: str) -> None:
    problem = Problem(4, 9, 3, 2, key_mask="batch, kv heads", query_batch=(2,), key_batch=(2,), value_batch=(2,))
    (_, key, value), options = rounded(library, dtype, problem)
    count = library.run(lambda k, v, m: summarise(k, v, key_mask=m).token_count, key, value, options["key_mask"])
    np.testing.assert_array_equal(library.exact(count), library.exact(options["key_mask"]).sum(axis=-1))


@pytest.mark.parametrize("leading", [(), (2,), (3, 2)])
def test_a_state_of_no_tokens(library: Library, dtype: str, leading: tuple[int, ...]) -> None:
    like = library.to_array(np.zeros((1, 3)), dtype)
    empty = State.zeros(like, head_dim=3, value_dim=2, leading=leading)
    query, key, value = (library.to_array(np.ones((*leading, 4, n)), dtype) for n in (3, 3, 2))
    assert not library.exact(library.run(empty.attend, query)).any()
    assert_kind(library, dtype, library.run(empty.attend, query), (*leading, 4, 2))
    assert_same_bits(library, library.run(lambda k, v: empty.add(k, v).sums, key, value), summarise(key, value).sums)


def test_states_can_be_summed_by_sum(library: Library, dtype: str) -> None:
    _, key, value = _arrays(library, dtype)
    states = [summarise(key, value), summarise(value, value, coefficients=(0.5, 1.0, 1.0)), summarise(key, value)]
    assert_same_bits(library, sum(states[::2]).sums, (states[0] + states[2]).sums)  # type: ignore[union-attr]
    with pytest.raises(OptionError, match="head_dim"):
        sum(states)
    with pytest.raises(TypeError):
        1 + states[0]  # type: ignore[operator]


def test_nothing_changes_a_state(library: Library, dtype: str) -> None:
    _, key, value = _arrays(library, dtype)
    state = summarise(key, value)
    before = library.bits(state.sums)
    for _changed in (state + state, state - state, state.add(key, value), state.remove(key, value)):
        assert library.bits(state.sums) == before
    with pytest.raises(FrozenInstanceError):
        state.sums = key  # type: ignore[misc]


def _other_states(library: Library) -> dict[str, tuple[State, str]]:
    def state(dtype: str = "float32", heads: int = 2, head_dim: int = 3, value_dim: int = 2, **options: Any) -> State:
        sizes = {"heads": heads, "kv_heads": heads, "head_dim": head_dim, "value_dim": value_dim}
        return summarise(*_arrays(library, dtype, **sizes)[1:], **options)

    return {
        "head_dim": (state(head_dim=4), r"got head_dim 3 instead of 4$"),
        "value_dim": (state(value_dim=3), r"got value_dim 2 instead of 3$"),
        "heads": (state(heads=1), r"got heads \(2,\) instead of \(1,\)$"),
        "normalise": (state(normalise=False), r"got normalise True instead of False$"),
        "coefficients": (
            state(coefficients=(1, 1, 1)),
            r"got coefficients / a \(1.0, 2.0, 2.0\) instead of \(1.0, 1.0, 1.0\)$",
        ),
        "two": (state(normalise=False, head_dim=4), r"got head_dim 3 instead of 4, normalise True instead of False$"),
    }


@pytest.mark.parametrize("what", ["head_dim", "value_dim", "heads", "normalise", "coefficients", "two"])
def test_states_of_different_settings_say_which(library: Library, what: str) -> None:
    query, key, value = _arrays(library, "float32")
    state, (other, message) = summarise(key, value), _other_states(library)[what]
    for combine in (lambda: state + other, lambda: state - other, lambda: state.merge(state, other)):
        with pytest.raises(OptionError, match="states must be of the same kind.*" + message):
            combine()
    named = message.removeprefix("got ").split(" ")[0]
    with pytest.raises(OptionError, match=f"state must be of the same kind as the keys and values; got.*{named}"):
        attention(query, key, value, state=other)


def test_what_a_state_does_not_take(library: Library) -> None:
    query, key, value = _arrays(library, "float32")
    state = summarise(key, value)
    with pytest.raises(TypeError):
        state + 1  # type: ignore[operator]
    with pytest.raises(ShapeError, match="head_dim"):
        state.attend(library.to_array(np.ones((2, 5, 4)), "float32"))
    with pytest.raises(ShapeError, match="multiple"):
        state.read(library.to_array(np.ones((3, 5, 3)), "float32"))
    with pytest.raises(BackendError, match="query"):
        state.attend([[1.0]])
    with pytest.raises(OptionError, match="scale"):
        state.attend(query, scale=float("nan"))
    with pytest.raises(ShapeError, match="key_mask"):
        state.add(key, value, key_mask=library.to_array(np.ones((4, 9), dtype=np.bool_)))


def test_sums_of_another_precision(library: Library) -> None:
    wide, narrow = library.dtypes[0], library.dtypes[1]
    state = summarise(*_arrays(library, narrow)[1:])
    query = _arrays(library, wide)[0]
    with pytest.raises(DTypeError, match="precision of the state"):
        state.attend(query)
    with pytest.raises(OptionError, match="dtype"):
        state + summarise(*_arrays(library, wide)[1:])


def test_a_file_keeps_every_bit(library: Library, dtype: str, tmp_path: Path) -> None:
    _, key, value = _arrays(library, dtype)
    state = summarise(key, value, coefficients=(0.7, 0.3, 0.9), normalise=False)
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors", backend=library.name, device=library.device)
    assert_same_bits(library, loaded.sums, state.sums)
    assert (loaded.head_dim, loaded.weighting) == (state.head_dim, state.weighting)
    assert_same_bits(library, (loaded - state).sums, (state - state).sums)


def test_a_state_travels_by_numpy(library: Library, dtype: str) -> None:
    """Made here and read in NumPy, made in NumPy and read here."""
    query, key, value = _arrays(library, dtype)
    state = summarise(key, value)
    there = state.to("numpy")
    assert isinstance(there.sums, np.ndarray)
    np.testing.assert_array_equal(there.sums, library.to_numpy(state.sums))
    back = there.to(library.name, device=library.device)
    assert_same_bits(library, library.run(back.attend, query), library.run(state.attend, query))


def test_pytrees_come_apart_and_together(library: Library, dtype: str) -> None:
    """By the protocol of JAX; the rest must compare and hash, and any object may stand for an array on the way."""
    _, key, value = _arrays(library, dtype)
    state = summarise(key, value)
    assert State in CLASSES
    arrays, rest = state.tree_flatten()
    same = summarise(key, key).tree_flatten()[1]
    assert rest == same
    assert hash(rest) == hash(same)
    assert rest != summarise(value, value).tree_flatten()[1]
    marks = State.tree_unflatten(rest, [object() for _ in arrays])
    assert marks.head_dim == 3
    assert_same_bits(library, State.tree_unflatten(rest, arrays).sums, state.sums)
