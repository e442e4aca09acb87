"""Forward and backward pass together, against those of PyTorch's softmax attention: who is ahead at which length.

4 heads, float32. The goal is to be ahead at nine tenths of the length from which the forward pass alone has to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pictures
import pytest
from side_by_side import ratio_of, take_turns

from taylorshift_core import attention, attention_vjp

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS = 4
GOALS = {16: 270, 32: 630, 64: 2070}  # tokens, by head_dim
SOFTMAX = "softmax (PyTorch)"
OURS = ("efficient form (NumPy)", "efficient form (PyTorch)")


def ways(head_dim: int, length: int) -> dict[str, Callable[[], Any]]:
    """Return functions that attend and find the gradients to query, key and value."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    *arrays, cotangent = (rng.standard_normal((HEADS, length, head_dim), dtype=np.float32) for _ in range(4))
    tensors = [torch.from_numpy(x)[None].requires_grad_() for x in arrays]
    by = torch.from_numpy(cotangent)[None]

    def trained(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*tensors), tensors, by)

    return {
        "efficient form (NumPy)": lambda: attention_vjp(*arrays, form="efficient")[1](cotangent),
        "efficient form (PyTorch)": trained(lambda *x: attention(*x, form="efficient")),
        "direct form (NumPy)": lambda: attention_vjp(*arrays, form="direct")[1](cotangent),
        SOFTMAX: trained(torch.nn.functional.scaled_dot_product_attention),
    }


@pytest.mark.parametrize("head_dim", GOALS)
def test_ahead_of_softmax(head_dim: int, capsys: pytest.CaptureFixture[str]) -> None:
    goal, found = GOALS[head_dim], {}
    for length in (goal // 2, goal, 2 * goal):
        runs = ways(head_dim, length)
        found[length] = dict(zip(runs, take_turns(list(runs.values())).T, strict=True))
    at_goal = {way: ratio_of(found[goal][way], found[goal][SOFTMAX]) for way in OURS}
    with capsys.disabled():
        for length, seconds in found.items():
            print(f"\nhead_dim {head_dim}, {length} tokens, both passes: {pictures.times(seconds)}", end="")
        for way, ratio in at_goal.items():
            print(f"\nhead_dim {head_dim}, {goal} tokens: {way} / {SOFTMAX} {ratio}", end="")
    pictures.save(f"training-{head_dim}", lambda axes: _draw(axes, head_dim, found))
    assert {way: ratio.median for way, ratio in at_goal.items() if ratio.median > 1} == {}


def _draw(axes: Any, head_dim: int, found: dict[int, dict[str, Any]]) -> None:
    pictures.against_length(axes, found)
    axes.axvline(GOALS[head_dim], color="gray", linestyle=":", label=f"goal: {GOALS[head_dim]} tokens")
    title = f"Forward and backward, {HEADS} heads, head_dim {head_dim}, float32"
    pictures.label(axes, title, "length (tokens)", "time (ms; line: median, band: middle half)")
