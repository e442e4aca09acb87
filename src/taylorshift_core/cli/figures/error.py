"""The rounding error against length, for each dtype and form."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import attention
from taylorshift_core.cli.figures.curves import finish, lengths_axis, names_of, quartile_curves
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

    Array = np.ndarray[Any, Any]

_HEAD_DIM, _QUERIES, _DRAWS = 32, 32, 5


def _units(bench: Bench) -> list[Unit]:
    wide = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
    dtypes = [each for each in bench.effort.error_dtypes if wide or each != "float64"]  # no judge is as exact as that
    return [partial(_errors, dtype, length) for dtype in dtypes for length in bench.effort.error_lengths]


def _errors(dtype: str, length: int) -> list[Row]:
    """Return quartiles of the largest error beside the largest output, over several draws."""
    found: dict[str, list[float]] = {"direct": [], "efficient": []}
    for seed in range(_DRAWS):
        rng = np.random.default_rng(seed)
        query, key, value = (
            rng.standard_normal((n, _HEAD_DIM)).astype(dtype) for n in (min(_QUERIES, length), length, length)
        )
        exact = definition(query, key, value)
        for form, errors in found.items():
            output = attention(query, key, value, form=form)
            errors.append(float(np.max(np.abs(output - exact)) / np.max(np.abs(exact))))
    eps = float(np.finfo(np.dtype(dtype)).eps)
    quartiles = {form: np.quantile(errors, (0.25, 0.5, 0.75)).tolist() for form, errors in found.items()}
    return [
        {"dtype": dtype, "form": form, "contestant": f"{form} form, {dtype}", "length": length, "eps": eps}
        | {"low": low, "median": median, "high": high}
        for form, (low, median, high) in quartiles.items()
    ]


def definition(query: Array, key: Array, value: Array) -> Array:
    """Return attention by its definition, from the inputs as they are, in the most exact numbers there are.

    Numbers wider than float64 have no BLAS; sums of products are done by NumPy itself.
    """
    exact = np.longdouble if query.dtype == np.float64 else np.float64
    inputs: list[Any] = [x.astype(exact) for x in (query, key, value)]
    query, key, value = inputs
    query, key = (x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True)) for x in (query, key))
    score = query @ key.T
    weight = 1 + score + score**2 / 2
    output: Array = weight @ value / weight.sum(axis=-1, keepdims=True)
    return output


def _finding(rows: Sequence[Row]) -> str:
    parts = []
    for dtype in names_of(rows, "dtype"):
        worst = max(row["median"] for row in rows if row["dtype"] == dtype)
        parts.append(f"{worst:.0e} in {dtype}")
    longest = max(row["length"] for row in rows)
    return f"Up to {longest:,} tokens the largest error is {', '.join(parts)} of the largest output (medians of both forms)"


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    (axis,) = axes
    in_eps = [row | {name: row[name] / row["eps"] for name in ("low", "median", "high")} for row in rows]
    quartile_curves(axis, in_eps, theme, "length", unit=1)
    lengths_axis(axis, names_of(rows, "length"), "keys (tokens)")
    eps = ", ".join(f"{row['eps']:.1e} in {dtype}" for dtype in names_of(rows, "dtype") for row in _first(rows, dtype))
    finish(axis, f"head_dim {_HEAD_DIM}, NumPy; eps is {eps}", "largest error / largest output (eps of the dtype)")


def _first(rows: Sequence[Row], dtype: str) -> list[Row]:
    return [row for row in rows if row["dtype"] == dtype][:1]


FIGURE = Figure(
    "error",
    "Errors are against the definition, 1 + s + s²/2 of the cosine of query and key, worked out from the same rounded inputs in "
    "float64; for float64 in numbers wider than that, where the machine has them. Values are normally distributed around 0, so "
    "outputs shrink with the length while errors stay beside the largest output: this is the harder way to count. Half precision "
    "is summed in float32, so its error is that of rounding the output once. The unit is eps of the dtype, the distance from 1 to the next number.",
    f"points are medians of the largest errors of {_DRAWS} random draws, bars reach from the lower to the upper quartile",
    (1, 1),
    _units,
    _finding,
    _draw,
    timed=False,
)
