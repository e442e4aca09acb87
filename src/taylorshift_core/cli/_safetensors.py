"""Arrays in a .safetensors file: a JSON header with the place of each array, then their bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core.cli._errors import CommandError
from taylorshift_core.cli._npy import damaged, map_array

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LENGTH_BYTES = 8
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip


def read_safetensors(path: Path, wanted: tuple[str, ...]) -> Mapping[str, np.ndarray[Any, Any] | None]:
    """Return the arrays of a .safetensors file by name, memory-mapped, None for those that are not `wanted`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        data = _LENGTH_BYTES + length
        if data > size:
            raise damaged(path, f"its header should have {length} bytes and the file has {size}")
        header = file.read(length)
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        return {name: _map(path, name, entry, data) if name in wanted else None for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, "not a .safetensors header") from error


def _map(path: Path, name: str, entry: Mapping[str, Any], data: int) -> np.ndarray[Any, Any]:
    if entry["dtype"] not in _DTYPES:
        msg = f"{path}: {name} has dtype {entry['dtype']}, which NumPy does not have; save it as F32 or F16"
        raise CommandError(msg)
    begin, end = entry["data_offsets"]
    shape = tuple(int(axis) for axis in entry["shape"])
    end = min(data + end, path.stat().st_size)
    return map_array(path, np.dtype(_DTYPES[entry["dtype"]]), shape, data + begin, end)
