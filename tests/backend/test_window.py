"""Sliding windows: exact at every place, in any stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_same_bits, eps_of
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import attention_oracle, causal
from problems import Problem, draw
from ways import assert_way, long_stream, problems, several, stepped

from taylorshift_core import OptionError, ShapeError, SlidingWindow
from taylorshift_core.pytrees import CLASSES

if TYPE_CHECKING:
    from conftest import Library

derandomised = several(60)


@given(
    problem=problems(),
    window=st.integers(1, 13),
    chunk=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
)
@derandomised
def test_each_token_sees_its_window(
    library: Library, dtype: str, problem: Problem, window: int, chunk: int, lengths: list[int]
) -> None:
    assume(chunk <= window)
    n = problem.query_length
    start = SlidingWindow(window, chunk=chunk)
    assert_way(library, dtype, stepped(start, lengths), problem, causal(n, n, window=window))


@pytest.mark.parametrize(("window", "chunk"), [(1, None), (7, 1), (7, 2), (20, 3), (64, 8), (50, 7), (40, 40), (90, 8)])
@pytest.mark.parametrize("lengths", [(1,), (130,), (3, 11, 1)])
def test_chunks_enter_leave_and_are_summed_anew(
    library: Library, dtype: str, window: int, chunk: int | None, lengths: tuple[int, ...]
) -> None:
    """130 tokens: the state has lost and changed its chunks many times over."""
    problem = Problem(130, 130, 3, 2, 4, 2)
    way = stepped(SlidingWindow(window, chunk=chunk), lengths)
    assert_way(library, dtype, way, problem, causal(130, 130, window=window))


def _stream(library: Library, window: SlidingWindow, tokens: list[Any], part: int) -> tuple[np.ndarray, SlidingWindow]:
    outputs = []
    length = tokens[0].shape[-2]
    for first in range(0, length, part):
        output, window = window.step(*(x[..., first : min(first + part, length), :] for x in tokens))
        outputs.append(library.exact(output))
    return np.concatenate(outputs, axis=-2), window


def test_no_drift(library: Library) -> None:
    """A million tokens in float32 by a window of 1000, which ten thousand chunks enter and leave: no place is less exact."""
    length, window, chunk = long_stream(1_000_000), 1000, 100
    rng = np.random.default_rng(0)
    tokens = [library.to_array(rng.standard_normal((1, length, n), dtype=np.float32)) for n in (3, 3, 2)]
    actual, _ = _stream(library, SlidingWindow(window, chunk=chunk), tokens, 10_000)
    q, k, v = (library.exact(x) for x in tokens)
    first, later = np.arange(window, 11 * window, 61), rng.integers(11 * window, length, 200)
    errors = []
    for i in (*first, *later, length - 1):
        seen = slice(i + 1 - window, i + 1)
        errors.append(np.max(np.abs(actual[:, i] - attention_oracle(q[:, i : i + 1], k[:, seen], v[:, seen])[:, 0])))
    # Each sum has at most 3 * window / chunk roundings behind it; it is divided by a count of a window.
    budget = 4 * eps_of(library, "float32") * np.sqrt(window + 10) * np.max(np.abs(v)) / np.sqrt(window)
    assert max(errors) <= budget
    early, late = (np.sqrt(np.mean(np.square(part))) for part in (errors[: len(first)], errors[len(first) :]))
    assert late <= 1.5 * early


def test_the_drift_bound(library: Library) -> None:
    """Large values come and go: they leave at most ``3 * window / chunk * eps / 2`` of themselves, and for one window."""
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((1, 400, n)) for n in (3, 3, 2)]
    large = 2.0**20
    arrays[2][:, 100:110] *= large
    tokens = [library.to_array(x, "float32") for x in arrays]
    actual, _ = _stream(library, SlidingWindow(40, chunk=4), tokens, 1)
    q, k, v = (library.exact(x) for x in tokens)
    expected = attention_oracle(q, k, v, allowed=causal(400, 400, window=40))
    errors = np.max(np.abs(actual - expected), axis=(0, 2))
    ordinary = 4 * eps_of(library, "float32") * np.sqrt(50) * 4
    left_behind = 3 * (40 / 4) * eps_of(library, "float32") / 2 * np.max(np.abs(v)) * 2  # weights are 5/2 to 1/2
    assert np.max(errors[:100]) <= ordinary
    assert np.max(errors[150:190]) <= left_behind
    assert np.max(errors[190:]) <= ordinary


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("place", ["key", "value"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_token_is_gone_one_window_after_it_left(library: Library, dtype: str, place: str, bad: float) -> None:
    arrays = dict(zip(("query", "key", "value"), draw(Problem(200, 200, 3, 2, 4, 2))[0], strict=True))
    clean, _ = _stream(library, SlidingWindow(40, chunk=4), [library.to_array(x, dtype) for x in arrays.values()], 1)
    arrays[place][0, 60] = bad
    tokens = [library.to_array(x, dtype) for x in arrays.values()]
    actual, _ = _stream(library, SlidingWindow(40, chunk=4), tokens, 1)
    np.testing.assert_array_equal(actual[:, :60], clean[:, :60])
    assert not np.isfinite(actual[:2, 60:100]).any()
    np.testing.assert_array_equal(actual[2:], clean[2:])
    np.testing.assert_array_equal(actual[:, 140:], clean[:, 140:])


def test_a_window_with_nothing_to_attend_gives_exact_zeros(library: Library, dtype: str) -> None:
    tokens = [library.to_array(x, dtype) for x in draw(Problem(60, 60, 3, 2, 4, 2))[0]]
    window = SlidingWindow(12, chunk=2)
    for i in range(60):
        mask = library.to_array(np.asarray([i < 30]))
        output, window = window.step(*(x[..., i : i + 1, :] for x in tokens), key_mask=mask)
        assert library.exact(output).any() == (i < 41)


def test_memory_does_not_grow(library: Library) -> None:
    tokens = [library.to_array(x, "float32") for x in draw(Problem(200, 200, 3, 2, 2, 2))[0]]
    window, most = SlidingWindow(40, chunk=4), 0
    for i in range(200):
        _, window = window.step(*(x[..., i : i + 1, :] for x in tokens))
        assert window.contents is not None
        kept = sum(chunk.length for chunk in window.contents.chunks)
        kept += 0 if window.contents.recent is None else window.contents.recent.length
        most = max(most, kept)
    assert most <= 40 + 2 * 4


def test_pytrees_come_apart_and_together(library: Library, dtype: str) -> None:
    assert SlidingWindow in CLASSES
    tokens = [library.to_array(x, dtype) for x in draw(Problem(30, 30, 3, 2, 4, 2))[0]]
    _, window = window_after(tokens)
    parts, rest = window.tree_flatten()
    hash(rest)
    (contents,) = parts
    assert type(contents) in CLASSES
    inside, inner = contents.tree_flatten()
    hash(inner)
    again = SlidingWindow.tree_unflatten(rest, (type(contents).tree_unflatten(inner, inside),))
    step = [x[..., :1, :] for x in tokens]
    assert_same_bits(library, again.step(*step)[0], window.step(*step)[0])


def window_after(tokens: list[Any]) -> tuple[Any, SlidingWindow]:
    return SlidingWindow(12, chunk=4).step(*tokens)


def test_what_a_window_does_not_take(library: Library) -> None:
    with pytest.raises(OptionError, match="window must be an integer of at least 1; got 0"):
        SlidingWindow(0)
    with pytest.raises(OptionError, match="chunk must be an integer of at least 1 and at most window, 4; got 5"):
        SlidingWindow(4, chunk=5)
    query, key, value = (library.to_array(x, "float32") for x in draw(Problem(2, 3))[0])
    with pytest.raises(ShapeError, match="same length in a step"):
        SlidingWindow(4).step(query, key, value)
