"""Causal attention against that of PyTorch: from which length the efficient form is faster. 4 heads, float32."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pictures
import pytest

from taylorshift_core import attention

if TYPE_CHECKING:
    from collections.abc import Callable

# By head_dim: lengths to measure, the target among them (1.5 times that of attention to all keys).
LENGTHS = {
    16: (225, 450, 900, 1800, 3600),
    32: (512, 1050, 2100, 4200, 8400),
    64: (1725, 3450, 6900, 13_800),
}
TARGET = {16: 450, 32: 1050, 64: 3450}
ROUNDS = 7


def _ways(head_dim: int, length: int) -> dict[str, Callable[[], Any]]:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, length, head_dim), dtype=np.float32) for _ in range(3)]
    tensors = [torch.from_numpy(x)[None] for x in arrays]
    softmax = torch.nn.functional.scaled_dot_product_attention
    return {
        "efficient form (NumPy)": lambda: attention(*arrays, is_causal=True, form="efficient"),
        "direct form (NumPy)": lambda: attention(*arrays, is_causal=True, form="direct"),
        "softmax (PyTorch)": lambda: softmax(*tensors, is_causal=True),
    }


def _seconds(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the times of all ways, taken in turns."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            start = perf_counter()
            run()
            if number:  # the first is for warming up
                seconds[way].append(perf_counter() - start)
    return seconds


@pytest.mark.parametrize("head_dim", LENGTHS)
def test_crossover(head_dim: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = {length: _seconds(_ways(head_dim, length), ROUNDS) for length in LENGTHS[head_dim]}
    efficient, _, softmax = next(iter(found.values()))
    ahead = [n for n, s in found.items() if median(s[efficient]) < median(s[softmax])]
    with capsys.disabled():
        for length, seconds in found.items():
            times = (
                f"{way} {1e3 * median(s):8.2f} ms [{1e3 * min(s):.2f}, {1e3 * max(s):.2f}]"
                for way, s in seconds.items()
            )
            print(f"\nhead_dim {head_dim}, {length:>6} tokens: " + ", ".join(times), end="")
        first = min(ahead, default=None)
        print(f"\nhead_dim {head_dim}: efficient ahead of softmax from {first} tokens on (target {TARGET[head_dim]})")
    pictures.save(f"causal-{head_dim}", lambda axes: _draw(axes, head_dim, found))
    assert LENGTHS[head_dim][-1] in ahead  # linear against quadratic


def _draw(axes: Any, head_dim: int, found: dict[int, dict[str, list[float]]]) -> None:
    lengths = list(found)
    for way, colour, marker in zip(found[lengths[0]], pictures.COLOURS, pictures.MARKERS, strict=False):
        runs = [found[n][way] for n in lengths]
        axes.plot(lengths, [1e3 * median(s) for s in runs], color=colour, marker=marker, label=way)
        low, high = ([1e3 * f(s) for s in runs] for f in (min, max))
        axes.fill_between(lengths, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.axvline(TARGET[head_dim], color="gray", linestyle=":", label=f"target: {TARGET[head_dim]} tokens")
    title = f"Causal attention, 4 heads, head_dim {head_dim}, float32"
    pictures.label(axes, title, "length (tokens)", "time (ms; line: median, band: range)")
