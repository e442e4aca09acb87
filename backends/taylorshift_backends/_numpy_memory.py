"""Memory that starts on a cache line: unaligned, each vector store would touch two, and features take twice as long."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

Array = Any
_LINE = 64  # bytes
_kept = threading.local()


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an uninitialised array."""
    n_bytes = math.prod(shape) * dtype.itemsize
    return _aligned_bytes(n_bytes)[:n_bytes].view(dtype).reshape(shape)


def buffer(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return uninitialised memory that this thread gets again at the next call with that name."""
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = getattr(_kept, name, None)
    if memory is None or not n_bytes <= memory.nbytes <= max(4 * n_bytes, 1 << 20):
        memory = _aligned_bytes(n_bytes)
        setattr(_kept, name, memory)
    return memory[:n_bytes].view(dtype).reshape(shape)


def _aligned_bytes(n_bytes: int) -> Array:
    memory = np.empty(n_bytes + _LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + n_bytes]
