"""Plots of benchmarks: one picture for light pages and one for dark ones, in .benchmarks/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.axes import Axes

FOLDER = Path(".benchmarks")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: safe for all eyes, readable on both grounds
MARKERS = ("o", "s", "^", "D")


def save(name: str, draw: Callable[..., None], n_axes: int = 1) -> None:
    """Call ``draw(*axes)`` for a light and for a dark ground, and write both."""
    FOLDER.mkdir(exist_ok=True)
    for ground, name_of_style in (("light", "default"), ("dark", "dark_background")):
        with style.context(name_of_style):
            figure = Figure(figsize=(6.4 * n_axes, 4.8), layout="constrained")
            draw(*figure.subplots(1, n_axes, squeeze=False)[0])
            figure.savefig(FOLDER / f"{name}-{ground}.png", dpi=120)


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Put both axes on logarithmic scales, and say what they show."""
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def quartiles(seconds: Any) -> tuple[float, float, float]:
    """Return the quarter, the half and the three quarters point of times, in milliseconds."""
    low, middle, high = map(float, np.quantile(seconds, (0.25, 0.5, 0.75)))
    return 1e3 * low, 1e3 * middle, 1e3 * high


def times(seconds: Mapping[str, Any]) -> str:
    """Return the median of each way and, in brackets, its quartiles."""
    parts = {way: quartiles(each) for way, each in seconds.items()}
    return ", ".join(f"{way} {middle:.2f} ms ({low:.2f} to {high:.2f})" for way, (low, middle, high) in parts.items())


def against_length(axes: Axes, found: Mapping[int, Mapping[str, Any]]) -> None:
    """Draw the times of every way against the length: a line through medians, a band between quartiles."""
    lengths = list(found)
    for way, colour, marker in zip(found[lengths[0]], COLOURS, MARKERS, strict=False):
        here = [n for n in lengths if way in found[n]]
        low, middle, high = zip(*(quartiles(found[n][way]) for n in here), strict=True)
        axes.plot(here, middle, color=colour, marker=marker, label=way)
        axes.fill_between(here, low, high, color=colour, alpha=0.2, linewidth=0)
