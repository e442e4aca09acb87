"""The decorators of what numba compiles, and the name under which it keeps the machine code for the next process.

Numba compiles again when the file of a function changes, but not when a kernel in another file does, and an upgrade may
leave both at the same time stamp. So the sources of all these files are part of the name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

_sources = sorted(Path(__file__).parent.glob("_numpy_*.py"))
_DIGEST = hashlib.sha256(b"".join(source.read_bytes() for source in _sources)).hexdigest()[:16]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function that holds no lock of the interpreter."""
    return _compile(function)


def compiled_in_any_order(function: Callable[..., Any]) -> Any:
    """Compile a function whose sums may be taken in any order, so that they become vectors."""
    return _compile(function, fastmath={"contract", "reassoc"})


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    function.__qualname__ = f"{function.__qualname__}_{_DIGEST}"
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder that it could be kept in may be written: then each process compiles for itself
        return numba.njit(nogil=True, **options)(function)
