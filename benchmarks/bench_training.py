"""The digits of `examples`, learned by NumPy, PyTorch and JAX from the same start: the accuracy is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("seed", [0, 1])
def test_three_libraries_learn_as_well(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    scripts = {"numpy": ["train_numpy.py"]}
    scripts |= {library: ["train_autodiff.py", "--library", library] for library in ("torch", "jax")}
    accuracy = {}
    for library, (script, *options) in scripts.items():
        command = [sys.executable, EXAMPLES / script, *options, "--seed", str(seed), "--quiet"]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        accuracy[library] = float(done.stdout.split()[1])
    with capsys.disabled():
        print(f"\nseed {seed}: " + ", ".join(f"{library} {percent} %" for library, percent in accuracy.items()))
    assert max(accuracy.values()) - min(accuracy.values()) <= 1.0
    assert min(accuracy.values()) > 90
