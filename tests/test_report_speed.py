"""The report on speed: crossovers, ratios, and what it reads from pytest-benchmark."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from report_speed import crossover, markdown, read
from side_by_side import ratio

from taylorshift_core.cli.figures.crossing import crossing
from taylorshift_core.cli.figures.turns import take_turns

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = (100, 200, 400, 800)


def test_the_crossover_of_two_powers_of_the_length_is_found_between_points() -> None:
    ours, theirs = [300 * n for n in LENGTHS], [n * n for n in LENGTHS]
    assert crossing(LENGTHS, ours, theirs) == pytest.approx(300, rel=1e-12)
    assert crossing(LENGTHS, [400 * n for n in LENGTHS], theirs) == pytest.approx(400, rel=1e-12)


def test_who_never_leads_has_no_crossover_and_who_always_does_has_none_to_wait_for() -> None:
    theirs = [n * n for n in LENGTHS]
    assert crossing(LENGTHS, [800 * n for n in LENGTHS], theirs) is None
    assert crossing(LENGTHS, [50 * n for n in LENGTHS], theirs) == 0
    assert crossing((), (), ()) is None


def test_of_several_crossovers_it_is_the_last() -> None:
    assert crossing(LENGTHS, (4, 1, 4, 1), (2, 2, 2, 2)) == pytest.approx(400 * 2**0.5, rel=1e-12)


def entry(contestant: str, seconds: float, **info: Any) -> dict[str, Any]:
    about = {"contestant": contestant, "library": contestant.split(maxsplit=1)[0], "operations": 10**9}
    where = {"processor": "abacus", "cores": 2, "system": "wood", "python": "3", "versions": {"numpy": "2"}}
    where |= {"variables": {}, "threads": [dict.fromkeys(("internal_api", "version", "architecture", "num_threads"))]}
    stats = {"q1": seconds * 0.9, "median": seconds, "q3": seconds * 1.2}
    return {"extra_info": about | where | info, "stats": stats}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = [entry("matrix product", 0.01, library="numpy")]
    for length in LENGTHS:
        sizes = {"head_dim": 16, "length": length}
        found.append(entry("numpy efficient", 1e-6 * 250 * length, operations=250 * 10**3 * length, **sizes))
        found.append(entry("torch SDPA", 1e-6 * length * length, **sizes))
    found.append({"extra_info": {}, "stats": {}})  # another benchmark
    path = tmp_path / "speed.json"
    path.write_text(json.dumps({"benchmarks": found}), encoding="utf-8")
    return path


def test_what_is_read_is_what_was_measured(file: Path) -> None:
    report = read(file)
    assert report.rates == {"numpy": 1e11}
    assert report.head_dims == [16]
    timing = report.at("numpy efficient", 16, 400)
    assert timing is not None
    assert (timing.low, timing.median, timing.high) == pytest.approx((0.09, 0.1, 0.12))
    assert crossover(report, "numpy efficient", 16) == pytest.approx(250)


def test_the_tables_say_it(file: Path) -> None:
    lines = markdown(read(file)).splitlines()
    assert "| 16, 400 | 100 (90 to 120) | 160 (144 to 192) |" in lines
    assert "| 16, 800 | 0.31 |" in lines
    assert "| numpy efficient | 250 |" in lines
    assert "| numpy efficient | 16 | 100 | 1 % |" in lines
    assert any(line.startswith("abacus, 2 cores") for line in lines)


def test_ratios_are_of_rounds_in_which_both_took_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine gets slower by the round; the ratio does not notice."""
    now, order = [0.0], []

    def job(name: str, seconds: float) -> Any:
        def run() -> None:
            order.append(name)
            now[0] += seconds * (1 + len(order) // 2)

        return run

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    found = ratio(job("a", 3.0), job("b", 2.0), seconds=1e9, fewest=2, most=6)
    assert order == ["a", "b", *(["a"] * 3 + ["b"] * 3) * 6]  # a round that does not count, then bursts
    assert found.low < found.median == pytest.approx(1.5, rel=0.3)
    assert take_turns([job("c", 1.0)], seconds=0.0, fewest=4, most=9).shape == (4, 1)
