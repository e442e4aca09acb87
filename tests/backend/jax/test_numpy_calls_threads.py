"""Calls of NumPy from threads of JAX: many at once, in processes that end or fork, and with settings of one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from called import attend, by_numpy, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Library


def test_many_programs_at_once(library: Library, calls: list[str]) -> None:
    """From several threads, each with several calls under way."""
    inputs = tokens()
    program = jax.jit(lambda *given: attend(*given, scale=1.0) + 0 * attend(*given, scale=2.0))

    def work(_: int) -> list[Any]:
        return [np.asarray(each) for each in [program(*inputs) for _ in range(5)]]

    with ThreadPoolExecutor(8) as pool:
        results = [each for some in pool.map(work, range(8)) for each in some]
    assert len(calls) == 2 * len(results) == 2 * 40
    for result in results:
        np.testing.assert_array_equal(result, by_numpy(*inputs))


@pytest.fixture(params=[True, False])
def float64_everywhere(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether JAX has float64 in all threads, or in those that ask for it."""
    jax.config.update("jax_enable_x64", request.param)
    yield request.param
    jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("here", ["float64", "float32"])
def test_float64_may_be_a_matter_of_one_thread(
    library: Library, calls: list[str], here: str, float64_everywhere: bool
) -> None:
    """JAX looks at what a call returns in a thread that may not have float64: such a program calls nothing."""
    with jax.enable_x64(here == "float64"):
        inputs = tokens(here)
        program = jax.jit(attend).lower(*inputs).compile()
        with ThreadPoolExecutor(1) as another:
            found = another.submit(lambda: np.asarray(program(*inputs))).result()
        assert found.dtype == here
        np.testing.assert_allclose(found, by_numpy(*inputs), atol=1e-6 if here == "float32" else 1e-13)
    assert bool(calls) is (float64_everywhere or here == "float32")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "numpy True"),
        ({"TAYLORSHIFT_COMPILED": "0"}, "jax False"),  # as without numba: NumPy is no faster then
        ({"TAYLORSHIFT_JAX_CALLS": "0"}, "jax False"),
    ],
)
def test_calls_can_be_switched_off(library: Library, variables: dict[str, str], expected: str) -> None:
    """Also for a plan that was made for NumPy, by arrays of its own."""
    script = """
import jax, taylorshift_core as ts
x = jax.numpy.ones((4, 4096, 16), "float32")
call = lambda **options: "python_cpu_callback" in jax.jit(lambda x: ts.attention(x, x, x, **options)).lower(x).as_text()
array = x.__array__()
assert call() is call(plan=ts.explain(array, array, array))
print(ts.explain(x, x, x).backend.name, call())
"""
    assert _output_of(script, **variables) == expected


START = """
import os, warnings
import jax, numpy as np
from taylorshift_core import attention
warnings.simplefilter("ignore")
arrays = [jax.numpy.asarray(np.random.default_rng(i).standard_normal((4, 4096, 16)), "float32") for i in range(3)]
attend = jax.jit(lambda *given: attention(*given, form="efficient"))
"""


def _output_of(script: str, **variables: str) -> str:
    """Return what a process prints last, in which NumPy's steps are compiled; one that hangs or fails is an error."""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TAYLORSHIFT_COMPILED": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_process_ends_while_calls_are_under_way(library: Library) -> None:
    """Behind loops whose products XLA spreads over its threads: one of those makes the call."""
    script = """
@jax.jit
def late(matrix, query, *rest):
    waited = jax.lax.fori_loop(0, 4, lambda _, x: x @ x, matrix)
    return attend(query + jax.numpy.sum(waited), *rest)
jax.block_until_ready(attend(*arrays))
matrix = jax.numpy.zeros((1000, 1000), "float32")
for _ in range(5):
    late(matrix, *arrays)
print("end")
"""
    assert _output_of(START + script) == "end"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_calls(library: Library) -> None:
    """Alone on the processor, as attention is run without being asked to run behind the caller."""
    script = """
before = np.asarray(attend(*arrays))
child = os.fork()
if child == 0:
    os._exit(int(not np.array_equal(before, np.asarray(attend(*arrays)))))
print(os.waitpid(child, 0)[1])
"""
    assert _output_of(START + script) == "0"
