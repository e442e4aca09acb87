"""A job of compiled steps that counts how often each item was done, for tests of the threads that do them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_crew import operand, operands_at
from taylorshift_backends._numpy_jit import job

if TYPE_CHECKING:
    from taylorshift_backends._numpy_crew import Crew

ITEMS = 50


@job
def _count_up(kind: Any) -> Any:
    """Add one to the number of an item."""

    def count_up(address: int, item: int) -> None:
        counts = operand(operands_at(address), 0, item, kind)
        counts[0, 0] += 1

    return count_up


def done(crew: Crew, threads: int) -> np.ndarray:
    """Return how often each item was done."""
    counts = np.zeros((ITEMS, 1, 1))
    crew.do(_count_up(counts.dtype), ITEMS, threads, (counts,), (1,))
    return counts[:, 0, 0]
