"""The roofline: what the machine could do at most, and where the forms are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.bench import DTYPE
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT, SOFTMAX
from taylorshift_core.cli.figures.curves import names_of
from taylorshift_core.cli.figures.figure import Figure
from taylorshift_core.features import n_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

PRODUCT, COPY = "matrix product", "copy"


def _units(bench: Bench) -> list[Unit]:
    effort = bench.effort
    cases = [Case(effort.heads, effort.roofline_length, head_dim) for head_dim in effort.head_dims]
    return [partial(_limits, bench), *(partial(_forms, bench, case) for case in cases)]


def _limits(bench: Bench) -> list[Row]:
    """Return the rate of a large matrix product, and of a copy between arrays that outgrow every cache."""
    size = bench.effort.product
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    source = np.ones(bench.effort.copied_megabytes * 10**6 // 4, np.float32)
    target = np.empty_like(source)
    runs = {PRODUCT: lambda: left @ right, COPY: lambda: np.copyto(target, source)}
    work = {PRODUCT: 2 * size**3, COPY: 2 * source.nbytes}  # a byte is read and a byte is written
    return [row | {"of": "limit", "work": work[row["contestant"]]} for row in bench.time(runs)]


def _forms(bench: Bench, case: Case) -> list[Row]:
    chosen = [each for each in bench.contestants if each.library in {"numpy", "torch"} and not each.stores_features]
    moved = 4 * case.heads * case.length * case.head_dim * np.dtype(DTYPE).itemsize
    return [
        row | {"of": "form", "work": products_of(row["contestant"], case), "bytes": moved}
        for row in bench.compare(chosen, case)
    ]


def products_of(name: str, case: Case) -> int:
    """Return the operations of a contestant's matrix products alone, with the symmetric features of this library."""
    if name.endswith("efficient"):
        return 4 * case.heads * case.length * n_features(case.head_dim + 1) * (case.head_dim + 1)
    return 4 * case.heads * case.length**2 * case.head_dim


def _limit(rows: Sequence[Row], name: str) -> float:
    row = next(row for row in rows if row["of"] == "limit" and row["contestant"] == name)
    return float(row["work"] / row["median"])


def _finding(rows: Sequence[Row]) -> str:
    peak = _limit(rows, PRODUCT)
    forms = [row for row in rows if row["of"] == "form" and row["contestant"] == EFFICIENT]
    shares = ", ".join(
        f"{100 * row['work'] / row['median'] / peak:.0f} % at head_dim {row['head_dim']}" for row in forms
    )
    return (
        f"On NumPy the efficient form runs at {shares} of the rate of a large matrix product"
        if shares
        else (f"A large matrix product runs at {peak / 1e9:.0f} GFLOP/s, a copy at {_limit(rows, COPY) / 1e9:.0f} GB/s")
    )


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    (axis,) = axes
    peak, bandwidth = _limit(rows, PRODUCT), _limit(rows, COPY)
    forms = [row for row in rows if row["of"] == "form"]
    most = max([row["work"] / row["bytes"] for row in forms], default=100.0)
    reach = np.geomspace(0.25, 4 * most, 200)
    roof = np.minimum(peak, bandwidth * reach)
    axis.plot(reach, roof / 1e9, color=theme.ink, label=f"limit: {bandwidth / 1e9:.0f} GB/s, {peak / 1e9:.0f} GFLOP/s")
    for index, name in enumerate(names_of(forms)):
        for row in (row for row in forms if row["contestant"] == name):
            x, rates = (
                row["work"] / row["bytes"],
                [row["work"] / row[which] / 1e9 for which in ("high", "median", "low")],
            )
            first = row["head_dim"] == min(r["head_dim"] for r in forms)
            style = theme.style(name, index) | {"linestyle": "none", "label": name if first else None}
            bars = [[rates[1] - rates[0]], [rates[2] - rates[1]]]
            axis.errorbar([x], [rates[1]], yerr=bars, markersize=6, capsize=2, **style)
            axis.annotate(f"{row['head_dim']}", (x, rates[1]), textcoords="offset points", xytext=(6, -3), fontsize=7)
    axis.set(xscale="log", yscale="log", xlabel="operations for each byte of input and output (FLOP/byte)")
    axis.set(ylabel="rate (10⁹ operations a second)", title="float32; the number beside a mark is its head_dim")
    axis.grid(visible=True)
    axis.legend(loc="lower right")


FIGURE = Figure(
    "roofline",
    "Nothing runs faster than the machine multiplies (the flat part: a large product of matrices, measured here), nor faster than "
    "memory delivers (the slope: a copy of an array that no cache holds, measured here). A mark is one call: its "
    "matrix products, 4 N D (head_dim + 1) operations a head for the efficient form with D = (head_dim + 1)(head_dim + 2)/2 and "
    "4 N² head_dim for all pairs, over the time of the whole call. Bytes are those of query, key, value and output, once. "
    f"{SOFTMAX} and {DIRECT} do the same products, and differ by what they do with the scores.",
    "marks are medians of calls that take turns, bars come from the quartiles of their times",
    (1, 1),
    _units,
    _finding,
    _draw,
)
