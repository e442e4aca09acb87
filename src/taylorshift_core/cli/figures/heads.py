"""Time against the number of heads, the width of the model staying as it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT
from taylorshift_core.cli.figures.curves import QUARTILES, finish, lengths_axis, names_of, quartile_curves
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme


def _units(bench: Bench) -> list[Unit]:
    effort = bench.effort
    cases = [Case(heads, effort.heads_length, effort.width // heads) for heads in effort.head_counts]
    return [partial(bench.compare, bench.contestants, case) for case in cases]


def _ratio(rows: Sequence[Row], name: str) -> float:
    """Return how many times as long the most heads take as the fewest."""
    mine = sorted((row for row in rows if row["contestant"] == name), key=lambda row: float(row["heads"]))
    return float(mine[-1]["median"] / mine[0]["median"])


def _finding(rows: Sequence[Row]) -> str:
    heads = sorted(names_of(rows, "heads"))
    if len(heads) < 2:
        return f"Measured with {heads[0]} heads alone"
    changes = []
    for name, form in ((EFFICIENT, "efficient"), (DIRECT, "direct")):
        ratio = _ratio(rows, name)
        changes.append(f"the {form} form takes {ratio:.2g} times as long")
    return f"With {heads[-1]} heads instead of {heads[0]} at the same width, {' and '.join(changes)}"


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    (axis,) = axes
    quartile_curves(axis, rows, theme, "heads")
    lengths_axis(axis, names_of(rows, "heads"), "heads (head_dim = width / heads)")
    width, length = rows[0]["heads"] * rows[0]["head_dim"], rows[0]["length"]
    finish(axis, f"width {width}, {length:,} tokens, float32", "time of one call (ms)")


FIGURE = Figure(
    "heads",
    "A model of a fixed width may cut it into few wide heads or many narrow ones. The direct form and softmax multiply as much either "
    "way, though many heads mean more weights to work out. The efficient form's work goes with the square of head_dim "
    "at fixed width, so more heads make it cheaper, as the paper finds.",
    QUARTILES,
    (1, 1),
    _units,
    _finding,
    _draw,
)
