"""From which length on the efficient form wins, against head_dim: counted and measured, in time and in memory."""

from __future__ import annotations

import tracemalloc
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import crossover_length, crossover_memory
from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures import published
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT
from taylorshift_core.cli.figures.crossing import crossing, crossing_of
from taylorshift_core.cli.figures.curves import finish, names_of
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

    Array = np.ndarray[Any, Any]

HEADLINE_DIM, HEADLINE_TIME, HEADLINE_MEMORY = 32, 1700, 800  # "from about 1700 tokens", "as short as 800 tokens"
_HEADS = 2
_MOST_PRODUCTS = 4e10  # of all pairs of a head: what takes longer than a second or so is left out
_FINE = (4, 8, 16, 32, 64, 128)
_WIDEST_STORED = 64  # head_dim up to which the published forms are measured: their features take hundreds of megabytes
_MEMORY_AT = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # lengths, as multiples of the length that is predicted


def _units(bench: Bench) -> list[Unit]:
    effort = bench.effort
    cases = [
        Case(_HEADS, max(2, round(factor * crossover_length(head_dim))), head_dim)
        for head_dim in effort.crossover_dims
        for factor in effort.crossover_at
    ]
    times = [partial(_times, bench, case) for case in cases if case.length**2 * case.head_dim <= _MOST_PRODUCTS]
    memories = [partial(_memory, head_dim) for head_dim in effort.crossover_dims if head_dim <= _WIDEST_STORED]
    return [*memories, *times]


def _times(bench: Bench, case: Case) -> list[Row]:
    """Return times of the efficient form, and of those who weigh all pairs."""
    chosen = [each for each in bench.contestants if each.name == EFFICIENT or not each.name.endswith("efficient")]
    chosen = [each for each in chosen if not each.stores_features]
    return [row | {"of": "time"} for row in bench.compare(chosen, case)]


def _memory(head_dim: int) -> list[Row]:
    """Return the peak memory of both forms as they were published, about where the efficient one is to win."""
    predicted = crossover_memory(head_dim, features="published")
    rows = []
    for length in dict.fromkeys(round(factor * predicted) for factor in _MEMORY_AT):
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal((length, head_dim), dtype=np.float32) for _ in range(3)]
        for name, form in (("published direct", published.direct), ("published efficient", published.efficient)):
            held = _peak(form, arrays)
            rows.append({"contestant": name, "of": "memory", "head_dim": head_dim, "length": length, "bytes": held})
    return rows


def _peak(form: Callable[..., Array], arrays: Sequence[Array]) -> int:
    tracemalloc.start()
    try:
        form(*arrays)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _rivals(rows: Sequence[Row]) -> list[str]:
    return [name for name in names_of([r for r in rows if r["of"] == "time"]) if name != EFFICIENT]


def crossings(rows: Sequence[Row], rival: str) -> dict[int, tuple[float | None, float | None, float | None]]:
    """Return by head_dim from where on the efficient form is faster, and the first and last that quartiles allow."""
    found = {}
    for head_dim in names_of(rows, "head_dim"):
        mine = [row for row in rows if row["of"] == "time" and row["head_dim"] == head_dim]
        if mine:
            found[head_dim] = crossing_of(mine, EFFICIENT, rival)
    return found


def _bounded(rows: Sequence[Row], rival: str) -> dict[int, tuple[float, float, float, str]]:
    """Return crossings that can be drawn: "≤" the shortest length where all were ahead, "≥" the longest where none was."""
    points = {}
    for head_dim, found in crossings(rows, rival).items():
        lengths = [row["length"] for row in rows if row["of"] == "time" and row["head_dim"] == head_dim]
        middle, first, last = (max(lengths) if each is None else max(each, min(lengths)) for each in found)
        sign = "≥" if found[0] is None else "" if found[0] else "≤"
        points[head_dim] = middle, min(first, middle), max(last, middle), sign
    return points


def memory_crossings(rows: Sequence[Row]) -> dict[int, float | None]:
    """Return by head_dim from where on the published efficient form holds less than the published direct form."""
    found = {}
    for head_dim in names_of([row for row in rows if row["of"] == "memory"], "head_dim"):
        mine = [row for row in rows if row["of"] == "memory" and row["head_dim"] == head_dim]
        by_name = {name: [r["bytes"] for r in mine if r["contestant"] == name] for name in names_of(mine)}
        lengths = [row["length"] for row in mine if row["contestant"] == "published direct"]
        found[head_dim] = crossing(lengths, by_name["published efficient"], by_name["published direct"])
    return found


def _finding(rows: Sequence[Row]) -> str:
    found = crossings(rows, DIRECT)
    measured = {d: middle for d, (middle, _, _) in found.items() if middle is not None}
    if not measured:
        return "The efficient form did not overtake the direct form within the lengths measured"
    earlier = sum(length < crossover_length(d, features="published") for d, length in measured.items())
    text = (
        f"The efficient form overtakes the direct form before the published N0 at {earlier} of {len(found)} head_dims"
    )
    at = measured.get(HEADLINE_DIM)
    two_digits = at and float(f"{at:.2g}")
    return text + (
        f"; at {HEADLINE_DIM} from {two_digits:,.0f} tokens, where the paper says {HEADLINE_TIME:,}" if at else ""
    )


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    time, memory = axes
    for axis, count, sign in ((time, crossover_length, "N0"), (memory, crossover_memory, "N1")):
        for features, colour, line in (("published", theme.colours[5], "--"), ("symmetric", theme.colours[0], "-")):
            lengths = [count(d, features=features) for d in _FINE]
            axis.plot(_FINE, lengths, color=colour, linestyle=line, label=f"{sign} counted, {features} features")
    for index, rival in enumerate(_rivals(rows)):
        points = _bounded(rows, rival)
        middle = [found[0] for found in points.values()]
        bars = [[m - first for m, first, _, _ in points.values()], [last - m for m, _, last, _ in points.values()]]
        style = theme.style(rival, index + 1) | {"label": f"measured, against {rival}", "linestyle": "none"}
        time.errorbar(list(points), middle, yerr=bars, markersize=6, capsize=3, **style)
        for head_dim, (m, _, _, sign) in points.items():
            time.annotate(sign, (head_dim, m), textcoords="offset points", xytext=(7, -4))
    held = {d: length for d, length in memory_crossings(rows).items() if length}
    style = theme.style("measured, both forms as published", 3) | {"linestyle": "none"}
    memory.plot(list(held), list(held.values()), markersize=6, **style)
    for axis, length, what in ((time, HEADLINE_TIME, "faster"), (memory, HEADLINE_MEMORY, "less memory")):
        label = f"the paper's headline: {what} from about {length:,}"
        axis.plot([HEADLINE_DIM], [length], "*", markersize=11, color=theme.ink, label=label)
        axis.axhline(length, color=theme.ink, linewidth=0.8, linestyle=":")
        axis.set_xscale("log", base=2)
        axis.set_xticks(_FINE, [str(d) for d in _FINE])
        axis.minorticks_off()
        axis.set_xlabel("head_dim (entries of a key)")
    finish(time, f"time, {_HEADS} heads, float32", "length from which the efficient form is faster (tokens)")
    finish(memory, "memory, one head, float32", "length from which the efficient form holds less (tokens)")


FIGURE = Figure(
    "crossover",
    "Lines are counts of the paper: N0 is the length from which on the efficient form takes fewer operations than the direct form, N1 "
    "that from which on it holds fewer numbers. With symmetric features, as in this library, each product of two "
    "entries of a key is taken once, which halves the work. Left, marks are measured: where the times of this library's efficient form "
    "on NumPy go below those of each other way, 2 heads, float32, between lengths that were timed. Right, marks are "
    "measured on both forms written as the paper does, every intermediate result stored, one head, by the peak of what NumPy "
    "allocates; this library holds a tile only, at any length. ≤ and ≥ stand beside marks where the efficient form was ahead at all lengths measured, or at none.",
    "marks are crossings of medians; bars reach to the crossings of the lower quartile of one with the upper of the other. "
    "Memory does not vary",
    (1, 2),
    _units,
    _finding,
    _draw,
)
