"""The sums behind the simulated cuBLAS: NumPy's own products, on the memory of the device."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}  # by cudaDataType


class _Matrix(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("type", ctypes.c_int), ("leading", ctypes.c_int))

    def view(self, rows: int, columns: int) -> NDArray[np.generic]:
        """Return the device memory itself as a (rows, columns) array."""
        dtype = np.dtype(_DTYPES[self.type])
        elements = (columns - 1) * self.leading + rows
        memory = (ctypes.c_char * (elements * dtype.itemsize)).from_address(self.data)
        strides = (dtype.itemsize, self.leading * dtype.itemsize)
        return np.ndarray((rows, columns), dtype, memory, strides=strides)


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("transpose_a", "transpose_b", "rows", "columns", "inner")),
        *((name, _Matrix) for name in "abc"),
    )


def _operand(matrix: _Matrix, rows: int, columns: int, *, transposed: bool) -> NDArray[np.generic]:
    return matrix.view(columns, rows).T if transposed else matrix.view(rows, columns)


def _multiply(pointer: ctypes._Pointer[_Product]) -> int:
    """Compute c = a @ b: the sums in float64 for float64 and in float32 for all other types, rounded once."""
    p = pointer.contents
    a = _operand(p.a, p.rows, p.inner, transposed=p.transpose_a)
    b = _operand(p.b, p.inner, p.columns, transposed=p.transpose_b)
    c = p.c.view(p.rows, p.columns)
    precision = np.float64 if c.dtype == np.float64 else np.float32
    with np.errstate(all="ignore"):
        c[...] = a.astype(precision) @ b.astype(precision)
    return 0


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Product))(_multiply)  # as long-lived as the library


def install(library: ctypes.CDLL) -> None:
    """Let the simulated cuBLAS in `library` call `_multiply`."""
    place = ctypes.c_void_p.in_dll(library, "gpu_multiply")
    place.value = ctypes.cast(_CALLBACK, ctypes.c_void_p).value
