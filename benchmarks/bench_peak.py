"""Peak memory against length, by the operating system, each contestant in a fresh process; in .benchmarks/peak.json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

PEAKS = Path(".benchmarks") / "peak.json"
LENGTHS = (1024, 4096, 16_384, 65_536)
HEADS, HEAD_DIM = 4, 32
NAMES = ("numpy direct", "numpy efficient", "torch efficient", "torch SDPA", "published efficient (torch)")
_LONGEST = {
    "numpy direct": 16_384,
    "torch SDPA": 16_384,
    "published efficient (torch)": 16_384,
}  # longer takes too long

MEASURE = """
import contextlib, ctypes, json, resource, sys
from contestants import contestants
from taylorshift_core.cli._speeds import Case

def peak():  # bytes; ru_maxrss counts kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

name, heads, head_dim, length = sys.argv[1], *map(int, sys.argv[2:])
(contestant,) = (each for each in contestants() if each.name == name)
small, options = Case(heads, 64, head_dim).draw("float32")
contestant.start(small, options)()  # libraries load and start their threads
arrays, options = Case(heads, length, head_dim).draw("float32")
run = contestant.start(arrays, options)
with contextlib.suppress(OSError, AttributeError):  # memory that was freed must not look as if it cost nothing
    ctypes.CDLL(None).malloc_trim(0)
with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as switch:
    switch.write("5")  # forget the peak so far, where Linux lets us
before = peak()
result = run()
print(json.dumps(max(0, peak() - before - arrays[2].nbytes)))
"""


def beyond_inputs_and_output(name: str, length: int) -> float:
    """Return megabytes (10**6 bytes)."""
    root = Path(__file__).parents[1]
    program = f"import sys; sys.path[:0] = {[str(root / 'benchmarks'), str(root / 'tests')]!r}\n{MEASURE}"
    command = [sys.executable, "-c", program, name, *map(str, (HEADS, HEAD_DIM, length))]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(answer.stdout.splitlines()[-1]) / 1e6


def test_peak_memory_against_length(capsys: pytest.CaptureFixture[str]) -> None:
    from contestants import contestants

    here = {each.name for each in contestants()}
    points = [
        (name, length, beyond_inputs_and_output(name, length))
        for name in NAMES
        if name in here
        for length in LENGTHS
        if length <= _LONGEST.get(name, length)
    ]
    PEAKS.parent.mkdir(exist_ok=True)
    PEAKS.write_text(json.dumps({"heads": HEADS, "head_dim": HEAD_DIM, "points": points}), encoding="utf-8")
    with capsys.disabled():
        for name, length, megabytes in points:
            print(f"\n{name:>28}, {length:>7,} tokens: {megabytes:8.1f} MB beyond inputs and output", end="")
    efficient = [megabytes for name, _, megabytes in points if name == "numpy efficient"]
    assert max(efficient) <= 64
