"""array-api-strict: the referee. Nothing is filled in, so it runs exactly what the generic Backend runs."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np

from taylorshift_core import Backend


def to_numpy(array: Any) -> Any:
    """Return a NumPy array; those of other devices than the CPU's do not convert by themselves."""
    return np.asarray(array.to_device(array_api_strict.Device("CPU_DEVICE")))


BACKEND = Backend(
    name="array_api_strict",
    namespace=array_api_strict,
    to_numpy=to_numpy,
    devices=lambda: (array_api_strict.Device("CPU_DEVICE"), array_api_strict.Device("device1")),
)
