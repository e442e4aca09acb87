"""The memory of contestants whose arrays are NumPy's: watched in a process of its own, where nothing is kept from before.

In a process that has run before, buffers that a thread keeps for its next call would look as if they cost nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taylorshift_core.cli._speeds import Case

_WATCH = """
import gc, json, sys, tracemalloc
from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.contestants import SOFTMAX, ours, softmax_in_numpy

name, cases = sys.argv[1], [Case(*sizes) for sizes in json.loads(sys.argv[2])]
contestant = softmax_in_numpy() if name == SOFTMAX else ours(*name.split())
small, options = Case(1, 64, 8).draw("float32")
contestant.start(small, options)()  # programs are loaded, which is no memory of arrays; buffers this small are not kept
tracemalloc.start()
found = []
for case in cases:
    arrays, options = case.draw("float32")
    run = contestant.start(arrays, options)
    tracemalloc.reset_peak()
    result = run()
    held = tracemalloc.get_traced_memory()[1] - sum(array.nbytes for array in (*arrays, result))
    found.append(max(0, held))
    del arrays, run, result
    gc.collect()
print(json.dumps(found))
"""


def peak_in_processes(name: str, cases: Sequence[Case]) -> list[float]:
    """Return the most bytes that NumPy held beyond input and output, in one case after the other.

    What threads keep for the next call is counted as held.
    """
    sizes = json.dumps([(case.heads, case.length, case.head_dim) for case in cases])
    answer = subprocess.run([sys.executable, "-c", _WATCH, name, sizes], check=True, capture_output=True, text=True)
    return [float(each) for each in json.loads(answer.stdout.splitlines()[-1])]
