"""Gradients of causal attention in whole steps: chunks side by side, and triangles of scores shared out to threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gradient_ways import assert_gradients
from oracle import causal
from problems import Problem

from taylorshift_backends import _numpy_steps_back, _numpy_tiles
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_core import attention_vjp, summarise
from taylorshift_core.walk import chunk_of_gradients

if TYPE_CHECKING:
    from conftest import Library

Array = Any
each_form = pytest.mark.parametrize("form", ["direct", "efficient"])
SIZES = {
    "one chunk of several tiles": (500, 33, 17),
    "even chunks": (600, 5, 3),
    "a last chunk of its own": (509, 5, 3),
    "chunks of several tiles": (800, 17, 9),
}


def test_sizes_are_what_they_are_called() -> None:
    one, even, own, long = (chunk_of_gradients(n, d + 1, e + 1, TOKENS, past=False) for n, d, e in SIZES.values())
    assert one == 500 > 2 * TOKENS
    assert 600 % even == 0 < even < 600
    assert 509 % own > 0
    assert 800 > long > TOKENS


@each_form
@pytest.mark.parametrize("mask", ["absent", "keys"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_chunks_are_the_definition(
    library: Library, dtype: str, sizes: tuple[int, int, int], mask: str, form: str
) -> None:
    length, head_dim, value_dim = sizes
    problem = Problem(length, length, head_dim, value_dim, heads=2, kv_heads=1, key_mask=mask, normalise_output=True)
    assert_gradients(library, dtype, problem, form, causal(length, length), is_causal=True)


@each_form
@pytest.mark.parametrize("mask", ["absent", "batch, heads"])
def test_batches_that_broadcast_and_keys_that_nobody_sees(library: Library, dtype: str, mask: str, form: str) -> None:
    batches = {"query_batch": (2,), "key_batch": (1,), "value_batch": (2,)}
    problem = Problem(340, 400, 5, 3, heads=4, kv_heads=2, **batches, key_mask=mask, scale="per head")
    assert_gradients(library, dtype, problem, form, causal(340, 400), is_causal=True)


@each_form
@pytest.mark.parametrize("threads", [2, 5])
def test_one_head_is_shared_out_by_tokens(
    monkeypatch: pytest.MonkeyPatch, library: Library, dtype: str, threads: int, form: str
) -> None:
    """In parts whose queries meet all keys before them, with the rest of a tile before and behind."""
    items = []
    do = _numpy_steps_back.do
    monkeypatch.setattr(_numpy_steps_back, "threads_for", lambda _: threads)
    monkeypatch.setattr(_numpy_steps_back, "do", lambda job, n, *rest: (items.append(n), do(job, n, *rest))[1])
    assert_gradients(
        library, dtype, Problem(500, 500, 33, 17, 1, 1, key_mask="keys"), form, causal(500, 500), is_causal=True
    )
    assert items == [min(threads, -(-500 // TOKENS))]


@each_form
@pytest.mark.parametrize("length", [90, 600])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("is_causal", [True, False])
def test_a_state_goes_in_and_out(
    monkeypatch: pytest.MonkeyPatch, dtype: str, is_causal: bool, past: bool, length: int, form: str
) -> None:
    """As without whole steps, which are held against the definition elsewhere; and its count of keys has a gradient too."""
    rng = np.random.default_rng(length)
    tokens = [rng.standard_normal((2, length + more, 5)).astype(dtype) for more in (0, 30, 30)]
    options: dict[str, Any] = {"form": form, "is_causal": is_causal, "key_mask": rng.random(length + 30) < 0.7}
    options["normalise_output"] = True
    if past:
        options["state"] = summarise(*(x[:, :40] for x in tokens[1:]))
    by = rng.standard_normal(tokens[0].shape).astype(dtype)
    found: list[list[Array]] = []
    for compiled in (True, False):
        monkeypatch.setattr(_numpy_tiles, "COMPILED", compiled)
        (_, state), pullback = attention_vjp(*tokens, return_state=True, **options)
        for to_state in (summarise(*tokens[1:], key_mask=None), None):
            gradients = pullback((by, to_state))
            found.append([*gradients[:4], *([gradients.state.sums] if past else [])])
        assert state.sums.shape == summarise(*tokens[1:]).sums.shape
    half = len(found) // 2
    for mine, its in zip(found[:half], found[half:], strict=True):
        for one, other in zip(mine, its, strict=True):
            allowed = 4 * np.finfo(dtype).eps * np.sqrt(length) * max(1.0, np.max(np.abs(other)))
            np.testing.assert_allclose(one, other, rtol=0, atol=allowed * 5)


@each_form
@pytest.mark.parametrize(("rule", "whole"), [({}, True), ({"prefix_length": 3}, False), ({"block_causal": 2}, False)])
def test_rules_that_have_whole_steps(
    monkeypatch: pytest.MonkeyPatch, rule: dict[str, int], whole: bool, form: str
) -> None:
    """What never reached the compiled step would pass all of the above; wider rules take another way."""
    called = []
    step = _numpy_steps_back.meet_causal_vjp
    monkeypatch.setattr(_numpy_steps_back, "meet_causal_vjp", lambda *given: (called.append(1), step(*given))[1])
    x = np.random.default_rng(0).standard_normal((2, 50, 4))
    attention_vjp(x, x, x, form=form, is_causal=True, **rule)[1](x)
    assert bool(called) == whole
