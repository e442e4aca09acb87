"""What a piece of code makes the devices do; and a ban on copies to the host."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from gpu_without_gpu.activate import library

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Traffic:
    """Numbers of events on all devices together; products of matrices count as launches. The fields are memory.h's.

    `bytes_in_use` is what was allocated and not freed, `peak_bytes` the most there was of it at one time.
    """

    copies_to_host: int = 0
    copies_to_device: int = 0
    copies_on_device: int = 0
    synchronisations: int = 0
    launches: int = 0
    launches_on_default_stream: int = 0
    allocations: int = 0
    bytes_in_use: int = 0
    peak_bytes: int = 0


_FIELDS = tuple(field.name for field in fields(Traffic))


class _Counters(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in _FIELDS)


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Give an object that holds, after the block, what happened inside. Blocks do not nest."""
    counters = _Counters.in_dll(library(), "gpu_counters")
    counters.peak_bytes = counters.bytes_in_use
    before = {name: getattr(counters, name) for name in _FIELDS}
    seen = Traffic()
    try:
        yield seen
    finally:
        for name in _FIELDS:
            setattr(seen, name, getattr(counters, name) - before[name])


@contextmanager
def forbid_copies_to_host() -> Iterator[None]:
    """Raise CUDARuntimeError (NotPermitted) at the line of `float(x)`, `if x:`, `x.get()` and the like."""
    switch = ctypes.c_int.in_dll(library(), "gpu_forbid_copies_to_host")
    switch.value = 1
    try:
        yield
    finally:
        switch.value = 0
