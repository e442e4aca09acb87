"""A state in a file: .safetensors, of one array and a few settings, checked to the last byte when it is read.

The format is eight bytes with the length of a header, the header in JSON, and the bytes of the arrays; any reader of
.safetensors takes it. Nothing in it is executed.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taylorshift_core._checks import Weighting
from taylorshift_core._registry import load_backend
from taylorshift_core.errors import OptionError, StateFileError

if TYPE_CHECKING:
    from taylorshift_core._state import State

FORMAT, VERSION = "taylorshift_core.State", "1"
_ARRAY = "sums"
_DTYPES = {"F32": "float32", "F64": "float64"}
_LENGTH_BYTES = 8


def write(
    path: str | os.PathLike[str],
    sums: Any,
    settings: dict[str, Any],
    notes: dict[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a NumPy array, its settings and perhaps notes to a file that is at any moment the old one or the new one."""
    target = Path(path)
    if not overwrite and target.exists():
        msg = f"path must be that of a new file; got {target}, which exists. Pass overwrite=True to replace it."
        raise OptionError(msg)
    codes = {name: code for code, name in _DTYPES.items()}
    data = sums.astype(sums.dtype.newbyteorder("<")).tobytes()
    array = {"dtype": codes[str(sums.dtype)], "shape": list(sums.shape), "data_offsets": [0, len(data)]}
    described = {
        "format": FORMAT,
        "version": VERSION,
        "settings": json.dumps(settings),
        "notes": json.dumps(notes or {}),
    }
    metadata = described | {"checksum": _checksum(described, array, data)}
    header = json.dumps({"__metadata__": metadata, _ARRAY: array}).encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)
    _replace(target, len(header).to_bytes(_LENGTH_BYTES, "little") + header + data)


def _replace(target: Path, content: bytes) -> None:
    """Write beside the target and move there: whoever is killed on the way leaves the old file whole."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return the NumPy array, the settings and the notes of a file that `write` wrote.

    Raises
    ------
    StateFileError
        If it is anything else, or not whole.
    """
    content = Path(path).read_bytes()
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header, data = content[_LENGTH_BYTES : _LENGTH_BYTES + length], content[_LENGTH_BYTES + length :]
    if len(content) < _LENGTH_BYTES or len(header) < length:
        raise _refused(path, f"{len(content)} bytes, fewer than its header should have")
    try:
        metadata, array = _parse(json.loads(header))
        version, dtype = metadata["version"], _DTYPES[array["dtype"]]
        whole = array["data_offsets"] == [0, len(data)] and metadata["checksum"] == _checksum(metadata, array, data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(path, "a file without the header of a state") from error
    if version != VERSION:
        raise _refused(path, f"version {version}, which this release cannot read")
    if not whole:
        raise _refused(path, f"{len(data)} bytes of sums that are not those its header speaks of")
    numpy: Any = load_backend("numpy").namespace
    sums = numpy.frombuffer(data, dtype=numpy.dtype(dtype).newbyteorder("<"))
    sums = numpy.reshape(sums, array["shape"]).astype(dtype)
    return sums, json.loads(metadata["settings"]), json.loads(metadata["notes"])


def _parse(header: Any) -> tuple[dict[str, str], dict[str, Any]]:
    metadata, array = header["__metadata__"], header.get(_ARRAY)
    if metadata["format"] != FORMAT:
        raise KeyError(FORMAT)
    return metadata, array


def _checksum(metadata: dict[str, str], array: dict[str, Any], data: bytes) -> str:
    """Return the checksum of all that makes the state."""
    described = metadata["settings"] + metadata["notes"] + json.dumps([array["dtype"], array["shape"]])
    return f"{zlib.crc32(data, zlib.crc32(described.encode())):08x}"


def _refused(path: str | os.PathLike[str], found: str) -> StateFileError:
    msg = f"{os.fspath(path)} must be a whole file that State.save wrote; got {found}. Save the state again."
    return StateFileError(msg)


def settings_of(state: State) -> dict[str, Any]:
    """Return what a state knows beside its sums, in numbers and words."""
    weighting = state.weighting
    return {
        "head_dim": state.head_dim,
        "beta": weighting.beta,
        "gamma": weighting.gamma,
        "normalise": weighting.normalise,
    }


def weighting_of(settings: dict[str, Any]) -> Weighting:
    """Return the weighting among the settings of a state."""
    return Weighting(settings["beta"], settings["gamma"], settings["normalise"])
