"""How much memory a call needs beyond its inputs and its output: measured by Linux, in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, sys
import numpy as np
import taylorshift_core

def held(name):  # bytes: of this process now (VmRSS), or at most (VmHWM)
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024

length, head_dim, form = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
query, key, value = (rng.standard_normal((1, length, head_dim), dtype=np.float32) for _ in range(3))
taylorshift_core.attention(*(each[:, :64] for each in (query, key, value)), form=form)
open("/proc/self/clear_refs", "w").write("5")  # the most that was held is forgotten
before = held("VmRSS")
output = taylorshift_core.attention(query, key, value, form=form)
print(json.dumps({"beyond": held("VmHWM") - before - output.nbytes}))
"""


def beyond_inputs_and_output(length: int, head_dim: int, form: str) -> float:
    """Return megabytes (10**6 bytes)."""
    # Libraries are loaded by a call of few tokens, numba with its compiler too; what grows with a call is what counts.
    command = [sys.executable, "-c", MEASURE, str(length), str(head_dim), form]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout)["beyond"] / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what was held")
@pytest.mark.parametrize("length", [10_000, 100_000, 1_000_000])
def test_efficient_form_stays_below_64_megabytes(length: int, capsys: pytest.CaptureFixture[str]) -> None:
    beyond = beyond_inputs_and_output(length, 32, "efficient")
    with capsys.disabled():
        print(
            f"\n{length:>9,} tokens, head_dim 32, one head, float32, efficient: {beyond:6.1f} MB beyond inputs and output"
        )
    assert beyond <= 64
