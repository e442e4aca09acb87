"""Ratios of times of functions that take turns, so that what the machine does meanwhile falls on all alike."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_PAUSE = 0.1  # seconds: threads of BLAS and OpenMP go on asking for work for a while, on cores that the next one needs
_BURST = 3  # calls in a row, of which the last counts: threads that have gone to sleep are awake by then


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of the ratios of the rounds."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

    def times(self, factor: float) -> Ratio:
        """Return the ratio in another unit."""
        return Ratio(self.low * factor, self.median * factor, self.high * factor)


def take_turns(
    runs: Sequence[Callable[[], Any]], *, seconds: float = 2.0, fewest: int = 5, most: int = 40
) -> np.ndarray[Any, Any]:
    """Return the seconds of each run (columns) in each round (rows), after one round that does not count.

    A turn is a short burst of calls after a pause, so that neither the threads of the one before nor one's own that have
    to be woken are in what is measured.
    """
    for run in runs:
        run()
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < fewest or (len(rounds) < most and time.perf_counter() < end):
        row = []
        for run in runs:
            time.sleep(_PAUSE)
            for _ in range(_BURST):
                start = time.perf_counter()
                run()
            row.append(time.perf_counter() - start)
        rounds.append(row)
    return np.asarray(rounds)


def ratio(above: Callable[[], Any], below: Callable[[], Any], **limits: Any) -> Ratio:
    """Return how many times as long the first takes as the second."""
    return ratio_of(*take_turns([above, below], **limits).T)


def ratio_of(above: Any, below: Any) -> Ratio:
    """Return the ratio of seconds that two runs took in the same rounds."""
    low, median, high = np.quantile(np.asarray(above) / np.asarray(below), (0.25, 0.5, 0.75))
    return Ratio(float(low), float(median), float(high))
