"""`attention_packed_vjp`: gradients of each sequence are those of the definition, and stay in it."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_kind, assert_matches, assert_same_bits, assert_same_steps
from gradient_oracle import NAMES, gradients_oracle
from gradient_ways import run
from oracle import attention_oracle, packed
from problems import Problem, draw

from taylorshift_core import DTypeError, OptionError, ShapeError, attention_packed, attention_packed_vjp

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


@pytest.mark.parametrize("form", ["direct", "efficient", "auto"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("pack", PACKS)
def test_gradients_of_every_sequence(library: Library, dtype: str, pack: str, is_causal: bool, form: str) -> None:
    queries, keys = PACKS[pack]
    problem = Problem(sum(queries), sum(keys), 3, 2, 4, 2, (2,), (1,), (2,), scale="per head", key_mask="keys")
    arrays, keywords = draw(problem)
    mask, scale = keywords["key_mask"], keywords["scale"]
    allowed = packed(queries, keys)
    if is_causal:
        places = [np.concatenate([np.arange(n) for n in (*lengths, 0)]) for lengths in (queries, keys)]
        allowed = allowed & (places[0][:, None] >= places[1])
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
