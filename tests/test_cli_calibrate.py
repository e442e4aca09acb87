"""``taylorshift calibrate``: what it measures, keeps and prints; no test waits for a clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cli_run import refusal, run

from taylorshift_core import _calibration, explain
from taylorshift_core._costs import Prices, Work
from taylorshift_core._plan import forget_prices
from taylorshift_core.cli import _calibrate, _measure, _speeds, main
from taylorshift_core.cli._fit import FEWEST, fit_prices, non_negative

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FORMS = ("direct", "efficient")
QUICK = ("calibrate", "--backend", "numpy")


class Clock:
    """Stands still but for calls of attention, which take as long as `seconds` says of their plan."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[str, Work], float]) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, Any]] = []
        self.seconds = seconds
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr(_speeds, "runner", self.runner)

    def runner(self, backend: Any, arrays: Any, *, plan: Any, **options: Any) -> Callable[[], None]:
        def call() -> None:
            self.calls.append((plan.form, arrays[0].dtype))
            self.now += self.seconds(plan.form, plan.work)

        return call


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(_calibration.VARIABLE, str(tmp_path / "cache"))
    forget_prices()
    yield tmp_path / "cache" / _calibration.FILE
    monkeypatch.undo()
    forget_prices()


def chosen(length: int, head_dim: int) -> str:
    return explain(*[np.ones((2, length, head_dim), np.float32)] * 3).form


@pytest.mark.parametrize("fast", FORMS)
def test_measured_speeds_turn_the_choice_around(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fast: str
) -> None:
    sizes = [(20, 32), (4000, 8)]
    assert [chosen(*size) for size in sizes] == ["direct", "efficient"]
    Clock(monkeypatch, lambda form, _: 1e-4 if form == fast else 1e-2)
    lines = run(capsys, *QUICK)
    assert [chosen(*size) for size in sizes] == [fast, fast]
    assert lines[-1] == f"Kept in {file}"
    assert _calibration.read(file).keys() == {("numpy", "cpu", "float32"), ("numpy", "cpu", "float64")}


def test_prices_are_found_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a machine that works exactly by the model, in every kind of work that its problems have."""
    true = {
        "direct": Prices(products=0.02, entries=0.3, masked=4.0, prepared=1.0, states=0.5, steps=2e4, calls=3e4),
        "efficient": Prices(products=0.03, entries=0.1, masked=2.0, prepared=1.5, states=0.5, steps=1e4, calls=5e4),
    }
    Clock(monkeypatch, lambda form, work: true[form].seconds(work))
    lines = run(capsys, *QUICK)
    assert "0 %" in next(line for line in lines if "float32" in line)
    found = _calibration.read(file)["numpy", "cpu", "float32"]
    for form in FORMS:
        wanted, got = vars(true[form]), vars(found[form])
        assert got == pytest.approx(wanted, rel=1e-4)


def test_every_call_but_the_first_is_timed_and_both_dtypes_are_measured(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch, lambda *_: 1e-3)
    run(capsys, *QUICK, "--repeats", "4")
    per_form = 5 * len(_speeds.CASES)
    for form in FORMS:
        for dtype in ("float32", "float64"):
            assert clock.calls.count((form, np.dtype(dtype))) == per_form


def test_the_time_is_kept_and_too_few_measurements_change_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch, lambda form, _: 1.0 if form == "direct" else 1e-6)
    lines = run(capsys, *QUICK, "--seconds", "9", "--repeats", "3")
    assert clock.now <= 9 + 2 * 4  # what is under way when the time is over is finished, once a dtype
    assert sum("too few" in line for line in lines) == 2
    assert _calibration.read(file) == {}
    assert chosen(20, 32) == "direct"


def test_other_backends_keep_what_they_had(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {("abacus", "cpu", "float32"): {form: Prices(calls=7.0) for form in FORMS}}
    file.parent.mkdir()
    _calibrate.write_prices(file, other)
    Clock(monkeypatch, lambda *_: 1e-3)
    run(capsys, *QUICK)
    table = _calibration.read(file)
    assert len(table) == 3
    assert table["abacus", "cpu", "float32"] == other["abacus", "cpu", "float32"]


def test_a_spoiled_file_is_replaced(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir()
    file.write_text("{", encoding="utf-8")
    Clock(monkeypatch, lambda *_: 1e-3)
    with pytest.warns(RuntimeWarning, match="not used"):
        run(capsys, *QUICK)
    assert len(_calibration.read(file)) == 2


def test_another_file_may_be_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Clock(monkeypatch, lambda *_: 1e-3)
    lines = run(capsys, *QUICK, "--output", str(tmp_path / "mine.json"))
    assert lines[-1] == f"Kept in {tmp_path / 'mine.json'}, which is not where they are looked up"
    assert len(_calibration.read(tmp_path / "mine.json")) == 2
    assert not file.exists()


@pytest.mark.parametrize("place", ["below a file", "a folder"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str
) -> None:
    clock = Clock(monkeypatch, lambda *_: 1e-3)
    if place == "a folder":
        file.mkdir(parents=True)
    else:
        (tmp_path / "cache").touch()
    assert str(tmp_path / "cache") in refusal(capsys, *QUICK)
    assert clock.calls == []


def test_without_platformdirs_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(_calibration.VARIABLE)
    monkeypatch.setitem(__import__("sys").modules, "platformdirs", None)
    line = refusal(capsys, *QUICK)
    assert "platformdirs" in line
    assert _calibration.VARIABLE in line


def test_interrupted_it_leaves_the_file_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> float:
        raise KeyboardInterrupt

    file.parent.mkdir()
    file.write_text("what was there", encoding="utf-8")
    Clock(monkeypatch, interrupt)
    with pytest.warns(RuntimeWarning, match="not used"):
        assert main(QUICK) == 130
    assert file.read_text(encoding="utf-8") == "what was there"
    assert list(file.parent.iterdir()) == [file]


# The problems and the fit


def works(cases: Any, form: str) -> np.ndarray:
    return np.asarray([explain(*arrays, form=form, **options).work for arrays, options in cases])


@pytest.mark.parametrize("form", FORMS)
def test_any_first_part_of_the_problems_determines_the_prices(form: str) -> None:
    drawn = [case.draw("float32") for case in _speeds.CASES]
    for count in (FEWEST, 18, len(drawn)):
        matrix = works(drawn[:count], form)
        needed = matrix[:, matrix.any(axis=0)]
        assert np.linalg.matrix_rank(needed / needed.max(axis=0), tol=1e-6) == needed.shape[1] >= 6


def test_the_solution_is_not_negative_and_none_is_closer() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        matrix, target = rng.standard_normal((9, 4)), rng.standard_normal(9)
        found = non_negative(matrix, target)
        slope = matrix.T @ (matrix @ found - target)
        assert found.min() >= 0
        assert np.all(slope >= -1e-12)  # no entry can grow ...
        assert np.all(np.abs(slope[found > 0]) < 1e-12)  # ... and those above zero cannot shrink


def test_a_kind_of_work_that_was_never_met_is_priced_as_in_the_other_form() -> None:
    direct = [(Work(products=i * 1e6, steps=i * i), 1e-3 * i + 1e-6 * i * i) for i in range(1, 9)]
    efficient = [(Work(products=i * 1e6, states=1e3), 2e-3 * i + 5e-6) for i in range(1, 9)]
    found = fit_prices({"direct": direct, "efficient": efficient})
    assert vars(found["direct"]) == pytest.approx(vars(Prices(products=1.0, states=5.0, steps=1000.0)), rel=1e-6)
    assert vars(found["efficient"]) == pytest.approx(vars(Prices(products=2.0, states=5.0, steps=1000.0)), rel=1e-6)


def test_the_file_is_readable_json(file: Path) -> None:
    file.parent.mkdir()
    _calibrate.write_prices(file, {("numpy", "cpu", "float32"): {form: Prices(calls=1.0) for form in FORMS}})
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["format"] == "taylorshift prices"
    assert content["version"] == _calibration.VERSION
    assert content["prices"]["numpy"]["cpu"]["float32"]["direct"]["calls"] == 1.0


def test_it_measures_for_real(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calibrate, "CASES", _speeds.CASES[:2])
    monkeypatch.setattr(_measure, "_FEWEST", 1)
    lines = run(capsys, *QUICK, "--seconds", "1", "--repeats", "1")
    assert any("too few" in line for line in lines)
