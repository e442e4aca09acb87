"""Every library installed, side by side, in both forms."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.contestants import Contestant
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

_HEAD_DIM = 32
_OTHER = "other methods"


def _units(bench: Bench) -> list[Unit]:
    case = Case(bench.effort.heads, bench.effort.libraries_length, _HEAD_DIM)
    return [partial(_one, bench, each, case) for each in bench.everyone if each.takes(case)]


def _one(bench: Bench, contestant: Contestant, case: Case) -> list[Row]:
    form = contestant.name.removeprefix(f"{contestant.library} ")
    form = form if form in {"direct", "efficient"} else _OTHER
    return [row | {"library": contestant.library, "form": form} for row in bench.compare([contestant], case)]


def _finding(rows: Sequence[Row]) -> str:
    own = [row for row in rows if row["form"] != _OTHER]
    fastest = min(own, key=lambda row: float(row["median"]))
    count = len({row["library"] for row in own})
    time = f"{1e3 * fastest['median']:.3g} ms in the {fastest['form']} form"
    return (
        f"Of {count} libraries here, {fastest['library']} is the fastest: {time}"
        if count > 1
        else f"{fastest['library']}: {time}"
    )


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    (axis,) = axes
    order = sorted(rows, key=lambda row: float(row["median"]), reverse=True)
    for place, form in enumerate(("efficient", "direct", _OTHER)):
        mine = [(y, row) for y, row in enumerate(order) if row["form"] == form]
        if mine:
            x = [1e3 * row["median"] for _, row in mine]
            bars = [
                [1e3 * (row["median"] - row["low"]) for _, row in mine],
                [1e3 * (row["high"] - row["median"]) for _, row in mine],
            ]
            label = f"{form} form" if form != _OTHER else form
            style = theme.style(label, (0, 1, 3)[place]) | {"linestyle": "none"}
            axis.errorbar(x, [y for y, _ in mine], xerr=bars, markersize=6, capsize=3, **style)
    axis.set_yticks(range(len(order)), [row["contestant"] for row in order])
    axis.set(xscale="log", xlabel="time of one call (ms)")
    first = rows[0]
    axis.set_title(f"{first['heads']} heads, {first['length']:,} tokens, head_dim {first['head_dim']}, float32")
    axis.grid(visible=True)
    axis.legend()


FIGURE = Figure(
    "libraries",
    "The same problem on every backend whose library is installed here, on the device its arrays are made on. Each was checked against the "
    "definition in float64, then timed until its result was there. Libraries for checking or "
    "for exporting (array_api_strict, ndonnx) are here because they work, not for their speed.",
    "marks are medians of calls in a row, bars reach from the lower to the upper quartile",
    (1, 1),
    _units,
    _finding,
    _draw,
)
