"""Causal attention against that of PyTorch: from which length the efficient form is ahead. 4 heads, float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pictures
import pytest
from side_by_side import ratio_of, take_turns

from taylorshift_core import attention

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS = 4
GOALS = {16: 450, 32: 1050, 64: 3450}  # tokens, by head_dim: 1.5 times those of attention to all keys
EFFICIENT, DIRECT, SOFTMAX = "efficient form (NumPy)", "direct form (NumPy)", "softmax (PyTorch)"


def ways(head_dim: int, length: int) -> dict[str, Callable[[], Any]]:
    """Return who is measured, each as a function to call."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((HEADS, length, head_dim), dtype=np.float32) for _ in range(3)]
    tensors = [torch.from_numpy(x)[None] for x in arrays]
    softmax = torch.nn.functional.scaled_dot_product_attention
    return {
        EFFICIENT: lambda: attention(*arrays, is_causal=True, form="efficient"),
        DIRECT: lambda: attention(*arrays, is_causal=True, form="direct"),
        SOFTMAX: lambda: softmax(*tensors, is_causal=True),
    }


@pytest.mark.parametrize("head_dim", GOALS)
def test_ahead_of_softmax(head_dim: int, capsys: pytest.CaptureFixture[str]) -> None:
    """At the goal and, since linear must beat quadratic, at twice as many tokens."""
    goal, found = GOALS[head_dim], {}
    for length in (goal // 2, goal, 2 * goal):
        runs = ways(head_dim, length)
        found[length] = dict(zip(runs, take_turns(list(runs.values())).T, strict=True))
    ratios = {length: ratio_of(seconds[EFFICIENT], seconds[SOFTMAX]) for length, seconds in found.items()}
    with capsys.disabled():
        for length, seconds in found.items():
            print(f"\nhead_dim {head_dim}, {length} tokens, causal: {pictures.times(seconds)}", end="")
            print(f"; {EFFICIENT} / {SOFTMAX} {ratios[length]}", end="")
    pictures.save(f"causal-{head_dim}", lambda axes: _draw(axes, head_dim, found))
    assert {length: ratio.median for length, ratio in ratios.items() if length >= goal and ratio.median > 1} == {}


def _draw(axes: Any, head_dim: int, found: dict[int, dict[str, Any]]) -> None:
    pictures.against_length(axes, found)
    axes.axvline(GOALS[head_dim], color="gray", linestyle=":", label=f"goal: {GOALS[head_dim]} tokens")
    title = f"Causal attention, {HEADS} heads, head_dim {head_dim}, float32"
    pictures.label(axes, title, "length (tokens)", "time (ms; line: median, band: middle half)")
