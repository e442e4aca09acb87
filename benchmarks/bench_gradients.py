"""What gradients cost: time against the forward pass, memory against automatic differentiation of the published form.

Times are medians of calls taken turn by turn. Memory is what the operating system counted (VmHWM), in a process of its
own for each number, beyond what it held before.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from taylorshift_core import attention, attention_vjp

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS = 4


def _arrays(length: int, head_dim: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((HEADS, length, head_dim), dtype=np.float32) for _ in range(4)]


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize(("form", "length"), [("efficient", 4096), ("direct", 1024)])
def test_forward_and_backward_against_forward(
    benchmark: Any, form: str, length: int, head_dim: int, capsys: pytest.CaptureFixture[str]
) -> None:
    *arrays, cotangent = _arrays(length, head_dim)

    def forward() -> Any:
        return attention(*arrays, form=form)

    def both() -> Any:
        return attention_vjp(*arrays, form=form)[1](cotangent)

    ratios = _ratios(both, forward)
    benchmark.group = f"{form}, {length} tokens, head_dim {head_dim}, {HEADS} heads, float32"
    benchmark.extra_info["forward + backward / forward"] = ratio = statistics.median(ratios)
    benchmark.pedantic(both, rounds=5, warmup_rounds=1)
    with capsys.disabled():
        print(f"\n{benchmark.group}: forward + backward takes {ratio:.2f} times forward")
    assert ratio <= 3.2 or form == "direct"  # five products of scores for two: 3.5 and what both share


def _ratios(first: Callable[[], Any], second: Callable[[], Any], rounds: int = 15) -> list[float]:
    """Return how many times longer the first takes, of calls that take turns."""
    ratios = []
    for i in range(rounds + 2):
        seconds = []
        for function in (first, second):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        if i > 1:
            ratios.append(seconds[0] / seconds[1])
    return ratios


OURS = """
from taylorshift_core import attention_vjp
import numpy as np
rng = np.random.default_rng(0)
arrays = [rng.standard_normal((heads, length, head_dim), dtype=np.float32) for _ in range(4)]
small = [array[:, :64] for array in arrays]
attention_vjp(*small[:3], form="efficient")[1](small[3])
before = peak()
output, pullback = attention_vjp(*arrays[:3], form="efficient")
gradients = pullback(arrays[3])
"""

# The efficient form as it was published: head_dim**2 features of every token, left to automatic differentiation.
PUBLISHED = """
import torch
torch.manual_seed(0)
query, key, value, cotangent = (torch.randn(heads, length, head_dim) for _ in range(4))
arrays = [x.requires_grad_() for x in (query, key, value)]
before = peak()
query, key = (x / x.norm(dim=-1, keepdim=True) for x in arrays[:2])
values = torch.cat([arrays[2], torch.ones(heads, length, 1)], dim=-1)
square = lambda x: (x[..., :, None] * x[..., None, :]).flatten(-2)
sums = square(query) @ (square(key).mT @ values) / 2 + query @ (key.mT @ values) + values.sum(-2, keepdim=True)
output = sums[..., :-1] / sums[..., -1:]
output.backward(cotangent)
"""

MEASURE = """
import json, sys

def peak():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

heads, length, head_dim = map(int, sys.argv[1:])
{code}
print(json.dumps(peak() - before))
"""


@cache
def _peak(code: str, length: int, head_dim: int = 64) -> int:
    """Return the most bytes that training on so many tokens takes beyond the inputs."""
    command = [sys.executable, "-c", MEASURE.format(code=code), str(HEADS), str(length), str(head_dim)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout))


def _line(code: str, lengths: tuple[int, int]) -> tuple[float, float]:
    """Return bytes a token and fixed bytes, from two lengths."""
    first, second = (_peak(code, length) for length in lengths)
    slope = (second - first) / (lengths[1] - lengths[0])
    return slope, first - slope * lengths[0]


def test_memory_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    """65,536 tokens, head_dim 64; the published form is measured at 4,096 and 8,192 and carried on along its line."""
    length, limit = 65_536, 8e9
    ours = _peak(OURS, length)
    slope, fixed = _line(PUBLISHED, (4096, 8192))
    published = fixed + slope * length
    own_slope, own_fixed = _line(OURS, (length // 2, length))
    longest = {"published": (limit - fixed) / slope, "ours": (limit - own_fixed) / own_slope}
    near = int(0.9 * longest["published"])
    seen = _peak(PUBLISHED, near)
    with capsys.disabled():
        print(f"\ntraining on {length:,} tokens, head_dim 64, {HEADS} heads, float32, beyond the inputs:")
        print(
            f"  ours {ours / 1e9:.3f} GB; published form {published / 1e9:.1f} GB (predicted): {published / ours:.0f} times"
        )
        print(f"  longest in 8 GB: ours {longest['ours']:,.0f} tokens, published form {longest['published']:,.0f}")
        print(
            f"  published form at {near:,}: {seen / 1e9:.2f} GB measured, {(fixed + slope * near) / 1e9:.2f} GB predicted"
        )
    assert ours <= published / 20
    assert seen == pytest.approx(fixed + slope * near, rel=0.1)
