"""The products of a tile for NumPy: compiled where numba is installed, else as stacks of blocks.

OpenBLAS multiplies 16 columns at a time, so that the column of ones beside the values costs as much as 16 others. It is
left out, and found as what it stands for: the sum of the features of all tokens is the matrix of their second moments,
and what a query reads of it is a quadratic form.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends import _numpy_augment, _numpy_stacks
from taylorshift_backends._numpy_loops import AllAtOnce
from taylorshift_backends._numpy_options import COMPILED
from taylorshift_core import tiles
from taylorshift_core.features import n_features, n_offsets

if TYPE_CHECKING:
    from taylorshift_core import Backend

Array = Any
_WORTH_LAYING_OUT = 8  # tokens of a tile: fewer read a state faster than it is laid out for compiled reading
_KINDS = (np.float32, np.float64)  # that are summed in their own precision, and compiled


@cache
def _compiled() -> Any:
    from taylorshift_backends import _numpy_compiled  # noqa: PLC0415  numba takes half a second to import

    return _numpy_compiled


def _side_by_side(state: Array, query: Array, key: Array, value: Array, *masks: Array) -> bool:
    """Tell whether keys, values and state have the same leading axes, queries no others than a group axis, a mask no more."""
    leading = state.shape[:-2]
    alike = query.shape[:-2][:-1] == leading[:-1] and key.shape[:-2] == value.shape[:-2] == leading
    return alike and all(n in (1, all_) for mask in masks for n, all_ in zip(mask.shape, leading, strict=False))


@cache
def _steps(*, back: bool) -> Any:
    from taylorshift_backends import _numpy_steps, _numpy_steps_back  # noqa: PLC0415

    return _numpy_steps_back if back else _numpy_steps


@cache
def _walk() -> Any:
    from taylorshift_backends import _numpy_walk  # noqa: PLC0415

    return _numpy_walk


def _compiles(length: int) -> bool:
    return COMPILED and length > 0


def whole_step(name: str, *arrays: Array) -> Any:
    """Return a compiled step of the loops, see `taylorshift_core.tiles`, or None where it would not pay."""
    tokens = arrays[name == "scan"]
    length = tokens.shape[-2]
    if (
        not (_compiles(length) or (COMPILED and name == "summarise" and length == 0))
        or tokens.dtype not in _KINDS
        or (name.startswith("meet") and not arrays[-1].shape[-2])
    ):
        return None
    if name == "scan":
        return _walk().scan if _side_by_side(*arrays) else None
    back = name.endswith("vjp")
    step = getattr(_steps(back=back), name)
    return step if back else AllAtOnce(step)


def augment(backend: Backend, tokens: Array, scale: Array | None, last: float, *, normalise: bool) -> Array:
    """Return prepared tokens, see `taylorshift_core.augment.augment`."""
    if _compiles(tokens.shape[-2]) and tokens.dtype in _KINDS:
        return _compiled().augment(tokens, scale, last, normalise=normalise)
    return _numpy_augment.augment(backend, tokens, scale, last, normalise=normalise)


def augment_back(
    xp: Any, tokens: Array, units: Array, cotangent: Array, factor: Array | None, *, normalise: bool
) -> tuple[Array, Array]:
    """Return the gradients to rows and to their scale, see `taylorshift_core.augment.augment_back`."""
    if _compiles(tokens.shape[-2]) and tokens.dtype == units.dtype and units.dtype in _KINDS:
        return _compiled().augment_back(tokens, units, cotangent, factor, normalise=normalise)
    return _numpy_augment.augment_back(xp, tokens, units, cotangent, factor, normalise=normalise)


def state_tile(backend: Backend, x: Array, values: Array, offsets: int) -> Array:
    """Return the sum over tokens of features times values, see `taylorshift_core.tiles.state_tile`."""
    if _compiles(x.shape[-1]):
        return _compiled().state_tile(backend, x, values, offsets)
    columns = values.shape[-1] - 1
    if x.shape[-1] == 0:
        leading = np.broadcast_shapes(x.shape[:-2], values.shape[:-2])
        return np.zeros((*leading, n_features(x.shape[-2]), columns + 1), values.dtype)
    sums = _numpy_stacks.summarise(x, values[..., :columns], offsets)
    weighted = np.multiply(x, np.swapaxes(values[..., columns:], -1, -2))
    moments = _pairs(np.matmul(weighted, np.swapaxes(x, -1, -2)))
    return np.concatenate([sums, np.broadcast_to(moments[..., None], (*sums.shape[:-1], 1))], axis=-1)


def read_tile(backend: Backend, x: Array, weighted: Array, offsets: int) -> Array:
    """Return the sum over features of features times weighted state, see `taylorshift_core.tiles.read_tile`."""
    if COMPILED and x.shape[-1] >= _WORTH_LAYING_OUT:
        return _compiled().read_tile(backend, x, weighted, offsets)
    columns = weighted.shape[-1] - 1
    sums = _numpy_stacks.read(x, weighted[..., :columns], offsets)
    form = np.matmul(_form(weighted[..., columns], x.shape[-2]), x)
    normaliser = np.einsum("...it,...it->...t", x, form)
    return np.concatenate([sums, np.broadcast_to(normaliser[..., None], (*sums.shape[:-1], 1))], axis=-1)


def back_tile(backend: Backend, x: Array, weighted: Array, columns: Array, offsets: int) -> Array:
    """Return the gradient of what is read to `x`, see `taylorshift_core.tiles.back_tile`."""
    if _compiles(x.shape[-1]):
        return _compiled().back_tile(backend, x, weighted, columns, offsets)
    return tiles.back_tile(backend, x, weighted, columns, offsets)


def meet_tile(backend: Backend, queries: Array, keys: Array, values: Array) -> Array:
    """Return the sum over keys of (query . key)**2 times value, see `taylorshift_core.tiles.meet_tile`."""
    if _compiles(min(queries.shape[-2], keys.shape[-2])):
        return _compiled().meet_tile(backend, queries, keys, values)
    columns = values.shape[-1] - 1
    rows = np.swapaxes(queries, -1, -2), np.swapaxes(keys, -1, -2)
    sums, normaliser = _numpy_stacks.meet(*rows, values[..., :columns], values[..., columns])
    return np.concatenate([sums, np.broadcast_to(normaliser[..., None], (*sums.shape[:-1], 1))], axis=-1)


def _pairs(matrix: Array) -> Array:
    """Return the entries of a symmetric matrix in the order of the features."""
    *batch, width, _ = matrix.shape
    diagonals = _diagonals(np.concatenate([matrix, matrix], axis=-1))
    return diagonals.reshape((*batch, n_offsets(width) * width))[..., : n_features(width)]


def _form(column: Array, width: int) -> Array:
    """Return the matrix whose quadratic form is the sum of features times `column`."""
    *batch, rows = column.shape
    twice = np.zeros((*batch, width, 2 * width), dtype=column.dtype)
    diagonals, whole = _diagonals(twice), rows // width
    diagonals[..., :whole, :] = column[..., : whole * width].reshape((*batch, whole, width))
    if rows % width:
        diagonals[..., whole, : rows % width] = column[..., whole * width :]
    return twice[..., :width] + twice[..., width:]


def _diagonals(twice: Array) -> Array:
    """Return a view (..., offsets, width) of a matrix beside itself: row i, column i + offset."""
    *batch, width, _ = twice.shape
    *strides, row, column = twice.strides
    shape = (*batch, n_offsets(width), width)
    return np.lib.stride_tricks.as_strided(twice, shape, (*strides, column, row + column))
