"""Gradients and tangents of packs: those of each sequence are those of the definition, and stay in it."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_kind, assert_matches, assert_same_bits, assert_same_steps, eps_of
from gradient_oracle import NAMES, derivative, directions, gradients_oracle, tangent_oracle
from gradient_ways import run
from oracle import attention_oracle, packed
from problems import Problem, draw
from ways import joined

from taylorshift_core import (
    DTypeError,
    Gradients,
    OptionError,
    ShapeError,
    attention_packed,
    attention_packed_jvp,
    attention_packed_vjp,
)

if TYPE_CHECKING:
    from conftest import Library

PACKS = {
    "itself": ((3, 1, 5), (3, 1, 5)),
    "others": ((3, 0, 5), (2, 4, 1)),
    "nothing to see": ((2, 4, 3), (3, 0, 4)),
    "one": ((4,), (6,)),
    "no sequences": ((), ()),
}


def bounds(lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(accumulate(lengths, initial=0))


def pulled(query: Any, key: Any, value: Any, cotangent: Any, **options: Any) -> tuple[Any, ...]:
    output, pullback = attention_packed_vjp(query, key, value, **options)
    return output, *pullback(cotangent)[:4]


def _allowed(queries: tuple[int, ...], keys: tuple[int, ...], *, is_causal: bool) -> np.ndarray:
    places = [np.concatenate([np.arange(n) for n in (*lengths, 0)]) for lengths in (queries, keys)]
    seen = packed(queries, keys)
    return seen & (places[0][:, None] >= places[1]) if is_causal else seen


@pytest.mark.parametrize("form", ["direct", "efficient", "auto"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("pack", PACKS)
def test_gradients_of_every_sequence(library: Library, dtype: str, pack: str, is_causal: bool, form: str) -> None:
    queries, keys = PACKS[pack]
    problem = Problem(sum(queries), sum(keys), 3, 2, 4, 2, (2,), (1,), (2,), scale="per head", key_mask="keys")
    arrays, keywords = draw(problem)
    mask, scale = keywords["key_mask"], keywords["scale"]
    allowed = _allowed(queries, keys, is_causal=is_causal)
    inputs = [library.to_array(x, dtype) for x in arrays]
    exact = [library.exact(x) for x in inputs]
    given = library.to_array(scale, dtype)
    settings = {"scale": library.exact(given), "key_mask": mask, "allowed": allowed}
    expected = attention_oracle(*exact, **settings)
    cotangent = library.to_array(np.random.default_rng(1).standard_normal(expected.shape), dtype)
    wanted = gradients_oracle(*exact, library.exact(cotangent), **settings)
    there = {"cu_seqlens_q": bounds(queries), "cu_seqlens_k": bounds(keys)}
    options = {"scale": given, "key_mask": library.to_array(mask), "form": form, "is_causal": is_causal}

    output, *gradients = run(library, lambda *a, **k: pulled(*a, **there, **k), *inputs, cotangent, **options)

    assert_matches(library, dtype, output, expected, terms=4 * problem.terms)
    for name, gradient in zip(NAMES, gradients, strict=True):
        by, size = wanted[name]
        assert_matches(library, dtype, gradient, by, terms=64 * problem.terms, reference=size)


@pytest.mark.parametrize("form", ["direct", "efficient", "auto"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("pack", PACKS)
def test_tangents_of_every_sequence(library: Library, dtype: str, pack: str, is_causal: bool, form: str) -> None:
    queries, keys = PACKS[pack]
    problem = Problem(sum(queries), sum(keys), 3, 2, 4, 2, (2,), (1,), (2,), scale="per head", key_mask="keys")
    arrays, keywords = draw(problem)
    inputs = [library.to_array(x, dtype) for x in (*arrays, keywords["scale"])]
    exact = tuple(library.exact(x) for x in inputs)
    moves = [library.to_array(x, dtype) for x in directions(exact, seed=2)]
    settings = {"key_mask": keywords["key_mask"], "allowed": _allowed(queries, keys, is_causal=is_causal)}
    expected = tangent_oracle(exact, tuple(library.exact(x) for x in moves), **settings)
    options = {"cu_seqlens_q": bounds(queries), "cu_seqlens_k": bounds(keys), "form": form, "is_causal": is_causal}

    def pushed(query: Any, key: Any, value: Any, scale: Any, *tangents: Any, key_mask: Any) -> Any:
        given = {"scale": scale, "key_mask": key_mask}
        return attention_packed_jvp((query, key, value), tangents, **given, **options)

    output, tangent = run(library, pushed, *inputs, *moves, key_mask=library.to_array(keywords["key_mask"]))
    assert_kind(library, dtype, tangent, expected.shape)
    terms = 16 * problem.terms
    assert_matches(library, dtype, output, attention_oracle(*exact[:3], scale=exact[3], **settings), terms=terms)
    # All rows move about as far as they are long. Differences of the oracle are exact to about 1e-10 of that.
    size = np.max(np.abs(expected), initial=np.max(np.abs(exact[2]), initial=0.0))
    error = np.max(np.abs(library.exact(tangent) - expected), initial=0.0)
    assert error <= max(4 * eps_of(library, dtype) * np.sqrt(terms), 1e-9) * size


@pytest.mark.parametrize("form", ["direct", "efficient"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("heads", [(4, 2), None])
def test_gradients_flow_through_the_states_of_a_pack(
    library: Library, dtype: str, is_causal: bool, form: str, heads: tuple[int, int] | None
) -> None:
    """Half of the queries meet their own keys and a past, half the states given back: as if all keys were given at once."""
    before, new = (2, 0, 3), (1, 4, 2)
    past, half, nobody = sum(before), sum(new), (0,) * 4
    arrays = draw(Problem(2 * half, past + half, 3, 2, *(heads or (1, 1))))[0]
    inputs = [library.to_array(x if heads else x[0], dtype) for x in arrays]
    exact = [library.exact(x) for x in inputs]
    seen = np.concatenate([packed(new, before), packed(new, new)], axis=1)
    own = np.concatenate([packed(new, before), _allowed(new, new, is_causal=is_causal)], axis=1)
    settings = {"allowed": np.concatenate([own, seen])}
    by = library.to_array(np.random.default_rng(1).standard_normal(attention_oracle(*exact, **settings).shape), dtype)
    expected = gradients_oracle(*exact, library.exact(by), **settings)

    def chained(query: Any, key: Any, value: Any, by: Any) -> tuple[Any, ...]:
        first, second = query[..., :half, :], query[..., half:, :]
        old, own = ((key[..., part, :], value[..., part, :]) for part in (slice(0, past), slice(past, None)))
        there, kept = {"cu_seqlens_q": bounds(new), "form": form}, {"return_state": True}
        none = {"cu_seqlens_q": nobody, "cu_seqlens_k": bounds(before), "form": form}
        (_, state), into = attention_packed_vjp(query[..., :0, :], *old, **none, **kept)
        (_, after), through = attention_packed_vjp(first, *own, state=state, is_causal=is_causal, **there, **kept)
        tokens = second, *(x[..., :0, :] for x in own)
        _, out_of = attention_packed_vjp(*tokens, state=after, cu_seqlens_k=nobody, **there)
        last = out_of(by[..., half:, :])
        middle = through((by[..., :half, :], last.state))
        begin = into((None, middle.state))
        pairs = (middle.query, last.query), (begin.key, middle.key), (begin.value, middle.value)
        return tuple(joined(list(pair)) for pair in pairs)

    for name, gradient in zip(NAMES, run(library, chained, *inputs, by), strict=False):
        assert_matches(library, dtype, gradient, expected[name][0], terms=2000, reference=expected[name][1])


def test_a_state_of_a_pack_moves_and_is_moved(library: Library) -> None:
    """The tangents of the states given and of those returned, against differences."""
    rng, options = np.random.default_rng(5), {"cu_seqlens_q": (0, 1, 4), "is_causal": True, "return_state": True}
    shapes = (2, 4, 3), (2, 4, 3), (2, 4, 2)
    tokens, moves, old = ([rng.standard_normal(shape) for shape in shapes] for _ in range(3))
    _, state = attention_packed(*(library.to_array(x, "float64") for x in old), **options)
    by_sums = rng.standard_normal(state.sums.shape)

    def flat(results: tuple[Any, Any]) -> np.ndarray:
        return np.concatenate([library.exact(x).ravel() for x in (results[0], results[1].sums)])

    def at(h: float) -> np.ndarray:
        moved = [library.to_array(x + h * dx, "float64") for x, dx in zip(tokens, moves, strict=True)]
        past = replace(state, sums=library.to_array(library.exact(state.sums) + h * by_sums, "float64"))
        return flat(attention_packed(*moved, state=past, **options))

    inputs, by = ([library.to_array(x, "float64") for x in each] for each in (tokens, moves))
    moving = Gradients(*by, None, replace(state, sums=library.to_array(by_sums, "float64")))
    results = attention_packed_jvp(inputs, moving, state=state, **options)
    np.testing.assert_allclose(flat(results[0]), at(0.0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(flat(results[1]), derivative(at), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_of_one_sequence_reaches_a_gradient_of_another(library: Library, dtype: str, bad: float) -> None:
    query, key, value = (np.random.default_rng(i).standard_normal((2, 9, 3)) for i in range(3))
    cotangent = library.to_array(np.ones((2, 9, 3)), dtype)
    found = []
    for there in (0.5, bad):
        for array in (query, key, value):
            array[:, 3:5] = there
        inputs = [library.to_array(x, dtype) for x in (query, key, value)]
        with np.errstate(all="ignore"):
            found.append(run(library, lambda *a: pulled(*a, cu_seqlens_q=(0, 3, 5, 9))[:4], *inputs, cotangent))
    for clean, dirty in zip(*found, strict=True):
        for part in (slice(0, 3), slice(5, 9)):
            assert_same_bits(library, dirty[:, part, :], clean[:, part, :])
            assert np.isfinite(library.exact(dirty[:, part, :])).all()


def test_the_output_is_that_of_attention_packed(library: Library, dtype: str) -> None:
    inputs = [library.to_array(np.random.default_rng(i).standard_normal((2, 9, 3)), dtype) for i in range(3)]
    options = {"cu_seqlens_q": (0, 3, 5, 9), "is_causal": True, "normalise_output": True}
    output, pullback = attention_packed_vjp(*inputs, **options)
    assert_same_steps(library, dtype, output, attention_packed(*inputs, **options), terms=4)
    for gradient, array in zip(pullback(None), inputs, strict=False):
        assert_kind(library, dtype, gradient, tuple(array.shape))
        assert not library.exact(gradient).any()


def test_errors_say_what_is_wrong(library: Library) -> None:
    inputs = [library.to_array(np.ones((2, 4, 3)), "float32") for _ in range(3)]
    with pytest.raises(ShapeError, match="cu_seqlens_q must start at 0"):
        attention_packed_vjp(*inputs, cu_seqlens_q=(0, 3))
    output, pullback = attention_packed_vjp(*inputs, cu_seqlens_q=(0, 1, 4))
    with pytest.raises(ShapeError, match=r"the cotangent must have shape \(2, 4, 3\); got \(2, 3, 3\)"):
        pullback(output[:, 1:, :])
    if "float64" in library.dtypes:
        with library.backend.scope(output):
            wide = library.namespace.astype(output, library.namespace.float64)
        with pytest.raises(DTypeError, match="the cotangent must have dtype"):
            pullback(wide)
    with pytest.raises(OptionError, match="prefix_length needs is_causal"):
        attention_packed_vjp(*inputs, cu_seqlens_q=(0, 4), prefix_length=2)
    with pytest.raises(OptionError, match="attention of a pack takes no attn_mask, plan"):
        attention_packed_vjp(*inputs, cu_seqlens_q=(0, 4), plan=None, attn_mask=None)  # type: ignore[call-arg]
    with pytest.raises(ShapeError, match=r"the tangent of key must have shape \(2, 4, 3\); got \(2, 3, 3\)"):
        attention_packed_jvp(inputs, (None, output[:, 1:, :], None), cu_seqlens_q=(0, 1, 4))
    (_, state), pullback = attention_packed_vjp(*inputs, cu_seqlens_q=(0, 1, 4), return_state=True)
    with pytest.raises(OptionError, match="with return_state the cotangent must be a pair"):
        pullback(output)
    with pytest.raises(OptionError, match="the tangent of the state must be a State or None"):
        attention_packed_jvp(inputs, (None, None, None, None, 1.0), state=state, cu_seqlens_q=(0, 1, 4))
