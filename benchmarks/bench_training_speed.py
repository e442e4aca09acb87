"""Forward and backward pass together, against those of PyTorch's softmax attention: who is ahead at which length.

4 heads, float32. The goal is to be ahead at nine tenths of the length from which the forward pass alone has to be, which
is half as long again in causal attention.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pictures
import pytest
from side_by_side import ratio_of, take_turns

from taylorshift_core import attention, attention_vjp

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS = 4
GOALS = {
    (16, False): 270,
    (32, False): 630,
    (64, False): 2070,
    (16, True): 405,
    (32, True): 945,
    (64, True): 3105,
}  # tokens
SOFTMAX = "softmax (PyTorch)"
OURS = ("efficient form (NumPy)", "efficient form (PyTorch)")


def ways(head_dim: int, length: int, is_causal: bool) -> dict[str, Callable[[], Any]]:
    """Return functions that attend and find the gradients to query, key and value."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    *arrays, cotangent = (rng.standard_normal((HEADS, length, head_dim), dtype=np.float32) for _ in range(4))
    tensors = [torch.from_numpy(x)[None].requires_grad_() for x in arrays]
    by = torch.from_numpy(cotangent)[None]

    def trained(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*tensors, is_causal=is_causal), tensors, by)

    def pulled(form: str) -> Callable[[], Any]:
        return lambda: attention_vjp(*arrays, form=form, is_causal=is_causal)[1](cotangent)

    return {
        "efficient form (NumPy)": pulled("efficient"),
        "efficient form (PyTorch)": trained(partial(attention, form="efficient")),
        "direct form (NumPy)": pulled("direct"),
        SOFTMAX: trained(torch.nn.functional.scaled_dot_product_attention),
    }


@pytest.mark.parametrize(("head_dim", "is_causal"), GOALS)
def test_ahead_of_softmax(head_dim: int, is_causal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    goal, found, name = GOALS[head_dim, is_causal], {}, f"{'causal, ' if is_causal else ''}head_dim {head_dim}"
    for length in (goal // 2, goal, 2 * goal):
        runs = ways(head_dim, length, is_causal)
        found[length] = dict(zip(runs, take_turns(list(runs.values())).T, strict=True))
    at_goal = {way: ratio_of(found[goal][way], found[goal][SOFTMAX]) for way in OURS}
    with capsys.disabled():
        for length, seconds in found.items():
            print(f"\n{name}, {length} tokens, both passes: {pictures.times(seconds)}", end="")
        for way, ratio in at_goal.items():
            print(f"\n{name}, {goal} tokens: {way} / {SOFTMAX} {ratio}", end="")
    pictures.save(f"training-{'causal-' if is_causal else ''}{head_dim}", lambda axes: _draw(axes, name, goal, found))
    assert {way: ratio.median for way, ratio in at_goal.items() if ratio.median > 1} == {}


def _draw(axes: Any, name: str, goal: int, found: dict[int, dict[str, Any]]) -> None:
    pictures.against_length(axes, found)
    axes.axvline(goal, color="gray", linestyle=":", label=f"goal: {goal} tokens")
    title = f"Forward and backward, {name}, {HEADS} heads, float32"
    pictures.label(axes, title, "length (tokens)", "time (ms; line: median, band: middle half)")
