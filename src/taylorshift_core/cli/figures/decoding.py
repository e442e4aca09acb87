"""What a step of decoding costs, and what is kept, against the number of tokens before."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from taylorshift_core.cli.figures.curves import finish, names_of, quartile_curves
from taylorshift_core.cli.figures.decoders import HEAD_DIM, HEADS
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

_STATE = "state (NumPy)"
_TOGETHER = 32  # steps timed as one: the state folds its recent tokens once in so many


def _units(bench: Bench) -> list[Unit]:
    return [partial(_steps, bench, context) for context in bench.effort.contexts]


def _steps(bench: Bench, context: int) -> list[Row]:
    started = {name: start(context) for name, start in bench.decoders.items()}

    def several(name: str) -> None:
        for _ in range(_TOGETHER):
            started[name][0]()

    rows = bench.time({name: partial(several, name) for name in started}, context=context)
    each = dict.fromkeys(("low", "median", "high"), 1 / _TOGETHER)
    return [
        row | {which: row[which] * part for which, part in each.items()} | {"bytes": started[row["contestant"]][1]}
        for row in rows
    ]


def _finding(rows: Sequence[Row]) -> str:
    shortest, longest = (pick(row["context"] for row in rows) for pick in (min, max))
    at = {(row["contestant"], row["context"]): row["median"] for row in rows}
    own = at[_STATE, longest]
    text = f"After {longest:,} tokens a step through the state takes {1e6 * own:.0f} µs"
    if shortest < longest:
        text += f", {own / at[_STATE, shortest]:.2f} times as long as after {shortest:,}"
    others = {name: seconds for (name, context), seconds in at.items() if context == longest and name != _STATE}
    for name, seconds in others.items():
        text += f"; {name}: {seconds / own:.2g} times as long as the state"
    return text


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    time, kept = axes
    quartile_curves(time, rows, theme, "context", unit=1e6)
    for index, name in enumerate(names_of(rows)):
        mine = [row for row in rows if row["contestant"] == name]
        x, y = [row["context"] for row in mine], [row["bytes"] / 1e6 for row in mine]
        kept.plot(x, y, markersize=4, **theme.style(name, index))
    for axis in axes:
        axis.set(xscale="log", xlabel="tokens before (context)")
    finish(time, f"one step, {HEADS} heads, head_dim {HEAD_DIM}, float32", "time of one step (µs)")
    finish(kept, "what is kept of the tokens before", "memory (MB)")


FIGURE = Figure(
    "decoding",
    "A decoder makes one token after the other. With softmax it keeps the key and value of every token before and goes through "
    "all of them at each step. TaylorShift keeps their sums, (head_dim + 1)(head_dim + 2)/2 × (head_dim + 1) numbers a head, "
    "whatever the number of tokens, and a few recent tokens that are added to them together.",
    f"points are medians of {_TOGETHER} steps in a row, one of which adds the recent tokens to the sums; they take turns, bars "
    "reach from the lower to the upper quartile",
    (1, 2),
    _units,
    _finding,
    _draw,
)
