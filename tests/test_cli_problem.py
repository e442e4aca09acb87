"""``taylorshift explain`` and ``taylorshift bench``: a problem by its sizes, planned and measured."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from cli_run import refusal, run

from taylorshift_core import explain
from taylorshift_core.cli import _backends, _bench, _measure


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads("\n".join(run(capsys, *words, "--json")))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {}),
        (["--causal"], {"is_causal": True}),
        (["--objective", "memory"], {"objective": "memory"}),
        (["--form", "efficient"], {"form": "efficient"}),
        (["--dtype", "float64"], {}),
        (["--dtype", "float16"], {}),
        (["--key", "3x2x700x16", "--value", "3x2x700x5"], {}),
    ],
)
def test_it_prints_the_plan_of_the_call(
    capsys: pytest.CaptureFixture[str], words: list[str], options: dict[str, Any]
) -> None:
    given = dict(zip(words[::2], words[1::2], strict=False))
    shapes = ["3x4x500x16", given.get("--key", "3x4x500x16"), given.get("--value", "3x4x500x16")]
    dtype = np.dtype(given.get("--dtype", "float32"))
    plan = explain(*(np.ones([int(size) for size in shape.split("x")], dtype) for shape in shapes), **options)
    assert run(capsys, "explain", "--query", "3x4x500x16", *words)[1:] == str(plan).splitlines()


def test_it_plans_for_other_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    import array_api_strict

    x = array_api_strict.ones((4, 500, 16), dtype=array_api_strict.float64)
    lines = run(capsys, "explain", "--query", "4x500x16", "--dtype", "float64", "--backend", "array_api_strict")
    assert lines[0].endswith("on array_api_strict (cpu)")
    assert lines[1:] == str(explain(x, x, x)).splitlines()


@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])
def test_it_makes_nothing_of_these_sizes(capsys: pytest.CaptureFixture[str], backend: str) -> None:
    words = ("explain", "--query", "8x1000000000x64", "--backend", backend)
    run(capsys, *words)
    tracemalloc.start()
    plan = facts(capsys, *words)["plan"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan["form"] == "efficient"
    assert peak < 4 << 20  # the queries alone would be two terabytes


def test_both_forms_are_measured_on_every_backend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that takes a second a call; the calls are those that were asked for."""
    calls: list[tuple[Any, ...]] = []
    clock = iter(range(1000))

    def attend(query: Any, key: Any, value: Any, *, form: str, is_causal: bool) -> Any:
        calls.append((form, is_causal, query.shape, key.shape, value.shape, str(query.dtype).split(".")[-1]))
        return query

    monkeypatch.setattr(_measure, "attention", attend)
    monkeypatch.setattr(_measure.time, "perf_counter", lambda: next(clock))
    words = ("bench", "--query", "4x70x8", "--key", "2x90x8", "--value", "2x90x3", "--causal", "--dtype", "float64")
    found = facts(capsys, *words, "--repeats", "3", "--backend", "numpy", "--backend", "array_api_strict")
    rows = [(each["backend"], each["form"], each["runs_seconds"]) for each in found["measurements"]]
    names = [(name, form) for name in ("numpy", "array_api_strict") for form in ("direct", "efficient")]
    assert rows == [(*name, [1, 1, 1]) for name in names]
    asked = [(form, True, (4, 70, 8), (2, 90, 8), (2, 90, 3), "float64") for form in ("direct", "efficient")]
    assert [call for call in calls if call[2] == (4, 70, 8)] == 2 * (5 * asked[:1] + 5 * asked[1:])
    for each in found["measurements"]:
        x = np.ones((4, 70, 8)), np.ones((2, 90, 8)), np.ones((2, 90, 3))
        if each["backend"] == "numpy":
            plan = explain(*x, form=each["form"], is_causal=True)
            assert each["plan"]["predicted_seconds"] == plan.seconds
            assert each["chosen"] == (explain(*x, is_causal=True).form == each["form"])


def test_the_table_shows_what_was_measured_beside_what_was_predicted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.25, 0.5, 1.0]
    monkeypatch.setattr(
        _bench,
        "measure",
        lambda backend, _, form, *__, **___: _measure.Measurement(backend.name, form, seconds, 3 << 20, None),
    )
    lines = run(capsys, "bench", "--query", "2x64x8", "--backend", "numpy")
    plan = explain(*[np.ones((2, 64, 8), np.float32)] * 3)
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines if line.strip().startswith("numpy ")]
    assert lines[0] == "query 2x64x8, key 2x64x8, value 2x64x8, float32"
    assert [row[:5] for row in rows] == [
        ["numpy", "direct", "yes" if plan.form == "direct" else "no", "500 ms", "0.25 to 1 s"],
        ["numpy", "efficient", "yes" if plan.form == "efficient" else "no", "500 ms", "0.25 to 1 s"],
    ]
    assert all(row[6] == "3.0 MiB" for row in rows)
    assert any(plan.reason in line for line in lines)


def test_one_form_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("bench", "--query", "1x9x2", "--form", "efficient", "--backend", "numpy", "--repeats", "1")
    assert [each["form"] for each in facts(capsys, *words)["measurements"]] == ["efficient"]


def test_a_dtype_that_a_backend_lacks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backends, "backend_names", lambda: ("array_api_strict", "numpy"))
    words = ("bench", "--query", "1x9x2", "--dtype", "float16", "--repeats", "1")
    assert facts(capsys, *words)["absent"] == [{"backend": "array_api_strict", "reason": "no float16"}]
    lines = run(capsys, *words)
    assert "Not measured: array_api_strict (no float16). `taylorshift info` says what to install." in lines
    assert "no float16" in refusal(capsys, *words, "--backend", "array_api_strict")
    monkeypatch.setattr(_backends, "has_dtype", lambda *_: False)
    assert "numpy: no float16" in refusal(capsys, *words)


@pytest.mark.parametrize("command", ["explain", "bench"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--query"),
        (["--query", "64"], "'64'"),
        (["--query", "8x0x64"], "'8x0x64'"),
        (["--query", "8x64xd"], "'8x64xd'"),
        (["--query", "8x-4x6"], "'8x-4x6'"),
        (["--query", "8x64x4", "--key", "8x64x5"], "head_dim"),
        (["--query", "8x64x4", "--key", "3x64x4"], "multiple"),
        (["--query", "8x64x4", "--dtype", "int8"], "int8"),
        (["--query", "8x64x4", "--backend", "abacus"], "abacus"),
    ],
)
def test_what_is_no_problem_is_one_line(
    capsys: pytest.CaptureFixture[str], command: str, words: list[str], expected: str
) -> None:
    assert expected in refusal(capsys, command, *words)
