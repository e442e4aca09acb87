"""Plots of benchmarks: one picture for light pages and one for dark ones, in .benchmarks/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import style
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable

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
