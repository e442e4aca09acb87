"""Drawing a measured figure: as a PNG for one ground, or as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
import textwrap
from typing import TYPE_CHECKING

from taylorshift_core.cli.figures.theme import LIGHT

if TYPE_CHECKING:
    from pathlib import Path

    import matplotlib.figure

    from taylorshift_core.cli.figures.figure import Measured
    from taylorshift_core.cli.figures.theme import Theme

_SIZES = {(1, 1): (7.2, 4.5), (1, 2): (11.0, 4.7), (2, 3): (13.0, 8.2)}  # inches, by panels
_LETTERS = {"title": 10.8, "foot": 16.5}  # in an inch


def png(path: Path, measured: Measured, theme: Theme, foot: str) -> None:
    """Write a picture with its finding above and `foot` below."""
    from matplotlib import rc_context

    with rc_context(theme.settings):
        _drawn(measured, theme, foot).savefig(path, format="png", dpi=120)


def svg(measured: Measured) -> str:
    """Return a picture without words around it, whose colours are the variables of `variables`."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(LIGHT.settings | {"svg.hashsalt": measured.figure.name}):
        figure = _drawn(measured, LIGHT, None)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for name, colour in _named(LIGHT).items():
        text = text.replace(colour, f"var(--{name})")
    return _with_own_names(text, measured.figure.name)


def variables(theme: Theme) -> str:
    """Return the colours of a theme as variables of CSS."""
    return " ".join(f"--{name}: {colour};" for name, colour in _named(theme).items())


def _named(theme: Theme) -> dict[str, str]:
    colours = {f"c{index}": colour for index, colour in enumerate(theme.colours)}
    return {"ground": theme.ground, "ink": theme.ink, "faint": theme.faint, **colours}


def _drawn(measured: Measured, theme: Theme, foot: str | None) -> matplotlib.figure.Figure:
    from matplotlib.figure import Figure

    size = _SIZES[measured.figure.panels]
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(*measured.figure.panels, squeeze=False).ravel()
    measured.figure.draw(measured.rows, list(axes), theme)
    if foot is not None:
        title = textwrap.fill(measured.finding, int(size[0] * _LETTERS["title"]))
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        text = "\n".join(textwrap.fill(line, int(size[0] * _LETTERS["foot"])) for line in foot.splitlines())
        figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5)
    return figure


def _with_own_names(text: str, prefix: str) -> str:
    """Return SVG whose names do not meet those of another picture on the page; groups that nothing refers to lose theirs."""
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
