"""Time and memory against length, for each head_dim."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT
from taylorshift_core.cli.figures.crossing import crossing_of, overtakes
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
    parts = []
    for head_dim in names_of(rows, "head_dim"):
        mine = _of(rows, "time", head_dim)
        if len(names_of(mine, "length")) > 1:
            parts.append(f"at head_dim {head_dim} it {overtakes(mine, EFFICIENT, DIRECT, 'the direct form')}")
    return f"The efficient form on NumPy: {', '.join(parts) or 'too few lengths were measured'}"


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    head_dims = names_of(rows, "head_dim")
    above, below = axes[: len(axes) // 2], axes[len(axes) // 2 :]
    others = [name for name in names_of(rows) if name != DIRECT and "efficient" not in name]
    for head_dim, time, memory in zip(head_dims, above, below, strict=False):
        mine = _of(rows, "time", head_dim)
        quartile_curves(time, mine, theme, "length")
        for rival, line in zip([DIRECT, *others], ("--", ":", "-.", "-"), strict=False):
            found = crossing_of(mine, EFFICIENT, rival)[0]
            if found:
                label = f"efficient ahead of {rival} from {float(f'{found:.2g}'):,.0f}"
                time.axvline(found, color=theme.ink, linewidth=0.9, linestyle=line, label=label)
        lengths_axis(time, names_of(rows, "length"))
        finish(time, f"time, head_dim {head_dim}", "time of one call (ms)")
        held = _of(rows, "memory", head_dim)
        for index, name in enumerate(names_of(held)):
            points = [row for row in held if row["contestant"] == name]
            memory.plot(
                [row["length"] for row in points],
                [max(row["bytes"], _SMALLEST) / 1e6 for row in points],
                markersize=4,
                **theme.style(name, index),
            )
        lengths_axis(memory, names_of(rows, "length"))
        finish(memory, f"memory, head_dim {head_dim}", "held beyond input and output (MB)", legend=memory is below[0])
    for axis in (*above[len(head_dims) :], *below[len(head_dims) :]):
        axis.set_visible(False)


FIGURE = Figure(
    "length",
    "Several heads in float32; both axes are logarithmic, so a line twice as steep is a square. The direct form and softmax "
    "take time with the square of the length, the efficient form with the length. Vertical lines mark from where on the "
    "efficient form is faster. Each result was checked against its definition in float64 before it was timed. Memory was watched "
    "in a process of its own, in runs that are not timed; it includes what threads keep for their next call. Both forms of this "
    "library work in tiles, so neither holds a matrix of all pairs.",
    QUARTILES + "; memory is one run",
    (2, 3),
    _units,
    _finding,
    _draw,
)
