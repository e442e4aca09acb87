"""Measuring figures one after the other, within a time that they share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from taylorshift_core.cli.figures.figure import Measured
from taylorshift_core.cli.figures.machine import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Figure, Row


def count_units(figures: Sequence[Figure], bench: Bench) -> int:
    """Return how often `survey` will call `advance`."""
    return sum(len(figure.units(bench)) for figure in figures)


def survey(figures: Sequence[Figure], bench: Bench, advance: Callable[[str], None]) -> list[Measured]:
    """Measure figures; each has its share of the time, and passes on what it leaves of it.

    A first unit of a figure is measured whatever the time, others are left out when its share is used up: every other
    one rather than all behind some place.

    Parameters
    ----------
    advance
        Called with the name of the figure after each unit, measured or left out.
    """
    order = sorted(figures, key=lambda figure: figure.timed)
    units = [figure.units(bench) for figure in order]
    about = machine()
    if any(figure.timed for figure in figures):
        bench.warm_up()
    end = time.perf_counter() + bench.effort.seconds
    found = {}
    for i, (figure, planned) in enumerate(zip(order, units, strict=True)):
        now = time.perf_counter()
        until = now + (end - now) * len(planned) / sum(map(len, units[i:]))
        parts: dict[int, Sequence[Row]] = {}
        for number in sorted(range(len(planned)), key=spread):
            if not parts or time.perf_counter() < until:
                parts[number] = planned[number]()
            advance(figure.name)
        rows = [row for number in sorted(parts) for row in parts[number]]
        found[figure.name] = Measured(figure, rows, len(parts), len(planned), about, time.strftime("%Y-%m-%d"))
    return [found[figure.name] for figure in figures]


def spread(number: int) -> float:
    """Return the digits of a number in base 2 from behind the point, in reverse: in this order, any first part is spread out.

    Examples
    --------
    >>> sorted(range(8), key=spread)
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    return float(int(f"{number:b}"[::-1], 2)) / 2 ** number.bit_length() if number else 0.0
