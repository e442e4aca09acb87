"""The goals for speed, each as a ratio of two things that take turns: a table with spread, in .benchmarks/goals.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cases import DTYPE, HEADS, LINEAR, PEAK, SMALL
from contestants import contestants, matrix_product
from side_by_side import Ratio, ratio

from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.machine import machine
from taylorshift_core.cli.figures.turns import take_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taylorshift_core.cli.figures.contestants import Contestant

FOLDER = Path(".benchmarks")
SDPA, PUBLISHED = "torch SDPA", "published efficient (torch)"
EFFICIENT, DIRECT = "numpy efficient", "numpy direct"


@dataclass(frozen=True)
class Goal:
    """``seconds of one / seconds of another``, both at a length, must be at most `most`."""

    one: str
    other: str
    head_dim: int
    length: int
    most: float

    @property
    def name(self) -> str:
        return f"{self.one} / {self.other}, d = {self.head_dim}, N = {self.length}"


def _goals() -> Iterator[Goal]:
    for library in ("numpy", "torch"):
        efficient, direct = f"{library} efficient", f"{library} direct"
        for d, share in ((16, 0.3), (32, 0.6), (64, 0.8)):  # of the rate of a large matrix product
            yield Goal(efficient, "matrix product", d, 4096, 1 / share)
        for d, times in ((16, 2.5), (32, 8), (64, 8)):
            yield Goal(efficient, PUBLISHED, d, 4096, 1 / times)
        for d, length in ((16, 300), (32, 700), (64, 2300)):
            yield Goal(efficient, SDPA, d, length, 1.0)
        for d, most in ((16, 0.8), (32, 0.9), (64, 1.0)):
            yield Goal(direct, SDPA, d, 2048, most)
            for length in (256, 512, 1024, 4096):
                yield Goal(direct, SDPA, d, length, 1.1)
    for d in (16, 32, 64):
        yield Goal("jax efficient", EFFICIENT, d, 4096, 2.0)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """The lines of the table, written when all is measured."""
    lines: list[str] = []
    yield lines
    FOLDER.mkdir(exist_ok=True)
    about = machine()
    kernels = {f"{pool['internal_api']} {pool['architecture'] or ''}".strip() for pool in about["threads"]}
    head = (
        f"{about['processor']}, {about['cores']} cores, {', '.join(sorted(kernels))}; medians, in brackets quartiles.\n"
    )
    rows = ["| ratio of times | measured | goal | met |", "| --- | --- | --- | --- |", *lines]
    (FOLDER / "goals.md").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


def report(table: list[str], capsys: pytest.CaptureFixture[str], name: str, measured: Ratio, most: float) -> None:
    table.append(f"| {name} | {measured} | ≤ {most:.3g} | {'yes' if measured.median <= most else 'no'} |")
    with capsys.disabled():
        print(f"\n{table[-1]}", end="")


@cache
def _by_name() -> dict[str, Contestant]:
    return {each.name: each for each in contestants()}


def _checked(name: str, case: Case) -> Callable[[], Any]:
    arrays, options = case.draw(DTYPE)
    contestant = _by_name()[name]
    run = contestant.start(arrays, options)
    contestant.check(run, arrays, options)
    return run


_HERE = [goal for goal in _goals() if {goal.one, goal.other} <= {*_by_name(), "matrix product"}]


@pytest.mark.parametrize("goal", _HERE, ids=lambda goal: goal.name)
def test_goal(goal: Goal, table: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(HEADS, goal.length, goal.head_dim)
    one = _checked(goal.one, case)
    if goal.other != "matrix product":
        measured = ratio(one, _checked(goal.other, case))
    else:  # as long as so many operations would take at its rate
        features = (goal.head_dim + 1) * (goal.head_dim + 2) // 2
        operations = 4 * HEADS * goal.length * features * (goal.head_dim + 1)
        other = matrix_product(_by_name()[goal.one].library, PEAK)
        measured = ratio(one, other).times(2 * PEAK**3 / operations)
    report(table, capsys, goal.name, measured, goal.most)


@pytest.mark.parametrize("library", [name for name in ("numpy", "torch") if f"{name} efficient" in _by_name()])
def test_a_token_costs_the_same_at_any_length(
    library: str, table: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    contestant = _by_name()[f"{library} efficient"]
    runs = [contestant.start(*Case(1, length, 32).draw(DTYPE)) for length in LINEAR]
    per_token = take_turns(runs, seconds=20.0, fewest=3, most=9) / np.asarray(LINEAR)
    spread = per_token.max(axis=1) / per_token.min(axis=1)
    low, median, high = map(float, np.quantile(spread, (0.25, 0.5, 0.75)))
    name = f"{contestant.name}, d = 32: dearest / cheapest token, {LINEAR[0]:,} to {LINEAR[-1]:,} tokens"
    report(table, capsys, name, Ratio(low, median, high), 1.15)
    with capsys.disabled():
        typical = np.median(per_token, axis=0)
        print("\n  " + ", ".join(f"{n:,} tokens: {1e9 * t:.0f} ns each" for n, t in zip(LINEAR, typical, strict=True)))


def formula(query: Any, key: Any, value: Any) -> Any:
    """Return attention by the bare formula, in operators that NumPy, PyTorch and JAX share."""
    query = query / (query * query).sum(-1)[..., None] ** 0.5
    key = key / (key * key).sum(-1)[..., None] ** 0.5
    score = query @ key.swapaxes(-1, -2)
    weight = 0.5 * score * score + score + 1
    return weight @ value / weight.sum(-1)[..., None]


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_a_small_call(library: str, table: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{library} direct"
    if name not in _by_name():
        pytest.skip(f"no adapter for {library} is installed")
    from taylorshift_core import load_backend

    backend, arrays = load_backend(library), SMALL.draw(DTYPE)[0]
    inputs = [backend.from_numpy(array) for array in arrays]
    function = formula
    if library == "jax":
        import jax

        function = jax.jit(formula)
    ours = _checked(name, SMALL)
    bare = lambda: backend.wait(function(*inputs))  # noqa: E731
    _by_name()[name].check(bare, arrays, {})
    measured = ratio(ours, bare, seconds=2.0, fewest=200, most=2000)
    report(table, capsys, f"{name} / bare formula, {SMALL.heads} heads, N = {SMALL.length}", measured, 3.0)
    assert math.isfinite(measured.median)
