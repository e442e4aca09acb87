"""Curves with bars for their quartiles, which most figures are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.figure import Row
    from taylorshift_core.cli.figures.theme import Theme

_FEW = 100  # from lowest to highest, where powers of ten alone would be too few ticks
QUARTILES = "points are medians of calls that take turns, bars reach from the lower to the upper quartile"


def names_of(rows: Sequence[Row], column: str = "contestant") -> list[Any]:
    """Return what stands in a column, each once."""
    return list(dict.fromkeys(row[column] for row in rows))


def quartile_curves(
    axes: Axes, rows: Sequence[Row], theme: Theme, x: str, *, by: str = "contestant", unit: float = 1e3
) -> None:
    """Draw the median of each contestant over a column `x`, times `unit`, with bars for the quartiles."""
    for index, name in enumerate(names_of(rows, by)):
        mine = sorted((row for row in rows if row[by] == name), key=lambda row: float(row[x]))
        middle = [unit * row["median"] for row in mine]
        bars = [
            [unit * (row["median"] - row["low"]) for row in mine],
            [unit * (row["high"] - row["median"]) for row in mine],
        ]
        style = theme.style(name, index)
        axes.errorbar([row[x] for row in mine], middle, yerr=bars, markersize=4, linewidth=1.3, capsize=2, **style)


def lengths_axis(axes: Axes, lengths: Sequence[int], label: str = "length (tokens)") -> None:
    """Make the x axis logarithmic, with the lengths themselves as ticks where there is room for them."""
    axes.set_xscale("log", base=2)
    ticks = sorted(set(lengths))
    ticks = ticks if len(ticks) < 8 else ticks[:: -(-len(ticks) // 7)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)


def finish(axes: Axes, title: str, y: str, *, legend: bool = True) -> None:
    """Put the title, the label of the y axis on a logarithmic scale, a grid and the legend."""
    axes.set_title(title)
    axes.set_ylabel(y)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < _FEW * low:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend()
