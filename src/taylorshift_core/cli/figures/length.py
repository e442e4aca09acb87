"""Time and memory against length, for each head_dim."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT
from taylorshift_core.cli.figures.crossing import crossing_of, where
from taylorshift_core.cli.figures.curves import QUARTILES, finish, lengths_axis, names_of, quartile_curves
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

_SMALLEST = 1 << 10  # bytes: what holds less is drawn as if it held this


def _units(bench: Bench) -> list[Unit]:
    effort = bench.effort
    cases = [Case(effort.heads, length, head_dim) for head_dim in effort.head_dims for length in effort.lengths]
    remembered = [each for each in bench.contestants if each.name in bench.remembered]
    memories = [partial(_memory, bench, each.name, list(filter(each.takes, cases))) for each in remembered]
    return [*(partial(_times, bench, case) for case in cases), *memories]


def _times(bench: Bench, case: Case) -> list[Row]:
    return [row | {"of": "time"} for row in bench.compare(bench.contestants, case)]


def _memory(bench: Bench, name: str, cases: Sequence[Case]) -> list[Row]:
    return [
        {"contestant": name, "of": "memory", "heads": case.heads, "head_dim": case.head_dim, "length": case.length}
        | {"bytes": held}
        for case, held in zip(cases, bench.memory(name, cases), strict=True)
    ]


def _of(rows: Sequence[Row], what: str, head_dim: int) -> list[Row]:
    return [row for row in rows if row["of"] == what and row["head_dim"] == head_dim]


def _finding(rows: Sequence[Row]) -> str:
    places = []
    for head_dim in names_of(rows, "head_dim"):
        mine = _of(rows, "time", head_dim)
        if len(names_of(mine, "length")) > 1:
            places.append(f"{where(mine, EFFICIENT, DIRECT)} (head_dim {head_dim})")
    if not places:
        return "Time and memory against length; too few lengths were measured to see a crossing"
    return f"On NumPy the efficient form overtakes the direct form {', '.join(places)}"


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    head_dims, lengths = names_of(rows, "head_dim"), names_of(rows, "length")
    above, below = axes[: len(axes) // 2], axes[len(axes) // 2 :]
    for head_dim, time, memory in zip(head_dims, above, below, strict=False):
        _draw_times(time, _of(rows, "time", head_dim), theme, head_dim)
        _draw_memory(memory, _of(rows, "memory", head_dim), theme, head_dim)
        for axis in (time, memory):
            lengths_axis(axis, lengths)
    for line in (above, below):
        seen = line[: len(head_dims)]
        limits = [axis.get_ylim() for axis in seen]
        for axis in seen:
            axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        for axis in line[len(head_dims) :]:
            axis.set_visible(False)
    if above[0].containers:
        above[0].legend(handles=above[0].containers)


def _draw_times(axes: Axes, rows: Sequence[Row], theme: Theme, head_dim: int) -> None:
    quartile_curves(axes, rows, theme, "length")
    places = []
    for index, rival in enumerate(names_of(rows)):
        found = None if "efficient" in rival else crossing_of(rows, EFFICIENT, rival)[0]
        if found:
            colour = theme.style(rival, index)["color"]
            axes.axvline(found, color=colour, linewidth=1, linestyle=":", label=f"ahead of {rival}")
            places.append(f"{rival} from {float(f'{found:.2g}'):,.0f}")
    ahead = f"; efficient form ahead of\n{', '.join(places)}" if places else ""
    finish(
        axes,
        f"time, {rows[0]['heads'] if rows else 'no'} heads, head_dim {head_dim}{ahead}",
        "time of one call (ms)",
        legend=False,
    )


def _draw_memory(axes: Axes, rows: Sequence[Row], theme: Theme, head_dim: int) -> None:
    for index, name in enumerate(names_of(rows)):
        points = [row for row in rows if row["contestant"] == name]
        x, y = [row["length"] for row in points], [max(row["bytes"], _SMALLEST) / 1e6 for row in points]
        axes.plot(x, y, markersize=4, **theme.style(name, index))
    finish(axes, f"memory, head_dim {head_dim}", "held beyond input and output (MB)")


FIGURE = Figure(
    "length",
    "Numbers are float32; both axes are logarithmic, so a line twice as steep is a square. The direct form and softmax "
    "take time with the square of the length, the efficient form with the length. Dotted lines mark from where on the "
    "efficient form is faster. Each result was checked against its definition in float64 before it was timed. Memory was watched "
    "in a process of its own, in runs that are not timed; it includes what threads keep for their next call. Both forms of this "
    "library work in tiles, so neither holds a matrix of all pairs.",
    QUARTILES + "; memory is one run",
    (2, 3),
    _units,
    _finding,
    _draw,
)
