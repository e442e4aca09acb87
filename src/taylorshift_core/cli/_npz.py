"""Arrays in an .npz file: a zip archive of .npy files."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core.cli._npy import damaged, map_npy, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LOCAL_HEADER = struct.Struct("<26xHH")  # ends with the lengths of the name and of the extra field that follow it
_ENCRYPTED = 1
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, struct.error)


def read_npz(path: Path, wanted: tuple[str, ...]) -> Mapping[str, np.ndarray[Any, Any] | None]:
    """Return the arrays of an .npz file by name, None for those that are not `wanted`.

    Arrays that were stored as they are (`numpy.savez`) are memory-mapped; compressed ones are read whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            return {name: _read(path, archive, info) if name in wanted else None for name, info in members.items()}
    except _UNREADABLE as error:
        raise damaged(path, f"not a whole .npz archive ({error})") from error


def _read(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & _ENCRYPTED:
        return map_npy(path, _data_start(path, info), info.file_size)
    with archive.open(info) as member:
        read_header(path, member)
    with archive.open(info) as member:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(member, allow_pickle=False)
    return array


def _data_start(path: Path, info: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)
