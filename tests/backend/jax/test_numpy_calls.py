"""Programs on the CPU that call NumPy: which do, with what result, under which transformations."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from called import FORMS, TARGET, attend, by_numpy, gradients, tokens
from jax import numpy as jnp

from taylorshift_backends import _jax_numpy
from taylorshift_core import attention, attention_vjp, explain, load_backend

if TYPE_CHECKING:
    from conftest import Library


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("jitted", [False, True])
def test_it_is_what_numpy_gives_to_the_bit(
    library: Library, calls: list[str], form: str, dtype: str, is_causal: bool, jitted: bool
) -> None:
    inputs, options = tokens(dtype), {"form": form, "is_causal": is_causal}
    arrays = [np.asarray(each) for each in inputs]
    assert explain(*inputs, form=form).backend is load_backend("numpy")
    call = partial(attention, **options)
    found = (jax.jit(call) if jitted else call)(*inputs)
    assert found.dtype == dtype
    expected, pullback = attention_vjp(*arrays, **options)
    np.testing.assert_array_equal(found, attention(*arrays, **options))
    assert calls == ["attend"]
    by_hand = attention_vjp(*inputs, **options)[1](found)
    for by, mine, wanted in zip(gradients(*inputs, **options), by_hand, pullback(expected), strict=False):
        np.testing.assert_array_equal(by, wanted)
        np.testing.assert_array_equal(mine, wanted)
    assert calls[1:] == 2 * ["attend_keeping", "vjp"]


@pytest.mark.parametrize("form", FORMS)
def test_all_that_may_come_with_tokens(library: Library, calls: list[str], form: str) -> None:
    """A state, a mask and a scale for each head; and the state behind all keys comes back."""
    inputs, mask, scale = tokens("float64"), jnp.arange(100) % 3 > 0, jnp.asarray([0.5, 1.0, 1.5, 2.0])

    def both(query: Any, key: Any, value: Any, mask: Any, scale: Any) -> Any:
        options = {"scale": scale, "form": form, "return_state": True}
        _, state = attention(query, key, value, key_mask=mask, **options)
        return attention(query, value, key, state=state, is_causal=True, **options)

    found, expected = jax.jit(both)(*inputs, mask, scale), both(*(np.asarray(x) for x in (*inputs, mask, scale)))
    assert calls == 2 * ["attend"]
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1].sums, expected[1].sums)


@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("form", FORMS)
def test_no_token_at_all(library: Library, calls: list[str], form: str, queries: int, keys: int) -> None:
    query, (key, value) = tokens(length=queries)[0], tokens(length=keys)[:2]
    found = jax.jit(partial(attention, form=form))(query, key, value)
    np.testing.assert_array_equal(found, np.zeros((2, 4, queries, 16), "float32"))
    for by, at in zip(gradients(query, key, value, form=form), (query, key, value), strict=True):
        np.testing.assert_array_equal(by, np.zeros(at.shape, "float32"))


@pytest.mark.parametrize(
    ("form", "what", "length", "called"),
    [
        ("efficient", attention, 128, True),
        ("efficient", attention, 64, False),
        ("efficient", gradients, 128, True),
        ("efficient", gradients, 64, False),
        ("direct", attention, 256, True),
        ("direct", attention, 128, False),
        ("direct", gradients, 256, True),
        ("direct", gradients, 128, False),
    ],
)
@pytest.mark.usefixtures("numpy_is_faster")
def test_what_is_worth_a_call(library: Library, form: str, what: Any, length: int, called: bool) -> None:
    text = jax.jit(partial(what, form=form)).lower(*tokens(length=length, leading=(4,))).as_text()
    assert (TARGET in text) is called


@pytest.mark.parametrize("length", [16, 100, 300])
@pytest.mark.usefixtures("numpy_is_faster")
def test_a_form_is_chosen_by_the_prices_of_who_computes_it(
    library: Library, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """At 100 tokens the form that is left would be a call, so that only the reason differs."""
    inputs = tokens(length=length, leading=(4,))
    plan = explain(*inputs)
    assert plan.backend.name == ("numpy" if length == 300 else "jax")
    if length == 300:
        assert plan == explain(*(np.asarray(each) for each in inputs))
    else:
        monkeypatch.setattr(_jax_numpy, "_numpy_is_faster", lambda: False)
        alone = explain(*inputs)
        assert (plan.reason == alone.reason) is (length == 16)
        assert replace(plan, reason="") == replace(alone, reason="")


def test_tangents_stay_in_xla(library: Library, calls: list[str]) -> None:
    """NumPy has no whole steps for them."""
    inputs = tokens()
    jax.block_until_ready(jax.jvp(attend, inputs, inputs))
    assert calls == ["attend_keeping"]


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_stays_in_xla(library: Library, calls: list[str], half: str) -> None:
    assert explain(*tokens(half)).backend is load_backend("jax")
    assert attend(*tokens(half)).dtype == half
    query, key, value = tokens()
    attend(query, key, value, scale=jnp.ones(4, half))  # a scale alone keeps it there as well
    assert calls == []


def test_without_programs_all_stays_in_xla(library: Library, calls: list[str]) -> None:
    with jax.disable_jit():
        found = attend(*tokens("float64"))
    np.testing.assert_allclose(found, by_numpy(*tokens("float64")), atol=1e-13)
    assert calls == []


def test_programs_inside_programs(library: Library, calls: list[str]) -> None:
    inputs, inner = tokens(), jax.jit(attend)
    found = jax.jit(lambda query, *rest: inner(inner(query, *rest), *rest))(*inputs)
    np.testing.assert_array_equal(found, by_numpy(by_numpy(*inputs), *inputs[1:]))
    assert calls == 2 * ["attend"]


def test_a_loop_calls_at_each_turn(library: Library, calls: list[str]) -> None:
    query, key, value = inputs = tokens()
    step = lambda query, key: (attend(query, key, value), query)  # noqa: E731
    last, _ = jax.lax.scan(step, query, jnp.stack([key, -key, key]))
    for at in (key, -key, key):
        query = by_numpy(query, at, value)
    np.testing.assert_array_equal(last, query)
    assert len(calls) == 3
    asked = lambda wanted: jax.lax.cond(wanted, attend, lambda query, *_: query, *inputs)  # noqa: E731
    jax.block_until_ready([jax.jit(asked)(wanted) for wanted in (True, False)])
    assert len(calls) == 4


def test_a_batch_is_one_call_after_the_other(library: Library, calls: list[str]) -> None:
    """Along axes that differ; the keys are the same for all."""
    query, key, value = tokens("float64")
    key = key[0, :2]
    found = jax.jit(jax.vmap(attend, (2, None, 0), 1))(jnp.moveaxis(query, 1, 2), key, jnp.moveaxis(value, 1, 0))
    assert len(calls) == 4
    expected = np.stack([by_numpy(query[:, i], key, value[:, i]) for i in range(4)], axis=1)
    np.testing.assert_array_equal(found, expected)


def test_what_is_kept_for_a_gradient_may_be_made_again(library: Library, calls: list[str]) -> None:
    inputs = tokens("float64")
    loss = lambda function: jax.jit(jax.grad(lambda *given: jnp.sum(jnp.sin(function(*given))), (0, 1, 2)))  # noqa: E731
    found = jax.block_until_ready(loss(jax.checkpoint(attend))(*inputs))
    assert calls.count("vjp") == 1
    for mine, plain in zip(found, loss(attend)(*inputs), strict=True):
        np.testing.assert_array_equal(mine, plain)


def test_memory_that_is_given_away(library: Library, calls: list[str]) -> None:
    inputs = tokens()
    expected = by_numpy(*inputs)
    step = jax.jit(attend, donate_argnums=0)
    np.testing.assert_array_equal(step(*inputs), expected)
    assert inputs[0].is_deleted()
    assert calls == ["attend"]


def test_arrays_of_numpy_are_only_looked_at(library: Library, calls: list[str]) -> None:
    """A program looks at the memory of arrays of NumPy that it is given."""
    inputs = [np.array(each) for each in tokens("float64")]
    before = [each.copy() for each in inputs]
    jax.block_until_ready([jax.jit(attend)(*inputs), jax.jit(partial(gradients, form="efficient"))(*inputs)])
    assert calls == ["attend", "attend_keeping", "vjp"]
    for was, is_now in zip(before, inputs, strict=True):
        np.testing.assert_array_equal(is_now, was)


def test_an_error_in_numpy_is_one_of_the_program(
    library: Library, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        msg = "no room"
        raise MemoryError(msg)

    monkeypatch.setattr(_jax_numpy._Call, "in_numpy", no_room)
    with pytest.raises(jax.errors.JaxRuntimeError, match="MemoryError: no room"):
        jax.block_until_ready(attend(*tokens()))
