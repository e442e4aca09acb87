"""Decoding one token at a time; that it agrees with causal attention is in test_causal.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_kind, assert_matches, assert_same_bits, eps_of, within
from oracle import attention_oracle, causal
from problems import Problem, draw
from ways import joined, long_stream, stepped

from taylorshift_core import Decoder, OptionError, ShapeError, State, attention, summarise
from taylorshift_core.pytrees import CLASSES

if TYPE_CHECKING:
    from conftest import Library


def _tokens(library: Library, dtype: str, length: int = 9, **sizes: Any) -> list[Any]:
    return [library.to_array(x, dtype) for x in draw(Problem(length, length, 3, 2, 4, 2, **sizes))[0]]


def _decode(decoder: Decoder, tokens: list[Any], **options: Any) -> tuple[Any, Decoder]:
    parts = []
    for i in range(tokens[0].shape[-2]):
        output, decoder = decoder.step(*(x[..., i : i + 1, :] for x in tokens), **options)
        parts.append(output)
    return joined(parts), decoder


def test_sequences_of_different_lengths(library: Library, dtype: str) -> None:
    """Each sequence takes part in the steps where it has a token, in any order; its outputs are those it has alone."""
    steps = np.asarray([[1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 1, 1, 0, 1, 0], [0] * 9], dtype=np.bool_)
    batch = {"query_batch": (3,), "key_batch": (3,), "value_batch": (3,)}
    tokens = _tokens(library, dtype, **batch)
    garbage = [
        library.to_array(np.where(steps[:, None, :, None], library.exact(x), within(dtype, 1e30)), dtype)
        for x in tokens
    ]
    mask = library.to_array(steps)

    def run(query: Any, key: Any, value: Any, mask: Any) -> Any:
        decoder, parts = Decoder(tail=3), []
        for i in range(9):
            part = slice(i, i + 1)
            output, decoder = decoder.step(*(x[..., part, :] for x in (query, key, value)), key_mask=mask[..., part])
            parts.append(output)
        return joined(parts)

    actual = library.run(run, *tokens, mask)
    q, k, v = (library.exact(x) for x in tokens)
    for sequence, taken in enumerate(steps):
        alone = [x[sequence][:, taken] for x in (q, k, v)]
        expected = attention_oracle(*alone, allowed=causal(int(taken.sum()), int(taken.sum())))
        for row, place in enumerate(np.flatnonzero(taken)):
            one = actual[sequence, :, int(place) : int(place) + 1, :]
            reference = float(np.max(np.abs(v)))
            assert_matches(library, dtype, one, expected[:, row : row + 1], terms=19, reference=reference)
    with_garbage = library.run(run, *garbage, mask)
    for sequence, place in zip(*np.nonzero(steps), strict=True):
        at = int(sequence), slice(None), int(place), slice(None)
        assert_same_bits(library, with_garbage[at], actual[at])


@pytest.mark.parametrize("tail", [1, 4])
def test_a_decoder_goes_on_from_a_state_and_gives_one_back(library: Library, dtype: str, tail: int) -> None:
    tokens = _tokens(library, dtype)
    expected = library.exact(library.run(attention, *tokens, is_causal=True))

    def run(*arrays: Any) -> Any:
        past = summarise(*(x[..., :4, :] for x in arrays[1:]))
        return _decode(Decoder(past, tail=tail), [x[..., 4:, :] for x in arrays])[0]

    actual = library.run(run, *tokens)
    reference = np.max(np.abs(library.exact(tokens[2])))
    assert_matches(library, dtype, actual, expected[:, 4:], terms=19, reference=reference)
    state = _decode(Decoder(tail=tail), tokens)[1].state
    assert state is not None
    difference = library.exact((state - summarise(*tokens[1:])).sums)
    np.testing.assert_allclose(difference, 0, atol=40 * eps_of(library, dtype) * reference)


def test_a_new_decoder_has_no_state() -> None:
    assert Decoder().state is None


def test_a_sequence_may_go_on_in_two_ways(library: Library, dtype: str) -> None:
    """Nothing changes a decoder: both ways see the same past, however often it is used."""
    tokens = _tokens(library, dtype)
    _, decoder = _decode(Decoder(tail=4), [x[..., :6, :] for x in tokens])
    step = [x[..., 6:7, :] for x in tokens]
    first, _ = decoder.step(*step)
    with library.backend.scope(step[1]):
        other = -step[1]
    for _ in range(5):
        decoder.step(step[0], other, step[2])
    again, _ = decoder.step(*step)
    assert_same_bits(library, again, first)


@pytest.mark.parametrize("tail", [1, 2, 5])
def test_memory_does_not_grow(library: Library, tail: int) -> None:
    """Sizes repeat after each `tail` tokens, and with a tail of 1 they never change, as loops of jax.lax want it."""
    decoder = Decoder(
        State.zeros(library.to_array(np.ones(1), "float32"), head_dim=3, value_dim=2, leading=(2,)), tail=tail
    )
    tokens, sizes = _tokens(library, "float32", length=12), []
    for i in range(12):
        _, decoder = decoder.step(*(x[..., i : i + 1, :] for x in tokens))
        assert decoder.past is not None
        sizes.append((tuple(decoder.past.sums.shape), 0 if decoder.recent is None else decoder.recent.length))
    assert sizes == [((2, 10, 3), (i + 1) % tail) for i in range(12)]


def test_one_token_gives_its_value(library: Library, dtype: str) -> None:
    query, key, value = _tokens(library, dtype, length=1)
    output, _ = Decoder().step(query, key, value)
    assert_kind(library, dtype, output, (4, 1, 2))
    expected = np.repeat(library.exact(value), 2, axis=0)
    assert_matches(library, dtype, output, expected, terms=10)


def test_errors_do_not_grow_with_the_stream(library: Library) -> None:
    """1000 tokens in float32, one at a time: outputs average over more and more values, and so do their errors."""
    tokens = [library.to_array(x, "float32") for x in draw(Problem(1000, 1000, 3, 2, 1, 1))[0]]
    outputs, _ = _decode(Decoder(tail=16), tokens)
    q, k, v = (library.exact(x) for x in tokens)
    expected = attention_oracle(q, k, v, allowed=causal(1000, 1000))
    errors = np.max(np.abs(library.exact(outputs) - expected), axis=(0, 2))
    budget = 4 * eps_of(library, "float32") * np.sqrt(10) * np.max(np.abs(v))  # that of ten terms, at any length
    assert np.max(errors) <= budget
    assert np.sqrt(np.mean(errors[500:] ** 2)) <= np.sqrt(np.mean(errors[:100] ** 2)) * np.sqrt(10)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_a_long_stream_is_whole_causal_attention(library: Library, mean: float) -> None:
    """100 000 tokens in float32, most of them in steps of many: as exact as the whole sequence, early and late.

    Values around 1 are the hard case: sums grow with the length and each addition rounds, so that errors may grow, but
    no faster than sqrt(n).
    """
    length = long_stream(100_000)
    query, key, value = (x.astype(np.float32) for x in draw(Problem(length, length, 3, 2, 1, 1))[0])
    tokens = [library.to_array(x, "float32") for x in (query, key, value + np.float32(mean))]
    whole = library.exact(library.run(attention, *tokens, is_causal=True, form="efficient"))
    actual = library.exact(stepped(Decoder(tail=7), (1, 1, 498, 1, 1999))(*tokens))
    q, k, v = (library.exact(x) for x in tokens)
    largest, eps = float(np.max(np.abs(v))), eps_of(library, "float32")
    places = np.unique(np.geomspace(1, length, 60).astype(int)) - 1
    errors = {"whole": [], "stream": []}
    for i in places:
        expected = attention_oracle(q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1])[:, 0]
        for name, outputs in (("whole", whole), ("stream", actual)):
            errors[name].append(float(np.max(np.abs(outputs[:, i] - expected))))
    for name, found in errors.items():
        assert max(found) <= 4 * eps * np.sqrt(10) * largest, name  # that of the ten features: lengths average out
        early, late = (
            max(e for e, i in zip(found, places, strict=True) if a <= i < b) for a, b in ((0, 1000), (1000, length))
        )
        assert late <= early * np.sqrt(length / 1000), name
    difference = np.max(np.abs(actual - whole), axis=(0, 2))
    assert np.max(difference) <= 8 * eps * np.sqrt(10) * largest


def test_pytrees_come_apart_and_together(library: Library, dtype: str) -> None:
    assert Decoder in CLASSES
    _, decoder = _decode(Decoder(tail=4), _tokens(library, dtype, length=6))
    parts, rest = decoder.tree_flatten()
    hash(rest)
    again = Decoder.tree_unflatten(rest, parts)
    tokens = _tokens(library, dtype, length=1)
    assert_same_bits(library, again.step(*tokens)[0], decoder.step(*tokens)[0])


def test_what_a_decoder_does_not_take(library: Library) -> None:
    query, key, value = _tokens(library, "float32", length=1)
    for tail in (0, 2.0, True):
        with pytest.raises(OptionError, match="tail must be an integer of at least 1; got"):
            Decoder(tail=tail)  # type: ignore[arg-type]
    _, key5, value5 = _tokens(library, "float32", length=5)
    with pytest.raises(ShapeError, match=r"same length in a step.*got query_length 1 and key_length 5"):
        Decoder().step(query, key5, value5)
    past = summarise(key, value, normalise=False)
    with pytest.raises(OptionError, match="got normalise False instead of True"):
        Decoder(past).step(query, key, value)
    with pytest.raises(ShapeError, match="key_mask must have shape"):
        Decoder().step(query, key, value, key_mask=library.to_array(np.ones((4, 1), dtype=np.bool_)))
