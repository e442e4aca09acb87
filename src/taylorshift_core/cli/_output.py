"""Files that are written: never over an existing one unasked, and under their name only when they are whole."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from taylorshift_core.cli._errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


def check_output(path: Path, suffixes: Collection[str], *, force: bool) -> None:
    """Raise unless a file of that name and kind may be written; asked before any work."""
    if path.suffix.lower() not in suffixes:
        msg = f"{path}: the name of this output must end in {' or '.join(suffixes)}"
        raise CommandError(msg)
    if not path.parent.is_dir():
        msg = f"{path}: the folder {path.parent} does not exist"
        raise CommandError(msg)
    if path.is_dir() or (path.exists() and not force):
        msg = f"{path} is a folder" if path.is_dir() else f"{path} exists already; --force overwrites it"
        raise CommandError(msg)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write into; it takes that name at the end, or goes away if anything fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def npy_writer(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NpyWriter]:
    """Give a writer of the tiles of an .npy file of known shape."""
    with replacing(path) as part, part.open("xb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield NpyWriter(file, shape, dtype)


class NpyWriter:
    """Writes tiles to their places in an .npy file, which ordinary file writes do: a full disk is then an error.

    (Writing through a memory map kills the process instead.)
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._file, self._shape, self._dtype = file, shape, dtype
        self._start = file.tell()

    def write(self, index: tuple[int, ...], first: int, tile: np.ndarray[Any, Any]) -> None:
        """Write ``array[*index, ..., first:, :] = tile``, whose axes before the last two come after `index`."""
        if tile.size == 0:
            return
        for lead in np.ndindex(tile.shape[:-2]):
            place = int(np.ravel_multi_index((*index, *lead, first, 0), self._shape))
            self._file.seek(self._start + place * self._dtype.itemsize)
            self._file.write(np.ascontiguousarray(tile[lead], self._dtype).data)
