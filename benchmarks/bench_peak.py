"""Peak memory against length, by the operating system, each contestant in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from taylorshift_core.cli._speeds import Case

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

LENGTHS = (1024, 4096, 16_384, 65_536)
HEADS, HEAD_DIM = 4, 32
NAMES = ("numpy direct", "numpy efficient", "torch efficient", "torch SDPA", "published efficient (torch)")
_LONGEST = {
    "numpy direct": 16_384,
    "torch SDPA": 16_384,
    "published efficient (torch)": 16_384,
}  # longer takes too long

MEASURE = """
import contextlib, ctypes, json, pathlib, resource, sys
from contestants import contestants
from taylorshift_core.cli._speeds import Case

status = pathlib.Path("/proc/self/status")

def peak():  # bytes. On Linux ru_maxrss would be that of the process that started this one, if that was larger
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

name, cases = sys.argv[1], [Case(*sizes) for sizes in json.loads(sys.argv[2])]
(contestant,) = (each for each in contestants() if each.name == name)
small, options = Case(1, 64, 8).draw("float32")
contestant.start(small, options)()  # libraries load and start their threads
found = []
for case in cases:
    arrays, options = case.draw("float32")
    run = contestant.start(arrays, options)
    with contextlib.suppress(OSError, AttributeError):  # memory that was freed must not look as if it cost nothing
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as switch:
        switch.write("5")  # forget the peak so far, where Linux lets us
    before = peak()
    result = run()
    found.append(max(0, peak() - before - arrays[2].nbytes))
    del arrays, run, result
print(json.dumps(found))
"""


def beyond_inputs_and_output(name: str, cases: Sequence[Case]) -> list[float]:
    """Return the most bytes held in each case; in processes of their own where the peak cannot be forgotten in between."""
    if not Path("/proc/self/clear_refs").exists() and len(cases) > 1:
        return [held for case in cases for held in beyond_inputs_and_output(name, [case])]
    root = Path(__file__).parents[1]
    program = f"import sys; sys.path[:0] = {[str(root / 'benchmarks'), str(root / 'tests')]!r}\n{MEASURE}"
    sizes = json.dumps([(case.heads, case.length, case.head_dim) for case in cases])
    answer = subprocess.run([sys.executable, "-c", program, name, sizes], check=True, capture_output=True, text=True)
    return [float(held) for held in json.loads(answer.stdout.splitlines()[-1])]


def _of_all_lengths(name: str) -> list[float]:
    longest = _LONGEST.get(name, LENGTHS[-1])
    return beyond_inputs_and_output(name, [Case(HEADS, length, HEAD_DIM) for length in LENGTHS if length <= longest])


def test_peak_memory_against_length(capsys: pytest.CaptureFixture[str]) -> None:
    from contestants import contestants

    here = {each.name for each in contestants()}
    points = [
        (name, length, held / 1e6)
        for name in NAMES
        if name in here
        for length, held in zip(LENGTHS, _of_all_lengths(name), strict=False)
    ]
    with capsys.disabled():
        for name, length, megabytes in points:
            print(f"\n{name:>28}, {length:>7,} tokens: {megabytes:8.1f} MB beyond inputs and output", end="")
    efficient = [megabytes for name, _, megabytes in points if name == "numpy efficient"]
    assert max(efficient) <= 64
