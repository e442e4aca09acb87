"""Loops of NumPy that share out the tokens of few heads: what comes back is what one thread gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_matches
from gradient_oracle import NAMES, gradients_oracle
from gradient_ways import assert_gradients, pulled
from oracle import causal
from problems import Problem

from taylorshift_backends import _numpy_loops
from taylorshift_core import loops

if TYPE_CHECKING:
    from conftest import Library


class Run:
    """As much of a run as loops look at."""

    xp = np


@pytest.mark.parametrize("batch", [(), (1,), (3,), (1, 2)])
@pytest.mark.parametrize("length", [1, 8, 21])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_sums_start_from_the_carry_once(
    monkeypatch: pytest.MonkeyPatch, batch: tuple[int, ...], length: int, threads: int
) -> None:
    monkeypatch.setattr(_numpy_loops, "_threads", lambda *_: threads)
    rng = np.random.default_rng(0)
    carry, tokens = rng.standard_normal((*batch, 2, 3)), rng.standard_normal((*batch, length, 3))

    def step(run: Any, carry: Any, tokens: Any, factor: Any) -> Any:
        return carry + factor * tokens.sum(axis=-2, keepdims=True), (2 * tokens, tokens[..., :1])

    arguments = carry, (tokens,), (np.full((*batch, 1, 1), 3.0),), 4
    found, outputs = _numpy_loops.scan_sums(Run(), step, *arguments)
    expected, wanted = loops.scan_tiles(Run(), step, *arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    for output, by in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(output, by)


@pytest.mark.parametrize("form", ["direct", "efficient"])
def test_gradients_of_one_long_head(library: Library, form: str) -> None:
    """Long enough that its work is shared out to all threads."""
    arrays = [np.random.default_rng(i).standard_normal((1, 1500, 8)) for i in range(4)]
    wanted = gradients_oracle(*arrays)
    _, *gradients = pulled(*arrays, form=form)
    for name, gradient in zip(NAMES, gradients, strict=True):
        by, size = wanted[name]
        assert_matches(library, "float64", gradient, by, terms=4 * 3000, reference=size)


@pytest.mark.parametrize("form", ["direct", "efficient"])
@pytest.mark.parametrize("length", [7, 130])
def test_derivatives_of_one_head_alone(library: Library, dtype: str, length: int, form: str) -> None:
    """Forwards and backwards: what has no axis of heads, such as which token sees which, is not cut as if it had."""
    assert_gradients(library, dtype, Problem(length, length, 5, 3, 1, 1), form, causal(length, length), is_causal=True)
