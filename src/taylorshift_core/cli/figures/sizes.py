"""The size of intermediate results, with the paper's normalisation and without: its table of scaling behaviour."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from taylorshift_core.cli.figures.curves import lengths_axis, names_of
from taylorshift_core.cli.figures.figure import Figure
from taylorshift_core.cli.figures.published import TERMS, intermediate_sizes, predicted_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

_FLOAT16 = float(np.finfo(np.float16).max)
_MANY = 4  # tokens an entry of a key, from which on the prediction of the output holds


def _units(bench: Bench) -> list[Unit]:
    effort = bench.effort
    return [
        partial(_sizes, length, head_dim, effort.draws)
        for head_dim in effort.sizes_dims
        for length in effort.sizes_lengths
    ]


def _sizes(length: int, head_dim: int, draws: int) -> list[Row]:
    rows = []
    for normalised in (False, True):
        rng = np.random.default_rng(0)
        drawn = [intermediate_sizes(rng, length, head_dim, normalised=normalised) for _ in range(draws)]
        predicted = predicted_sizes(length, head_dim, normalised=normalised)
        for term in TERMS:
            norms = np.sqrt([each[term] for each in drawn])
            low, high = np.quantile(norms, (0.25, 0.75))
            rows.append(
                {
                    "term": term,
                    "normalised": "yes" if normalised else "no",
                    "head_dim": head_dim,
                    "length": length,
                    "size": float(np.sqrt(np.mean(norms**2))),
                    "predicted": predicted[term],
                    "low": float(low),
                    "high": float(high),
                }
            )
    return rows


def growth(rows: Sequence[Row], normalised: str) -> float:
    """Return the power of the length with which the fastest growing result grows, between the two longest lengths."""
    found = []
    for term in TERMS:
        for head_dim in names_of(rows, "head_dim"):
            mine = [r for r in rows if (r["term"], r["head_dim"], r["normalised"]) == (term, head_dim, normalised)]
            mine = sorted(mine, key=lambda row: float(row["length"]))
            if len(mine) > 1:
                ends = mine[-2], mine[-1]
                found.append(np.log(ends[1]["size"] / ends[0]["size"]) / np.log(ends[1]["length"] / ends[0]["length"]))
    return float(max(found, default=np.nan))


def _finding(rows: Sequence[Row]) -> str:
    if len(names_of(rows, "length")) < 2:
        return "The size of intermediate results, at one length alone"
    held = [row for row in rows if row["length"] >= _MANY * row["head_dim"]]
    off = [abs(row["size"] / row["predicted"] - 1) for row in held]
    text = f"Without normalisation intermediate results grow with the length to the power {growth(rows, 'no'):.2f}, "
    text += f"with it to the power {growth(rows, 'yes'):.2f}"
    return text + (f"; measured sizes are within {100 * max(off):.0f} % of the predicted" if off else "")


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    widest = max(row["head_dim"] for row in rows)
    for axis, normalised, title in zip(
        axes, ("no", "yes"), ("as it stands", "with the paper's normalisation"), strict=True
    ):
        for index, term in enumerate(TERMS):
            mine = [r for r in rows if (r["term"], r["head_dim"], r["normalised"]) == (term, widest, normalised)]
            mine = sorted(mine, key=lambda row: float(row["length"]))
            lengths, sizes = [row["length"] for row in mine], [row["size"] for row in mine]
            style = theme.style(term, index)
            bars = [[s - min(s, r["low"]) for s, r in zip(sizes, mine, strict=True)]]
            bars.append([max(s, r["high"]) - s for s, r in zip(sizes, mine, strict=True)])
            axis.errorbar(lengths, sizes, yerr=bars, markersize=4, capsize=2, **{**style, "linestyle": "none"})
            axis.plot(lengths, [row["predicted"] for row in mine], color=style["color"], linestyle=style["linestyle"])
        axis.axhline(_FLOAT16, color=theme.ink, linewidth=0.8, linestyle=":", label="largest float16")
        lengths_axis(axis, names_of(rows, "length"))
        axis.set(title=f"{title}, head_dim {widest}", ylabel="norm of a row (of the state: of all of it)", yscale="log")
        axis.grid(visible=True)
    axes[0].legend()


FIGURE = Figure(
    "sizes",
    "The efficient form as published adds up squares of keys times values (the state), reads it at each query, adds what it "
    "reads of the plain products and the sum of the values, and divides by the first column, the normaliser. With N "
    "tokens, these sums grow with N: half precision would overflow near its largest number. The paper therefore "
    "multiplies queries and keys by head_dim^(1/4), [1, value] by 1/N and the output by sqrt(N/head_dim). Marks are measured "
    "(float64, random directions and normal values), lines are predicted from the moments of the scores of random unit "
    "vectors. This library keeps its sums in float32 or wider, so it needs none of that; normalise_output=True "
    "gives the paper's output.",
    "marks are roots of mean squares of several random heads, bars reach from the lower to the upper quartile of the heads",
    (1, 2),
    _units,
    _finding,
    _draw,
    timed=False,
)
