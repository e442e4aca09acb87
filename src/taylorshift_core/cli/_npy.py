"""Arrays in files, memory-mapped where they stand: what .npy, .npz and .safetensors have in common."""

from __future__ import annotations

import math
import tokenize
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from taylorshift_core.cli._errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    Array = np.ndarray[Any, Any]

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MALFORMED = (ValueError, TypeError, SyntaxError, RecursionError, tokenize.TokenError)  # what NumPy's readers let out


def damaged(path: Path, what: object) -> CommandError:
    """Return the error of a file that breaks off or is not what its name says."""
    return CommandError(f"{path}: {what}; the file may be truncated or damaged")


def map_array(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], start: int, end: int, order: Literal["C", "F"] = "C"
) -> Array:
    """Return the array whose bytes begin at `start` of a file and must not reach past `end`; nothing is read yet."""
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + size > end:
        raise damaged(
            path, f"an array of shape {shape} and dtype {dtype} needs {size} bytes and {end - start} are there"
        )
    if size == 0:  # which NumPy before 2.2 could not map everywhere
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, order).view(np.ndarray)


def map_npy(path: Path, start: int = 0, size: int | None = None) -> Array:
    """Return the array of a file in .npy format, or of `size` bytes from `start` inside a larger file."""
    end = path.stat().st_size if size is None else min(start + size, path.stat().st_size)
    with path.open("rb") as file:
        file.seek(start)
        shape, fortran, dtype = read_header(path, file)
        return map_array(path, dtype, shape, file.tell(), end, "F" if fortran else "C")


def read_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of .npy format from a file inside `path`: shape, whether in Fortran order, and dtype."""
    try:
        reader = _HEADER_READERS.get(np.lib.format.read_magic(file))
        if reader is None:
            raise damaged(path, "its version of the .npy format is for structured arrays only")
        shape, fortran, dtype = reader(file)
    except _MALFORMED as error:
        raise damaged(path, f"not a whole .npy array ({error})") from error
    if dtype.hasobject:
        msg = f"{path}: holds pickled Python objects (dtype object), which are never loaded"
        raise CommandError(msg)
    return shape, fortran, dtype
