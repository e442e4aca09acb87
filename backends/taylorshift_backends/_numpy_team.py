"""The threads of the OpenMP runtime that another library works with, for compiled work of ours.

PyTorch's go on spinning for milliseconds after each of its operators, so that a worker of our own would find no processor
free. Work that is given to them by the thread that they serve, they take up at once.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
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


def find_team(owner: str) -> Team | None:
    """Return the team of the runtime that a module works with, if it can be asked so: GCC's, and LLVM's and Intel's on Linux.

    There may be several runtimes in a process, and only the threads of its own are spinning: that beside it, or else the
    first, which may be one for all.
    """
    found = ThreadpoolController().select(user_api="openmp").lib_controllers if ThreadpoolController else []
    folder = Path(sys.modules[owner].__file__ or "").parent
    for library in sorted(found, key=lambda each: not Path(each.filepath).is_relative_to(folder)):
        parallel = ctypes.cast(getattr(library.dynlib, "GOMP_parallel", 0), ctypes.c_void_p).value
        if parallel:
            return Team(parallel, library.get_num_threads)
    return None
