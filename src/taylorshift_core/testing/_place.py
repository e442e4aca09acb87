"""One dtype on one device of the library that is checked: how arrays get there, and back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core._namespace import device_of

if TYPE_CHECKING:
    from taylorshift_core._backend import Backend
    from taylorshift_core.testing._problems import Problem

Array = Any
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # the spacing at 1


@dataclass(frozen=True)
class Place:
    """Where a problem is put; `device` is None for the library's own choice."""

    backend: Backend
    dtype: str
    device: Any

    @property
    def exists(self) -> bool:
        """Whether the library has this dtype on this device."""
        if self._kind(self.dtype) is None:
            return False
        with warnings.catch_warnings(action="ignore"):  # JAX warns where it gives less
            try:
                return bool(self.array(np.zeros(1)).dtype == self._kind(self.dtype))
            except Exception:  # noqa: BLE001  each library has its own way to say no
                return False

    def array(self, array: Any) -> Array:
        """Return a NumPy array as the library's: floating point in this dtype, masks as they are."""
        if array.dtype == np.bool_:
            return self.backend.from_numpy(array, device=self.device)
        known = getattr(np, self.dtype, np.float32)
        made = self.backend.from_numpy(array.astype(known), device=self.device)
        kind = self._kind(self.dtype)
        with self.backend.scope(made):
            return made if made.dtype == kind else self.backend.namespace.astype(made, kind)

    def given(self, problem: Problem, *, behind_masks: float | None = None) -> dict[str, Array]:
        """Return all arrays and masks of a problem, with a number in the rows that no query may see."""
        arrays = dict(problem.arrays)
        hidden = problem.hidden()
        if behind_masks is not None and hidden is not None:
            arrays |= {name: np.where(hidden[..., None], behind_masks, arrays[name]) for name in ("key", "value")}
        return {name: self.array(np.asarray(each)) for name, each in (arrays | problem.masks).items()}

    def exact(self, array: Array) -> Any:
        """Return an array in float64 NumPy, or as it is when boolean."""
        xp = self.backend.namespace
        if array.dtype == xp.bool:
            return np.asarray(self.backend.to_numpy(array))
        wide = array.dtype in (self._kind("float64"), self._kind("float32"))
        with self.backend.scope(array):
            array = self.backend.wait(array if wide else xp.astype(array, xp.float32))
        return np.asarray(self.backend.to_numpy(array)).astype(np.float64)

    def faults(self, actual: Array, like: Array, shape: tuple[int, ...], *, summed: bool = False) -> str:
        """Say in what `actual` is not of the library, dtype and device of `like`, and of that shape; "" if in nothing.

        What is `summed` may also be in the precision of the sums.
        """
        if type(actual) is not type(like):
            return f"is a {type(actual).__module__}.{type(actual).__name__}, not a {type(like).__name__}"
        xp = self.backend.namespace
        dtypes = [like.dtype, *([self.backend.working_dtype(xp, like.dtype)] if summed else [])]
        pairs = {
            "shape": (tuple(actual.shape), [shape]),
            "dtype": (actual.dtype, dtypes),
            "device": (device_of(actual), [device_of(like)]),
        }
        return ", ".join(f"has {name} {got}, not {ok[0]}" for name, (got, ok) in pairs.items() if got not in ok)

    def _kind(self, dtype: str) -> Any:
        return getattr(self.backend.namespace, dtype, None)
