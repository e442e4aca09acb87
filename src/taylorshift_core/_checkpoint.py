"""A sum that survives interruptions: the state so far in a file, with how far it is and of what."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taylorshift_core import _state_file
from taylorshift_core._kinds import refuse_differences, weightings
from taylorshift_core._namespace import device_of
from taylorshift_core._registry import backend_of
from taylorshift_core._state import State

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from taylorshift_core._checks import Weighting

Array = Any


@dataclass(frozen=True)
class Checkpoint:
    """Where a sum over chunks is kept, and of what it is: the first chunk stands for all."""

    path: Path
    weighting: Weighting
    chunk_length: int | None
    key_length: int | None
    first_chunk: str

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        weighting: Weighting,
        chunk_length: int | None,
        key_length: int | None,
        first: Sequence[Array],
    ) -> Checkpoint:
        """Return the checkpoint of a sum whose first chunk is `first`; lengths are None where they are not known."""
        checksum = 0
        for array in first:
            contents = backend_of(chunk=array).to_numpy(array)
            checksum = zlib.crc32(f"{contents.dtype} {contents.shape}".encode() + contents.tobytes(), checksum)
        return cls(Path(path), weighting, chunk_length, key_length, f"{checksum:08x}")

    def resume(self, like: Array) -> tuple[State | None, int]:
        """Return the state so far, on the device of `like`, and how many chunks it holds; (None, 0) at the beginning."""
        if not self.path.exists():
            return None, 0
        sums, settings, notes = _state_file.read(self.path)
        received = backend_of(chunk=like).from_numpy(sums, device=device_of(like))
        state = State(received, settings["head_dim"], _state_file.weighting_of(settings))
        pairs = weightings(state.weighting, self.weighting) | {
            "chunk_length": (notes.get("chunk_length"), self.chunk_length),
            "key_length": (notes.get("key_length"), self.key_length),
            "checksum of the first chunk": (notes.get("first_chunk"), self.first_chunk),
        }
        refuse_differences(f"checkpoint {self.path} must be of the same keys, values and settings, or removed", pairs)
        return state, notes["chunks"]

    def save(self, state: State, chunks: int) -> None:
        """Write the state of so many chunks; the file is at any moment whole."""
        notes = {
            "chunks": chunks,
            "chunk_length": self.chunk_length,
            "key_length": self.key_length,
            "first_chunk": self.first_chunk,
        }
        sums = backend_of(state=state.sums).to_numpy(state.sums)
        _state_file.write(self.path, sums, _state_file.settings_of(state), notes, overwrite=True)
