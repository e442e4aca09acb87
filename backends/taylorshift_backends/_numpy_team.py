"""The threads of an OpenMP runtime that another library has brought into the process, for compiled work of ours.

They go on spinning for milliseconds after each operator of PyTorch, so that a worker of our own would find no processor
free. Work that is given to them by the thread that they serve, they take up at once.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

try:
    from threadpoolctl import ThreadpoolController
except ImportError:
    ThreadpoolController = None

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Team:
    """The address of ``GOMP_parallel (function, data, threads, flags)``, and how many threads its teams usually have."""

    parallel: int
    size: Callable[[], int]


def find_team() -> Team | None:
    """Return the team of a runtime that is loaded and can be asked so: those of GCC, and of LLVM and Intel on Linux."""
    found = ThreadpoolController().select(user_api="openmp").lib_controllers if ThreadpoolController else []
    for library in found:
        parallel = ctypes.cast(getattr(library.dynlib, "GOMP_parallel", 0), ctypes.c_void_p).value
        if parallel:
            return Team(parallel, library.get_num_threads)
    return None
