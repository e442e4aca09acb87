"""The weight of a score: the polynomial, as the library computes it, against exp."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from taylorshift_core import attention_weights
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

_REACH, _POINTS = 3.0, 25


def _units(_bench: Bench) -> list[Unit]:
    return [_weights]


def _weights() -> list[Row]:
    """Turn a key from the query to its opposite; the weight of a score of 0 is 1, which gives the unit."""
    scores = np.linspace(-_REACH, _REACH, _POINTS)
    cosines = np.append(scores / _REACH, 0.0)
    keys = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=-1)
    weights = attention_weights(np.asarray([[1.0, 0.0]]), keys, scale=_REACH)[0]
    return [
        {"score": float(score), "weight": float(weight / weights[-1]), "exp": math.exp(score)}
        for score, weight in zip(scores, weights, strict=False)
    ]


def _finding(rows: Sequence[Row]) -> str:
    inside = [row for row in rows if abs(row["score"]) <= 1]
    worst = max(inside, key=lambda row: abs(row["weight"] - row["exp"]))
    lowest = min(row["weight"] for row in rows)
    return (
        f"Between scores of −1 and 1 the weight differs from exp by at most {abs(worst['weight'] - worst['exp']):.2f}; "
        f"its lowest value is {lowest:.2f}"
    )


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    (axis,) = axes
    fine = np.linspace(-_REACH, _REACH, 200)
    scores, weights = [row["score"] for row in rows], [row["weight"] for row in rows]
    axis.axvspan(-1, 1, color=theme.faint, alpha=0.45, linewidth=0, label="scores of unit rows, scale 1")
    axis.plot(fine, np.exp(fine), color=theme.colours[1], linestyle="--", label="exp(s), softmax")
    axis.plot(fine, 1 + fine + fine**2 / 2, color=theme.colours[0], label="1 + s + s²/2")
    axis.plot(scores, weights, "o", markersize=4, color=theme.colours[0], label="weights that attention_weights gives")
    axis.axhline(0, color=theme.ink, linewidth=0.6)
    axis.set(xlabel="score s", ylabel="weight (that of a score of 0 is 1)", ylim=(-0.5, 10))
    axis.grid(visible=True)
    axis.legend(loc="upper left")


FIGURE = Figure(
    "weight",
    "Attention divides each weight by their sum. Softmax weighs a score s by exp(s), TaylorShift by the first three terms of "
    "its series, 1 + s + s²/2 = ½((1 + s)² + 1), which is never below ½: nothing is divided by zero, and no key is "
    "without a vote. Queries and keys are unit vectors, so at scale 1 every score lies in the shaded range. "
    "Beyond it the two part: a negative score of large size gets more weight than one of zero. The dots are ratios of "
    "weights that attention_weights gave for keys at known angles to a query, at scale 3.",
    "none: nothing is timed, and nothing is random",
    (1, 1),
    _units,
    _finding,
    _draw,
    timed=False,
)
