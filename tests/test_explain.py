"""What a plan says of a call, held against the call."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oracle import attention_oracle
from problems import Problem, draw

from taylorshift_backends import _numpy_threads, _numpy_tiles
from taylorshift_core import attention, explain, load_backend, operation_count
from taylorshift_core._plan import tiled_plan

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS = ("direct", "efficient")


def tokens(length: int, head_dim: int, dtype: Any = np.float64, heads: int = 2) -> list[Any]:
    rng = np.random.default_rng(length + head_dim)
    return [rng.standard_normal((heads, length, head_dim)).astype(dtype) for _ in range(3)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head_dim", [3, 16, 50, 100])
@pytest.mark.parametrize("length", [30, 300, 2500])
def test_the_predicted_error_is_about_the_one_that_is_made(form: str, head_dim: int, length: int) -> None:
    """In float32, within a factor of four: eight other draws of each size stayed within 0.35 and 2.8."""
    inputs = tokens(length, head_dim, np.float32)
    rows = slice(0, 200)
    exact = attention_oracle(inputs[0][:, rows].astype(float), *(x.astype(float) for x in inputs[1:]))
    got = attention(*inputs, form=form)[:, rows]
    made = np.max(np.abs(got - exact)) / np.max(np.abs(exact))
    assert 0.25 < explain(*inputs, form=form).rounding_error / made < 4


def test_in_float64_it_is_smaller_by_the_ratio_of_their_roundings() -> None:
    single, double = (explain(*tokens(40, 5, dtype)) for dtype in (np.float32, np.float64))
    assert double.rounding_error == single.rounding_error * 2.0**-29


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("length", "head_dim"), [(20_000, 8), (3000, 32), (600, 100)])
def test_the_predicted_memory_is_about_what_is_held(
    monkeypatch: pytest.MonkeyPatch, form: str, length: int, head_dim: int
) -> None:
    """From half to two and a half times: each library has buffers of its own beside the tile.

    What compiled code holds is not seen by the counter, so both are of the steps that are not compiled.
    """
    monkeypatch.setattr(_numpy_tiles, "COMPILED", False)
    inputs = tokens(length, head_dim, np.float32, heads=4)
    backend = replace(load_backend("numpy"), tile_tokens=1024, tokens_at_once=None)
    assert backend.peak_memory is not None
    plan = tiled_plan(explain(*inputs).problem, backend, form, 4, "cpu")
    call_on_each_thread(monkeypatch, lambda: attention(*inputs, plan=plan))  # imports, and buffers that are kept
    output, peak = backend.peak_memory(lambda: attention(*inputs, plan=plan))
    assert 0.5 < plan.temporary_bytes / (peak - output.nbytes) < 2.5


def call_on_each_thread(monkeypatch: pytest.MonkeyPatch, function: Callable[[], object]) -> None:
    """Call on all threads of a new pool: on busy processors one may take all jobs, and leave the others cold."""
    monkeypatch.setattr(_numpy_threads, "_pool", _numpy_threads._Pool())
    n = _numpy_threads.n_threads()
    all_are_here = threading.Barrier(n)

    def job() -> None:
        all_are_here.wait(60)
        function()

    _numpy_threads.run_jobs(job, [()] * n, n)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("length", "head_dim"), [(20_000, 8), (3000, 32)])
def test_compiled_steps_are_predicted_to_hold_less(form: str, length: int, head_dim: int) -> None:
    """And not less than the counter sees, which knows nothing of memory inside a step."""
    inputs, backend = tokens(length, head_dim, np.float32, heads=4), load_backend("numpy")
    assert backend.peak_memory is not None
    plan = explain(*inputs, form=form)
    attention(*inputs, plan=plan)
    output, peak = backend.peak_memory(lambda: attention(*inputs, plan=plan))
    others = replace(plan, backend=replace(backend, tokens_at_once=None))
    assert 0.5 * (peak - output.nbytes) < plan.temporary_bytes < others.temporary_bytes


@pytest.mark.parametrize("form", FORMS)
def test_operations_come_close_to_the_closed_formula(form: str) -> None:
    """From below: the formula counts the normalisation and the division as well, and each of the sums' additions."""
    x = np.ones((6, 2000, 24), np.float32)
    plan = explain(x, x, x, form=form)
    assert plan.operations_of_the_formula == 6 * operation_count(form, 2000, head_dim=24)
    assert plan.operations == pytest.approx(plan.operations_of_the_formula, rel=0.12)


def test_it_prints_a_small_table() -> None:
    x = np.ones((2, 100, 8), np.float32)
    plan = explain(x, x, x, form="efficient")
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in str(plan).splitlines())
    assert list(lines) == [
        "form",
        "predicted time",
        "operations",
        "by the formula",
        "temporaries",
        "tiles",
        "state",
        "crossover",
        "rounding error",
    ]
    assert lines["form"] == "efficient: asked for by name"
    assert lines["operations"].startswith(f"{plan.operations:,} (direct form ")
    assert lines["state"] == f"{2 * 45 * 9 * 4 / 1000:.3g} kB for all heads"
    assert lines["crossover"] == f"{plan.crossover:,} tokens for these heads"
    assert all(len(line) < 120 for line in str(plan).splitlines())


def test_the_reason_says_why() -> None:
    x = np.ones((2, 50, 64), np.float32)
    assert re.search(r"predicted to take .*s, the efficient form .*s$", explain(x, x, x).reason)
    assert re.search(r"holds .*B at once, the", explain(x, x, x, objective="memory").reason)
    assert explain(x, x, x, form="direct").reason == "asked for by name"


def test_it_takes_what_attention_takes_and_the_plan_can_be_passed_back() -> None:
    problem = Problem(query_length=30, key_length=40, head_dim=5, value_dim=4, heads=4, kv_heads=2, key_mask="keys")
    inputs, options = draw(problem)
    for more in ({}, {"is_causal": True}, {"block_causal": 4, "prefix_length": 3}, {"objective": "memory"}):
        plan = explain(*inputs, **options, **more)
        kept = {name: value for name, value in more.items() if name != "objective"}
        np.testing.assert_array_equal(
            attention(*inputs, plan=plan, **options, **kept), attention(*inputs, form=plan.form, **options, **kept)
        )


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_that_was_changed_is_followed(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(_numpy_tiles, "COMPILED", False)  # compiled steps have tiles of their own
    inputs = tokens(30, 4)
    plan = replace(explain(*inputs, form=form), query_tile=7, key_tile=9, offsets=1)
    expected = attention_oracle(*inputs)
    allowed = 4 * np.finfo(float).eps * np.sqrt(30 + 15) * np.max(np.abs(expected))
    np.testing.assert_allclose(attention(*inputs, plan=plan), expected, rtol=0, atol=allowed)
    assert not np.array_equal(attention(*inputs, plan=plan), attention(*inputs, form=form))  # sums in another order
