"""Prices from measured times: the non-negative least squares solution, in relative errors."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core._costs import Prices, Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Array = np.ndarray[Any, Any]

FEWEST = 12  # problems: fewer may be explained by prices that hold for nothing else


def fit_prices(measured: Mapping[str, Sequence[tuple[Work, float]]]) -> dict[str, Prices]:
    """Return the prices of each form, from pairs of work and seconds.

    A kind of work that no problem of a form had is priced as in the other form.
    """
    found = {form: _of_form(pairs) for form, pairs in measured.items()}
    return {form: Prices(*map(_known, found[form], *found.values())) for form in found}


def _known(*prices: float | None) -> float:
    return next((price for price in prices if price is not None), 0.0)


def _of_form(pairs: Sequence[tuple[Work, float]]) -> list[float | None]:
    """Return the prices in nanoseconds, None for what was never needed."""
    works, seconds = np.asarray([work for work, _ in pairs], float), np.asarray([each for _, each in pairs])
    needed = np.flatnonzero(works.any(axis=0))
    solved = dict(zip(needed, non_negative(works[:, needed] / seconds[:, None], np.ones(len(pairs))), strict=True))
    return [float(1e9 * solved[i]) if i in solved else None for i in range(works.shape[1])]


def non_negative(matrix: Array, target: Array) -> Array:
    """Return the vector without negative entries that brings ``matrix @ vector`` closest to `target`.

    Where it is zero is not known beforehand, so every choice is tried: few columns, and nothing to go wrong.
    """
    size = np.sqrt((matrix * matrix).sum(axis=0))
    scaled, n = matrix / size, matrix.shape[1]
    best: Array = np.zeros(n)
    least = float(target @ target)
    for used in itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(1, n + 1)):
        columns = list(used)
        part, *_ = np.linalg.lstsq(scaled[:, columns], target, rcond=None)
        rest = scaled[:, columns] @ part - target
        if part.min() >= 0 and rest @ rest < least:
            best, least = np.zeros(n), float(rest @ rest)
            best[columns] = part
    best /= size
    return best
