"""Attention problems in files, in every kind of file that `taylorshift attend` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Arrays = Mapping[str, np.ndarray]


def _npz(folder: Path, arrays: Arrays) -> list[str]:
    np.savez(folder / "in.npz", **arrays)
    return [str(folder / "in.npz")]


def _compressed(folder: Path, arrays: Arrays) -> list[str]:
    np.savez_compressed(folder / "in.npz", **arrays)
    return [str(folder / "in.npz")]


def _safetensors(folder: Path, arrays: Arrays) -> list[str]:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "in.safetensors")
    return [str(folder / "in.safetensors")]


def _npy(folder: Path, arrays: Arrays) -> list[str]:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    words = [str(folder / f"{name}.npy") for name in ("query", "key", "value")]
    return words + (["--key-mask", str(folder / "key_mask.npy")] if "key_mask" in arrays else [])


def _fortran(folder: Path, arrays: Arrays) -> list[str]:
    return _npy(folder, {name: np.asfortranarray(array) for name, array in arrays.items()})


def _big_endian(folder: Path, arrays: Arrays) -> list[str]:
    return _npz(folder, {name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items()})


KINDS: dict[str, Callable[[Path, Arrays], list[str]]] = {
    "npz": _npz,
    "compressed npz": _compressed,
    "safetensors": _safetensors,
    "npy": _npy,
    "npy in Fortran order": _fortran,
    "npz in big-endian order": _big_endian,
}
"""Each writes arrays into a folder and returns the words of the command line that name them."""
