"""What training holds: gradients of the efficient form against automatic differentiation of the published one.

Memory is what the operating system counted (VmHWM), each number in a process of its own. 4 heads, head_dim 64, float32.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pictures

if TYPE_CHECKING:
    import pytest
    from matplotlib.axes import Axes

HEADS, HEAD_DIM = 4, 64
LENGTH = 65_536
LIMIT = 8e9  # bytes, of a whole process
_LEFT = 1.5e9  # bytes of the machine that stay free

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
WAYS = {"ours": OURS, "published form": PUBLISHED}
LINES = {"ours": (LENGTH, 4 * LENGTH), "published form": (4096, 8192)}  # tokens, two measurements
NEARLY = 0.97

MEASURE = """
import json, sys

def peak():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

heads, length, head_dim = map(int, sys.argv[1:])
{code}
print(json.dumps([peak(), peak() - before]))
"""


@cache
def peak(way: str, length: int) -> tuple[int, int]:
    """Return the most bytes that a process held which trains on so many tokens: all, and beyond its inputs."""
    command = [sys.executable, "-c", MEASURE.format(code=WAYS[way]), *map(str, (HEADS, length, HEAD_DIM))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    whole, beyond = json.loads(done.stdout)
    return whole, beyond


def line(way: str, lengths: tuple[int, int]) -> tuple[float, float]:
    """Return bytes a token and fixed bytes of a whole process, from two lengths."""
    first, second = (peak(way, length)[0] for length in lengths)
    slope = (second - first) / (lengths[1] - lengths[0])
    return slope, first - slope * lengths[0]


def test_memory_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    """At 65,536 tokens; where the published form does not fit into this machine, at as many tokens as do."""
    slope, fixed = line("published form", LINES["published form"])
    fits = int((_available() - _LEFT - fixed) / slope)
    length = min(LENGTH, fits // 1024 * 1024)
    (_, published), (_, ours) = (peak(way, length) for way in ("published form", "ours"))
    with capsys.disabled():
        print(f"\ntraining on {length:,} tokens, beyond the inputs: ours {ours / 1e9:.3f} GB,", end=" ")
        print(f"published form {published / 1e9:.2f} GB, {published / ours:.1f} times as much")
        if length < LENGTH:
            print(f"  this machine has no room for {LENGTH:,} tokens in the published form")
    assert published >= 20 * ours


def test_longest_in_8_gigabytes(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory is linear, so a line through two measurements says where the limit is; 3 % below it is measured."""
    longest = {}
    for way, lengths in LINES.items():
        slope, fixed = line(way, lengths)
        longest[way] = int((LIMIT - fixed) / slope)
        held = peak(way, int(NEARLY * longest[way]))[0]
        with capsys.disabled():
            print(
                f"\n{way}: {longest[way]:,} tokens train in {LIMIT / 1e9:.0f} GB, {slope / 1e3:.1f} kB each;", end=" "
            )
            print(f"a process of 3 % less held {held / 1e9:.2f} GB", end="")
        assert 0.95 * LIMIT <= held <= LIMIT
    pictures.save("training-memory", lambda axes: _draw(axes, longest))
    assert longest["ours"] >= 10 * longest["published form"]


def _draw(axes: Axes, longest: dict[str, int]) -> None:
    for (way, most), colour, marker in zip(longest.items(), pictures.COLOURS, pictures.MARKERS, strict=False):
        lengths = sorted(
            {4096, 8192} | {int(0.97 * most)} if way != "ours" else {LENGTH // 2, LENGTH, int(0.97 * most)}
        )
        axes.plot(lengths, [peak(way, n)[0] / 1e9 for n in lengths], color=colour, marker=marker, label=way)
    axes.axhline(LIMIT / 1e9, color="gray", linestyle=":", label=f"{LIMIT / 1e9:.0f} GB")
    title = f"Forward and backward: {HEADS} heads, head_dim {HEAD_DIM}, float32"
    pictures.label(axes, title, "length (tokens)", "memory of the process (GB)")


def _available() -> int:
    """Return the bytes that this machine can give a process now."""
    info = Path("/proc/meminfo").read_text(encoding="ascii")
    return next(1024 * int(row.split()[1]) for row in info.splitlines() if row.startswith("MemAvailable"))
