"""The problems that `taylorshift calibrate` measures, and the prices that follow."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import explain
from taylorshift_core.cli._fit import FEWEST, fit_prices
from taylorshift_core.cli._measure import FORMS, draw, runner, time_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core import Backend, Plan
    from taylorshift_core._calibration import Key
    from taylorshift_core._costs import Prices, Work


@dataclass(frozen=True)
class Case:
    """A problem to measure both forms on."""

    heads: int
    length: int
    head_dim: int
    key_length: int | None = None  # as `length`
    kv_heads: int | None = None  # as `heads`
    value_dim: int | None = None  # as `head_dim`
    is_causal: bool = False
    masked: bool = False

    def draw(self, dtype: str) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
        """Return query, key and value in NumPy, and the options."""
        keys, kv_heads = self.key_length or self.length, self.kv_heads or self.heads
        shapes = (
            (self.heads, self.length, self.head_dim),
            (kv_heads, keys, self.head_dim),
            (kv_heads, keys, self.value_dim or self.head_dim),
        )
        options: dict[str, Any] = {"is_causal": self.is_causal} if self.is_causal else {}
        return draw(shapes, dtype), options | ({"key_mask": np.arange(keys) % 7 > 0} if self.masked else {})


# Most lie near a crossover, where the choice is close. The first few hold every kind of work, and any first part
# spans the sizes: on a slow library, the last are not reached.
CASES = (
    Case(4, 256, 16),
    Case(4, 1024, 32),
    Case(8, 64, 32),
    Case(2, 2048, 64),
    Case(4, 512, 32, is_causal=True),
    Case(1, 16, 64),
    Case(4, 1024, 16),
    Case(1, 128, 32, key_length=2048),
    Case(8, 512, 16, kv_heads=2),
    Case(4, 512, 8),
    Case(2, 300, 64),
    Case(4, 350, 32),
    Case(2, 1024, 16, is_causal=True),
    Case(8, 64, 8),
    Case(1, 1024, 128),
    Case(4, 1024, 64),
    Case(1, 2048, 64, key_length=128),
    Case(8, 128, 16),
    Case(4, 128, 64, value_dim=32),
    Case(2, 600, 64, is_causal=True),
    Case(8, 16, 16),
    Case(4, 700, 32, masked=True),
    Case(8, 2048, 32, kv_heads=2),
    Case(1, 3000, 64),
    Case(4, 150, 8),
    Case(4, 128, 16, is_causal=True),
    Case(1, 2048, 16, value_dim=64),
    Case(1, 4096, 32),
)


@dataclass
class Speeds:
    """What was measured of one backend in one dtype: work and seconds of each form."""

    key: Key | None = None
    pairs: dict[str, list[tuple[Work, float]]] = field(default_factory=lambda: {form: [] for form in FORMS})

    @property
    def count(self) -> int:
        """How many problems."""
        return len(self.pairs[FORMS[0]])

    def prices(self) -> dict[str, Prices] | None:
        """Return what follows from them, None from too few."""
        return fit_prices(self.pairs) if self.count >= FEWEST else None

    def deviation(self, prices: dict[str, Prices]) -> float:
        """Return the typical relative difference of what prices predict from what was measured."""
        return median(
            abs(prices[form].seconds(work) / seconds - 1) for form in FORMS for work, seconds in self.pairs[form]
        )


def measure_speeds(
    backend: Backend, dtype: str, cases: Sequence[Case], repeats: int, until: float, advance: Callable[[], None]
) -> Speeds:
    """Measure both forms of the cases, one after the other, and stop at the time `until` of the clock."""
    speeds = Speeds()
    for case in cases:
        if time.perf_counter() < until:
            plans, seconds = _both_forms(backend, dtype, case, repeats)
            first = plans[FORMS[0]]
            speeds.key = backend.prices, first.device, f"float{8 * first.itemsize}"
            for form in FORMS:
                speeds.pairs[form].append((plans[form].work, seconds[form]))
        advance()
    return speeds


def _both_forms(backend: Backend, dtype: str, case: Case, repeats: int) -> tuple[dict[str, Plan], dict[str, float]]:
    arrays, options = case.draw(dtype)
    inputs = [backend.from_numpy(array) for array in arrays]
    on_device = {name: backend.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    # On this backend itself: one that stands in for it has prices of its own.
    plans = {form: explain(*inputs, form=form, **on_device).on(backend) for form in FORMS}
    return plans, {
        form: _seconds(runner(backend, arrays, plan=plan, **options), repeats) for form, plan in plans.items()
    }


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the time of a call: the median of several, after one that does not count."""
    run()
    seconds = median(time_runs(run, repeats, lambda: None))
    return max(seconds, math.ulp(1.0))  # a clock may not have moved
