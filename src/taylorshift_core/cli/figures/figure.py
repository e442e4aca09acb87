"""What a figure is: a way to measure rows of numbers, and a way to draw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.theme import Theme

Row = dict[str, Any]  # names to numbers and words, as JSON has them
Unit = Callable[[], Sequence[Row]]


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    Parameters
    ----------
    name
        As in ``--only NAME``, and of its files.
    about
        What is seen and how it was measured, in plain words.
    spread
        What the bars or bands are; "none: …" where nothing is random.
    panels
        Rows and columns of axes.
    units
        What there is to measure: functions that each return some rows, at most a few seconds long.
    finding
        The title: what the rows say, in one sentence. It claims nothing that they do not show.
    draw
        Draws the rows on the axes.
    timed
        Whether it takes time to measure; figures that do not are measured first, so that they are always whole.
    """

    name: str
    about: str
    spread: str
    panels: tuple[int, int]
    units: Callable[[Bench], list[Unit]]
    finding: Callable[[Sequence[Row]], str]
    draw: Callable[[Sequence[Row], Sequence[Axes], Theme], None]
    timed: bool = True


@dataclass(frozen=True)
class Measured:
    """A figure with its numbers: how many of its units they come from, on which machine and when they were measured."""

    figure: Figure
    rows: Sequence[Row]
    done: int
    planned: int
    about: dict[str, Any]
    when: str

    @property
    def finding(self) -> str:
        """The title."""
        return self.figure.finding(self.rows)
