"""Keys and values from files of other libraries, sliced as they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from taylorshift_core import State, summarise, summarise_chunks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LENGTH = 230
Array = np.ndarray[Any, Any]


def _mapped(path: Path, array: Array) -> Any:
    np.save(path.with_suffix(".npy"), array)
    return np.load(path.with_suffix(".npy"), mmap_mode="r")


def _zarr(path: Path, array: Array) -> Any:
    import zarr

    made = zarr.create_array(path, shape=array.shape, chunks=(1, 50, array.shape[-1])[-array.ndim :], dtype=array.dtype)
    made[...] = array
    return zarr.open_array(path, mode="r")


def _h5py(path: Path, array: Array) -> Any:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("tokens", data=array, chunks=True)
    return h5py.File(path, "r")["tokens"]


def _blosc2(path: Path, array: Array) -> Any:
    import blosc2

    blosc2.asarray(array, urlpath=str(path))
    return blosc2.open(str(path), mode="r")


KINDS: dict[str, Callable[[Path, Array], Any]] = {"memmap": _mapped, "zarr": _zarr, "h5py": _h5py, "blosc2": _blosc2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_source_gives_the_sums_of_its_chunks(tmp_path: Path, kind: str, masked: bool) -> None:
    """To the bit, with a mask from a file too; the last chunk is short. What is done stands in the checkpoint."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, LENGTH, n), dtype=np.float32) for n in (5, 3)]
    mask = rng.random(LENGTH) < 0.7
    source = [KINDS[kind](tmp_path / f"{i}", array) for i, array in enumerate(arrays)]
    of_keys = KINDS[kind](tmp_path / "mask", mask) if masked else None
    expected = [
        summarise(*(x[:, first : first + 40] for x in arrays), key_mask=mask[first : first + 40] if masked else None)
        for first in range(0, LENGTH, 40)
    ]
    options: dict[str, Any] = {"key_mask": of_keys, "chunk_length": 40, "checkpoint": tmp_path / "sums"}
    state = summarise_chunks(*source, **options)
    assert isinstance(state.sums, np.ndarray)
    np.testing.assert_array_equal(state.sums, sum(expected).sums)  # type: ignore[union-attr]
    np.testing.assert_array_equal(State.load(tmp_path / "sums").sums, state.sums)
    assert summarise_chunks(*source, **(options | {"checkpoint": None, "chunk_length": None})).token_count.tolist() == (
        [mask.sum() if masked else LENGTH] * 2
    )
