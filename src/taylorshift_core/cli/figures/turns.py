"""Timing of functions that take turns, so that what the machine does meanwhile falls on all alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAUSE = 0.1  # seconds: threads of BLAS and OpenMP go on asking for work for a while, on cores that the next one needs
BURST = 3  # calls in a row at least, of which the last counts: threads that have gone to sleep are awake by then
SETTLE = 0.05  # seconds of calls in a row: until then two threads that wake may share one core of a virtual machine


def take_turns(
    runs: Sequence[Callable[[], Any]],
    *,
    seconds: float = 2.0,
    fewest: int = 5,
    most: int = 40,
    pause: float = PAUSE,
    bursts: Sequence[int] | None = None,
    settle: float = SETTLE,
) -> np.ndarray[Any, Any]:
    """Return the seconds of each run (columns) in each round (rows), after one round that does not count.

    A turn is a burst of calls after a pause, so that neither the threads of the one before nor one's own that have to be
    woken are in what is measured. `bursts` says how many calls those of each run are at least, by default three; calls
    that are short go on for `settle` seconds.
    """
    for run in runs:
        run()
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < fewest or (len(rounds) < most and time.perf_counter() < end):
        row = []
        for run, burst in zip(runs, bursts or [BURST] * len(runs), strict=True):
            time.sleep(pause)
            begin = start = time.perf_counter()
            calls = 0
            while calls < burst or (calls > 1 and start - begin < settle):
                start, calls = time.perf_counter(), calls + 1
                run()
            row.append(time.perf_counter() - start)
        rounds.append(row)
    return np.asarray(rounds)
