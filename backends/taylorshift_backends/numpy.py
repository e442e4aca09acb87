"""NumPy: heads and tiles side by side on threads, products of a tile in blocks, compiled where numba is installed."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import array_api_compat.numpy
import numpy as np

from taylorshift_backends._numpy_gradients import fold_back, tangent_tile
from taylorshift_backends._numpy_loops import fold_tiles, map_tiles, scan_sums, scan_tiles
from taylorshift_backends._numpy_memory import buffer
from taylorshift_backends._numpy_options import COMPILED, TOKENS
from taylorshift_backends._numpy_scores import meet_back_tile
from taylorshift_backends._numpy_tiles import (
    augment,
    augment_back,
    back_tile,
    meet_tile,
    read_tile,
    state_tile,
    whole_step,
)
from taylorshift_core import Backend
from taylorshift_core.features import n_features
from taylorshift_core.masked import sum_allowed as sum_allowed_safely

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

Array = Any


def feature_tile(xp: Any, x: Array, first: int, last: int) -> Array:  # noqa: ARG001  the namespace is NumPy
    """Return the features of offsets first..last-1, in a buffer that the thread's next call reuses."""
    *batch, width, length = x.shape
    doubled = buffer("doubled", (*batch, width + last - 1, length), x.dtype)
    doubled[..., :width, :] = x
    doubled[..., width:, :] = x[..., : last - 1, :]
    row, column = doubled.strides[-2:]
    windows = np.lib.stride_tricks.as_strided(
        doubled[..., first:, :], (*batch, last - first, width, length), (*doubled.strides[:-2], row, row, column)
    )
    products = buffer("features", (*batch, last - first, width, length), x.dtype)
    np.multiply(x[..., None, :, :], windows, out=products)
    n_rows = min(last * width, n_features(width)) - first * width
    return products.reshape((*batch, (last - first) * width, length))[..., :n_rows, :]


def sum_allowed(xp: Any, weights: Array, values: Array, allowed: Array) -> Array:
    """Return the sums of what a mask leaves: hidden weights lose their bits, and values are looked at before they are split."""
    if weights.itemsize > 8 or not np.isfinite(values).all():
        return sum_allowed_safely(xp, weights, values, allowed)
    bits = weights.view(np.dtype(f"i{weights.itemsize}"))
    np.bitwise_and(bits, -allowed.astype(bits.dtype), out=bits)
    return weights @ values


def peak_memory(function: Callable[[], Array]) -> tuple[Array, int]:
    """Call `function`; return its result and the most bytes that NumPy allocated meanwhile."""
    tracemalloc.start()
    try:
        result = function()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refuse(array: Array) -> str | None:
    """Tell what is wrong with kinds of NumPy arrays whose operators mean something else."""
    if isinstance(array, np.ma.MaskedArray):
        return "it is a masked array, whose mask attention would not see; pass array.filled(0) and key_mask instead"
    return None


def quiet(array: Array) -> AbstractContextManager[object]:  # noqa: ARG001  every array
    """Return a context without NumPy's warnings: NaN and infinities in the input propagate, as in other libraries."""
    return np.errstate(all="ignore")


BACKEND = Backend(
    name="numpy",
    namespace=array_api_compat.numpy,
    prices="numpy" if COMPILED else "numpy without numba",
    batch_at_once=False,
    tile_bytes=512 << 10,
    tile_tokens=2048 if COMPILED else 1024,
    tokens_at_once=TOKENS if COMPILED else None,
    augment=augment,
    augment_back=augment_back,
    feature_tile=feature_tile,
    state_tile=state_tile,
    read_tile=read_tile,
    back_tile=back_tile,
    meet_tile=meet_tile,
    meet_back_tile=meet_back_tile,
    whole_step=whole_step,
    fold_back=fold_back,
    tangent_tile=tangent_tile,
    sum_allowed=sum_allowed,
    fold_tiles=fold_tiles,
    map_tiles=map_tiles,
    scan_tiles=scan_tiles,
    scan_sums=scan_sums,
    scope=quiet,
    refuse=refuse,
    peak_memory=peak_memory,
    to_numpy=np.asarray,
    devices=lambda: ("cpu",),
)
