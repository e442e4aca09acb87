"""Both forms on every backend, peers, and the matrix product, timed by pytest-benchmark; see `report_speed`."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import pytest
from cases import DTYPE, FEWEST_ROUNDS, FORMS, LONGEST, MOST_ROUNDS, PEAK, SECONDS
from contestants import contestants, matrix_product

from taylorshift_core.cli.figures.machine import machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    from taylorshift_core.cli._speeds import Case
    from taylorshift_core.cli.figures.contestants import Contestant


_slow: dict[tuple[str, int], int] = {}  # by contestant and head_dim: the length from which on it takes too long


def measure(benchmark: BenchmarkFixture, run: Callable[[], Any], **info: Any) -> float:
    """Time a function that waits for its result and has run before; return the seconds of one call."""
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, math.ceil(SECONDS / max(once, 1e-9)))) if once < LONGEST else 2
    benchmark.extra_info |= info | machine()
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=int(once < LONGEST))
    return once


@pytest.mark.parametrize("library", sorted({each.library for each in contestants()} & {"numpy", "torch"}))
def test_matrix_product(benchmark: BenchmarkFixture, library: str) -> None:
    benchmark.group = "matrix product"
    run = matrix_product(library, PEAK)
    measure(benchmark, run, contestant="matrix product", library=library, operations=2 * PEAK**3)


@pytest.mark.parametrize("contestant", contestants(), ids=lambda each: each.name)
@pytest.mark.parametrize("case", FORMS, ids=lambda case: f"d{case.head_dim}-N{case.length}")
def test_forms(benchmark: BenchmarkFixture, case: Case, contestant: Contestant) -> None:
    if not contestant.takes(case):
        pytest.skip(f"{contestant.name} would hold more than a gigabyte of features")
    slow = _slow.get((contestant.name, case.head_dim), case.length)
    if case.length > slow:
        pytest.skip(f"a call of {contestant.name} takes more than {LONGEST} s at {slow} tokens")
    benchmark.group = f"head_dim {case.head_dim}, {case.length} tokens"
    arrays, options = case.draw(DTYPE)
    run = contestant.start(arrays, options)
    error = contestant.check(run, arrays, options)
    features = (case.head_dim + 1) * (case.head_dim + 2) // 2
    once = measure(
        benchmark,
        run,
        contestant=contestant.name,
        library=contestant.library,
        head_dim=case.head_dim,
        length=case.length,
        heads=case.heads,
        error=error,
        operations=4 * case.heads * case.length * features * (case.head_dim + 1),
    )
    if once > LONGEST:
        _slow[contestant.name, case.head_dim] = case.length
