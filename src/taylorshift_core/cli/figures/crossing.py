"""Where one measured curve goes below another, on a log-log plot."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taylorshift_core.cli.figures.figure import Row


def crossing(lengths: Sequence[int], ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the length from which on ours is faster, straight lines between points of a log-log plot; None if never.

    0 where ours is faster throughout.
    """
    leads = [log(mine / its) for mine, its in zip(ours, theirs, strict=True)]
    if not leads or leads[-1] >= 0:
        return None
    points = list(zip(map(log, lengths), leads, strict=True))
    for (x, lead), (next_x, next_lead) in reversed(list(pairwise(points))):
        if lead >= 0:
            return exp(x + (next_x - x) * lead / (lead - next_lead))
    return 0.0


def crossing_of(rows: Sequence[Row], ours: str, theirs: str) -> tuple[float | None, float | None, float | None]:
    """Return the crossing of the medians of two contestants, and the first and last that quartiles allow."""
    by_name = {name: {row["length"]: row for row in rows if row["contestant"] == name} for name in (ours, theirs)}
    lengths = sorted(by_name[ours].keys() & by_name[theirs].keys())

    def curve(name: str, which: str) -> list[float]:
        return [by_name[name][length][which] for length in lengths]

    middle = crossing(lengths, curve(ours, "median"), curve(theirs, "median"))
    first = crossing(lengths, curve(ours, "low"), curve(theirs, "high"))
    last = crossing(lengths, curve(ours, "high"), curve(theirs, "low"))
    return middle, first, last


def where(rows: Sequence[Row], ours: str, theirs: str) -> str:
    """Return in words where a contestant overtakes another: two digits are what a measurement is good for."""
    found = crossing_of(rows, ours, theirs)[0]
    lengths = [row["length"] for row in rows if row["contestant"] == ours]
    if found is None:
        return f"at no length up to {max(lengths):,} tokens"
    return f"at {float(f'{found:.2g}'):,.0f} tokens" if found else f"before {min(lengths):,} tokens"
