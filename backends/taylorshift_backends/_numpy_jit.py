"""The decorators of what numba compiles, and the name under which it keeps the machine code for the next process.

Numba compiles again when the file of a function changes, but not when a kernel in another file does, and an upgrade may
leave both at the same time stamp. So the sources of all these files are part of the name.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
from numba import types

if TYPE_CHECKING:
    from collections.abc import Callable

_sources = sorted(Path(__file__).parent.glob("_numpy_*.py"))
_DIGEST = hashlib.sha256(b"".join(source.read_bytes() for source in _sources)).hexdigest()[:16]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function that holds no lock of the interpreter."""
    return _kept(numba.njit, function, nogil=True)


def compiled_in_any_order(function: Callable[..., Any]) -> Any:
    """Compile a function whose sums may be taken in any order, so that they become vectors."""
    return _kept(numba.njit, function, nogil=True, fastmath={"contract", "reassoc"})


def called_by_address(function: Callable[[int], None]) -> Any:
    """Compile a function of one address, whose own is its attribute `address`."""
    return _kept(numba.cfunc, function, types.void(types.int64))


def job(write: Callable[[Any], Callable[[Any, Any], None]]) -> Callable[[Any], int]:
    """Return the function that tells, by dtype, the address of the code of what `write` returns: compiled when asked for.

    The code takes two integers, see `_numpy_crew`.
    """

    @cache
    def code(dtype: Any) -> Any:
        return _kept(numba.cfunc, write(dtype.type), types.void(types.int64, types.int64))

    return lambda dtype: code(dtype).address


def _kept(compiler: Callable[..., Any], function: Callable[..., Any], *signature: Any, **options: Any) -> Any:
    """Compile a function, and keep the code for other processes."""
    function.__qualname__ = f"{function.__qualname__}_{_DIGEST}"
    try:
        return compiler(*signature, cache=True, **options)(function)
    except RuntimeError:  # no folder that it could be kept in may be written: then each process compiles for itself
        return compiler(*signature, **options)(function)
