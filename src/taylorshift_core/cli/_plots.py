"""How the picture of the demonstration is drawn: an attention map, and time against length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Array = np.ndarray[Any, Any]

_STRETCH = 64  # bytes in the attention map
_STYLES = {"direct": ("#D55E00", "o", "-"), "efficient": ("#0072B2", "s", "--")}  # Okabe and Ito: safe for all eyes
_SIGNS = {ord(" "): "␣", ord("\n"): "↵"}


@dataclass(frozen=True)
class Times:
    """Seconds of several runs at each length, for each form, on one backend."""

    backend: str
    lengths: Sequence[int]
    seconds: Mapping[str, Sequence[Sequence[float]]]
    crossover: int


def stretch(content: bytes) -> slice:
    """Return where a readable line of text stands: prose if there is some, else the beginning."""
    prose = re.search(rb"[A-Z][A-Za-z ,.'()-]{%d}" % (_STRETCH - 1), content)
    first = prose.start() if prose else 0
    return slice(first, first + _STRETCH)


def draw(weights: Array, content: bytes, times: Times) -> Figure:
    """Return the figure: the attention weights of the bytes in `content`, and the times beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    image = left.imshow(100 * weights, cmap="cividis", interpolation="nearest")
    figure.colorbar(image, ax=left, label="attention weight (% of the row's sum)", shrink=0.85)
    label_bytes(left, content, 7)
    left.set_title("Attention map of one head: which bytes of the text attend to which")
    _draw_times(right, times)
    return figure


def label_bytes(axes: Axes, content: bytes, size: float) -> None:
    """Write the bytes of a text along both axes of its attention map."""
    signs = [_SIGNS.get(byte, chr(byte) if 32 < byte < 127 else "·") for byte in content]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(len(signs)), signs, family="monospace", fontsize=size)
        axis.set_tick_params(length=0)
    for label in axes.get_xticklabels():
        label.set_verticalalignment("baseline")
    axes.xaxis.set_tick_params(pad=9)
    axes.set_xlabel("key (one byte each)")
    axes.set_ylabel("query (one byte each)")


def _draw_times(axes: Axes, times: Times) -> None:
    for form, runs in times.seconds.items():
        colour, marker, line = _STYLES[form]
        axes.plot(
            times.lengths, [median(each) for each in runs], line, color=colour, marker=marker, label=f"{form} form"
        )
        low, high = [min(each) for each in runs], [max(each) for each in runs]
        axes.fill_between(times.lengths, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.axvline(
        times.crossover, color="black", linestyle=":", label=f"crossover by operations: {times.crossover} tokens"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(times.lengths, [str(length) for length in times.lengths])
    axes.minorticks_off()
    axes.set_title(f"Time against length on {times.backend}")
    axes.set_xlabel("length (tokens)")
    axes.set_ylabel("time of one call (seconds; line: median, band: range)")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
