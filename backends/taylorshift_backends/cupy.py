"""CuPy: all work on the device of the arrays and on its current stream, without waiting; features in one launch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import array_api_compat.cupy
import cupy

from taylorshift_core import Backend, features, loops

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from taylorshift_core import Run

Array = Any
Arrays = tuple[Array, ...]


class _Namespace:
    """CuPy's namespace, and in it bfloat16: CuPy computes with this dtype of ml_dtypes, which NumPy does not know."""

    __name__ = array_api_compat.cupy.__name__

    def __getattr__(self, name: str) -> Any:
        return getattr(_bfloat16_module() if name == "bfloat16" else array_api_compat.cupy, name)

    def finfo(self, dtype: Any) -> Any:
        return (_bfloat16_module() if cupy.dtype(dtype).name == "bfloat16" else cupy).finfo(dtype)

    def isdtype(self, dtype: Any, kind: Any) -> bool:
        known = cupy.float16 if dtype.name == "bfloat16" else dtype
        answer: bool = array_api_compat.cupy.isdtype(known, kind)
        return answer


def _bfloat16_module() -> Any:
    return importlib.import_module("ml_dtypes")  # not needed by CuPy; there is a bfloat16 array only where it is loaded


def scope(array: Array) -> AbstractContextManager[Any]:
    """Return a context in which the device of `array` is current: CuPy launches there, wherever the arrays are."""
    device: AbstractContextManager[Any] = array.device
    return device


def feature_tile(xp: Any, x: Array, first: int, last: int) -> Array:
    """Return the features of offsets first..last-1: one multiplication with a window that slides over the rows."""
    *batch, width, tokens = x.shape
    doubled = xp.concat([x, x[..., : last - 1, :]], axis=x.ndim - 2)[..., first:, :]
    *strides, row, column = doubled.strides
    shape = (*batch, last - first, width, tokens)
    windows = cupy.lib.stride_tricks.as_strided(doubled, shape, (*strides, row, row, column))
    products = cupy.expand_dims(x, -3) * windows
    n_rows = min(last * width, features.n_features(width)) - first * width
    return products.reshape(*batch, (last - first) * width, tokens)[..., :n_rows, :]


def map_tiles(run: Run, step: Callable[..., Arrays], tiled: Arrays, whole: Arrays, tile: int) -> Arrays:
    """Return ``step`` of all tiles, each written where it belongs: a tile is all that is needed beside the results."""
    length = tiled[0].shape[-2]
    results: Arrays = ()
    for first, last in loops.tile_bounds(length, tile):
        parts = step(run, *loops.cut(tiled, first, last), *whole)
        results = _written(results, parts, first, length)
    return results


def scan_tiles(
    run: Run, step: Callable[..., tuple[Array, Arrays]], carry: Array, tiled: Arrays, whole: Arrays, tile: int
) -> tuple[Array, Arrays]:
    """Walk along the tiles in order; the outputs of each are written where they belong."""
    length = tiled[0].shape[-2]
    results: Arrays = ()
    for first, last in loops.tile_bounds(length, tile):
        carry, parts = step(run, carry, *loops.cut(tiled, first, last), *whole)
        results = _written(results, parts, first, length)
    return carry, results


def _written(results: Arrays, parts: Arrays, first: int, length: int) -> Arrays:
    """Return arrays of so many tokens with `parts` in them from token `first` on: `results`, or at first new ones."""
    if first == 0:
        if all(part.shape[-2] == length for part in parts):
            return parts
        results = tuple(cupy.empty((*part.shape[:-2], length, part.shape[-1]), dtype=part.dtype) for part in parts)
    for result, part in zip(results, parts, strict=True):
        result[..., first : first + part.shape[-2], :] = part
    return results


def from_numpy(array: Any, device: Any = None) -> Array:
    """Copy a NumPy array to a device, by default the current one."""
    with cupy.cuda.Device(device):
        return cupy.asarray(array)


def wait(array: Array) -> Array:
    """Return `array` when its device has done all its work."""
    array.device.synchronize()
    return array


def peak_memory(function: Callable[[], Array]) -> tuple[Array, int]:
    """Call `function`; return its result and the bytes that a memory pool of its own took from the device meanwhile."""
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        return function(), pool.total_bytes()


def devices() -> tuple[Any, ...]:
    """Return all devices; none where there is no driver."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        return ()
    return tuple(cupy.cuda.Device(number) for number in range(count))


BACKEND = Backend(
    name="cupy",
    namespace=_Namespace(),
    scope=scope,
    tile_bytes=32 << 20,
    pack=cupy.ascontiguousarray,
    feature_tile=feature_tile,
    map_tiles=map_tiles,
    scan_tiles=scan_tiles,
    wait=wait,
    peak_memory=peak_memory,
    from_numpy=from_numpy,
    to_numpy=cupy.asnumpy,
    devices=devices,
)
