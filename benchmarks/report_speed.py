"""Turn the JSON of `bench_forms` into tables: ``python benchmarks/report_speed.py [--publish] FILE.json``.

Written to .benchmarks/; with --publish, what the documentation shows goes to benchmarks/results/ as well. Pictures are
drawn by `report.py`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cases import HEADS

from taylorshift_core.cli.figures.crossing import crossing

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(".benchmarks")
RESULTS = Path(__file__).parent / "results"
SDPA = "torch SDPA"


@dataclass(frozen=True)
class Timing:
    """What one contestant took for one case: median and quartiles in seconds."""

    contestant: str
    library: str
    head_dim: int
    length: int
    operations: int
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Report:
    """All timings of a run, the rates of matrix products of the libraries, and where it ran."""

    timings: Sequence[Timing]
    rates: dict[str, float]
    machine: dict[str, Any]

    @property
    def head_dims(self) -> list[int]:
        return sorted({each.head_dim for each in self.timings})

    @property
    def contestants(self) -> list[str]:
        return list(dict.fromkeys(each.contestant for each in self.timings))

    def of(self, contestant: str, head_dim: int) -> list[Timing]:
        """Return the timings of one contestant, shortest case first."""
        found = [each for each in self.timings if (each.contestant, each.head_dim) == (contestant, head_dim)]
        return sorted(found, key=lambda each: each.length)

    def at(self, contestant: str, head_dim: int, length: int) -> Timing | None:
        return next((each for each in self.of(contestant, head_dim) if each.length == length), None)


def read(path: Path) -> Report:
    """Return what a file of pytest-benchmark holds of `bench_forms`."""
    timings, rates, where = [], {}, {}
    for each in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
        info, stats = each["extra_info"], each["stats"]
        if info.get("contestant") == "matrix product":
            rates[info["library"]] = info["operations"] / stats["median"]
        elif "head_dim" in info:
            names = ("contestant", "library", "head_dim", "length", "operations")
            timings.append(Timing(*(info[name] for name in names), stats["q1"], stats["median"], stats["q3"]))
        else:
            continue
        where = info
    return Report(timings, rates, where)


def crossover(report: Report, contestant: str, head_dim: int, other: str = SDPA) -> float | None:
    """Return the crossover of two contestants at the lengths that both were measured at."""
    pairs = [(mine, report.at(other, head_dim, mine.length)) for mine in report.of(contestant, head_dim)]
    both = [(mine, its) for mine, its in pairs if its is not None]
    return crossing([a.length for a, _ in both], [a.median for a, _ in both], [b.median for _, b in both])


def markdown(report: Report) -> str:
    """Return the whole report as text."""
    parts = [_about(report), "## Time of one call (ms: median, quartiles)", *_times(report)]
    parts += ["## Time as a multiple of torch SDPA (median)", *_ratios(report)]
    parts += ["## Crossover against torch SDPA (tokens)", *_crossovers(report)]
    parts += ["## Share of the rate of a large matrix product (efficient form)", *_shares(report)]
    return "\n".join(parts) + "\n"


def _about(report: Report) -> str:
    where = report.machine
    pools = [
        f"{p['internal_api']} {p['version']} ({p['architecture']}), {p['num_threads']} threads"
        for p in where["threads"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    variables = ", ".join(f"{name}={text}" for name, text in where["variables"].items()) or "none set"
    rates = ", ".join(f"{library} {rate / 1e9:.0f}" for library, rate in report.rates.items())
    return "\n".join(
        (
            f"{where['processor']}, {where['cores']} cores, {where['system']}, Python {where['python']}; {versions}.",
            f"Threads: {'; '.join(dict.fromkeys(pools))}. Variables: {variables}.",
            f"{HEADS} heads, float32. Large matrix product, 10^9 operations a second: {rates}.",
            "",
        )
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return [f"| {line} |" for line in lines] + [""]


def _sizes(report: Report) -> list[tuple[int, int]]:
    return sorted({(each.head_dim, each.length) for each in report.timings})


def _times(report: Report) -> list[str]:
    def cell(found: Timing | None) -> str:
        return "–" if found is None else f"{1e3 * found.median:.3g} ({1e3 * found.low:.3g} to {1e3 * found.high:.3g})"

    rows = [[f"{d}, {n}", *(cell(report.at(name, d, n)) for name in report.contestants)] for d, n in _sizes(report)]
    return _table(["d, N", *report.contestants], rows)


def _ratios(report: Report) -> list[str]:
    names = [name for name in report.contestants if name != SDPA]
    rows = []
    for d, n in _sizes(report):
        base = report.at(SDPA, d, n)
        found = [report.at(name, d, n) for name in names]
        rows.append(
            [f"{d}, {n}", *("–" if x is None or base is None else f"{x.median / base.median:.2f}" for x in found)]
        )
    return _table(["d, N", *names], rows)


def _crossovers(report: Report) -> list[str]:
    def cell(length: float | None) -> str:
        return "none measured" if length is None else f"{length:.0f}" if length else "below the shortest"

    names = [name for name in report.contestants if name.endswith("efficient") or "(" in name]
    rows = [[name, *(cell(crossover(report, name, d)) for d in report.head_dims)] for name in names]
    return _table(["", *(f"d = {d}" for d in report.head_dims)], rows)


def _shares(report: Report) -> list[str]:
    rows = []
    for name, d in ((name, d) for name in report.contestants if name.endswith(" efficient") for d in report.head_dims):
        timings = report.of(name, d)
        rate = report.rates.get(timings[0].library) if timings else None
        if rate:
            best = max(timings, key=lambda each: each.operations / each.median)
            rows.append([name, str(d), str(best.length), f"{100 * best.operations / best.median / rate:.0f} %"])
    return _table(["", "d", "N", "share"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="what pytest-benchmark wrote with --benchmark-json")
    parser.add_argument("--publish", action="store_true", help="copy tables to benchmarks/results/")
    arguments = parser.parse_args()
    report = read(arguments.file)
    FOLDER.mkdir(exist_ok=True)
    table = FOLDER / "speed.md"
    table.write_text(markdown(report), encoding="utf-8")
    print(table.read_text(encoding="utf-8"))
    if arguments.publish:
        RESULTS.mkdir(exist_ok=True)
        goals = FOLDER / "goals.md"
        for path in (table, *([goals] if goals.exists() else [])):
            shutil.copy(path, RESULTS / path.name)


if __name__ == "__main__":
    main()
