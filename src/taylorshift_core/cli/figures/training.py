"""Time of a forward and a backward pass against length."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.bench import DTYPE
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT
from taylorshift_core.cli.figures.crossing import where
from taylorshift_core.cli.figures.curves import QUARTILES, finish, lengths_axis, names_of, quartile_curves
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

_HEAD_DIM = 32
_FORWARD = "numpy efficient, forward alone"


def _units(bench: Bench) -> list[Unit]:
    effort = bench.effort
    return [partial(_passes, bench, Case(effort.heads, length, _HEAD_DIM)) for length in effort.training_lengths]


def _passes(bench: Bench, case: Case) -> list[Row]:
    arrays, options = case.draw(DTYPE)
    (efficient,) = (each for each in bench.contestants if each.name == EFFICIENT)
    runs = {name: train(arrays) for name, train in bench.trainers.items()}
    runs[_FORWARD] = efficient.start(arrays, options)
    return bench.time(runs, heads=case.heads, head_dim=case.head_dim, length=case.length)


def _finding(rows: Sequence[Row]) -> str:
    longest = max(row["length"] for row in rows)
    seconds = {row["contestant"]: row["median"] for row in rows if row["length"] == longest}
    ratio = seconds[EFFICIENT] / seconds[_FORWARD]
    ahead = f"; the efficient form overtakes the direct form {where(rows, EFFICIENT, DIRECT)}"
    text = f"Forward and backward take {ratio:.1f} times the forward pass ({longest:,} tokens, efficient form)"
    return text + ahead if len(names_of(rows, "length")) > 1 else text


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    (axis,) = axes
    named = [
        row
        | {"contestant": row["contestant"] if row["contestant"] == _FORWARD else f"{row['contestant']}, both passes"}
        for row in rows
    ]
    quartile_curves(axis, named, theme, "length")
    lengths_axis(axis, names_of(rows, "length"))
    finish(axis, f"{rows[0]['heads']} heads, head_dim {_HEAD_DIM}, float32", "time of both passes (ms)")


FIGURE = Figure(
    "training",
    "Training needs the output and, from a gradient that comes back to it, the gradients to query, key and value. This library keeps "
    "its inputs, its output and the normalisers, and works the features out again, so memory stays linear in the length. "
    "On NumPy, attention_vjp gives both passes.",
    QUARTILES,
    (1, 1),
    _units,
    _finding,
    _draw,
)
