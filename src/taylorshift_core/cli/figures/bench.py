"""What figures measure with: who takes part, how much, and the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT
from taylorshift_core.cli.figures.decoders import DECODERS
from taylorshift_core.cli.figures.memory import peak_in_processes
from taylorshift_core.cli.figures.trainers import TRAINERS
from taylorshift_core.cli.figures.turns import BURST, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taylorshift_core.cli.figures.contestants import Contestant
    from taylorshift_core.cli.figures.decoders import Start
    from taylorshift_core.cli.figures.effort import Effort
    from taylorshift_core.cli.figures.figure import Row
    from taylorshift_core.cli.figures.trainers import Train

    Memory = Callable[[str, Sequence[Case]], Sequence[float]]

DTYPE = "float32"
_LONG = 0.03  # seconds of a call that wakes its own threads, so that no burst is needed


@dataclass(frozen=True)
class Bench:
    """What to measure, and with whom.

    Parameters
    ----------
    effort
        Sizes and times.
    contestants
        Those whose time is drawn against length, heads and head_dim; both forms on NumPy are among them.
    everyone
        All who are compared at one size.
    memory
        From the name of a contestant and cases to the most bytes it holds beyond input and output in each.
    remembered
        Names of the contestants whose memory is drawn.
    decoders, trainers
        By name, what starts a step of decoding behind so many tokens, or a forward and backward pass.
    pause
        Seconds between turns; libraries with threads of their own need some.
    """

    effort: Effort
    contestants: Sequence[Contestant]
    everyone: Sequence[Contestant]
    memory: Memory = peak_in_processes
    remembered: Sequence[str] = (EFFICIENT, DIRECT)
    decoders: Mapping[str, Start] = field(default_factory=lambda: DECODERS)
    trainers: Mapping[str, Train] = field(default_factory=lambda: TRAINERS)
    pause: float = 0.01

    def warm_up(self) -> None:
        """Compute a small problem in every way that is compared, so that what is compiled is not in what is measured."""
        arrays, options = Case(2, 512, 16).draw(DTYPE)
        for each in self.contestants:
            each.start(arrays, options)()
            if each.library == "numpy":
                for dtype in self.effort.error_dtypes:
                    each.start([array.astype(dtype) for array in arrays], options)()
        for train in self.trainers.values():
            train(arrays)()
        for start in self.decoders.values():
            start(16)[0]()

    def time(self, runs: Mapping[str, Callable[[], Any]], **about: Any) -> list[Row]:
        """Return a row for each of the functions: quartiles of its times in seconds, and what the point is about."""
        once = [_seconds(run) for run in runs.values()]
        bursts = [1 if seconds > _LONG else BURST for seconds in once]
        effort = self.effort
        rounds = take_turns(
            list(runs.values()),
            seconds=effort.turn,
            fewest=effort.fewest,
            most=effort.most,
            pause=self.pause,
            bursts=bursts,
        )
        quartiles = np.quantile(rounds, (0.25, 0.5, 0.75), axis=0).T
        return [
            {"contestant": name, **about, "low": low, "median": median, "high": high, "rounds": len(rounds)}
            for name, (low, median, high) in zip(runs, quartiles.tolist(), strict=True)
        ]

    def compare(self, contestants: Sequence[Contestant], case: Case) -> list[Row]:
        """Return the rows of those who can take a case, each checked against its definition before it is timed."""
        arrays, options = case.draw(DTYPE)
        runs, errors = {}, {}
        for each in contestants:
            if each.takes(case):
                runs[each.name] = each.start(arrays, options)
                errors[each.name] = each.check(runs[each.name], arrays, options)
        about = {"heads": case.heads, "head_dim": case.head_dim, "length": case.length}
        return [row | {"error": errors[row["contestant"]]} for row in self.time(runs, **about)]


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
