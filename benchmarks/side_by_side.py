"""Ratios of times of functions that take turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core.cli.figures.turns import take_turns

if TYPE_CHECKING:
    from collections.abc import Callable


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


def ratio(above: Callable[[], Any], below: Callable[[], Any], **limits: Any) -> Ratio:
    """Return how many times as long the first takes as the second."""
    return ratio_of(*take_turns([above, below], **limits).T)


def ratio_of(above: Any, below: Any) -> Ratio:
    """Return the ratio of seconds that two runs took in the same rounds."""
    low, median, high = np.quantile(np.asarray(above) / np.asarray(below), (0.25, 0.5, 0.75))
    return Ratio(float(low), float(median), float(high))
