"""The products of a tile, compiled: one call that holds no lock of the interpreter, so that threads run side by side.

Tokens are taken TOKENS at a time into memory laid out as `_numpy_panels` wants it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_features import add_features, give_state, n_rows, read_features, take_state
from taylorshift_backends._numpy_features_back import add_back
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_pairs import add_scores, scores_memory
from taylorshift_backends._numpy_panels import give_columns, memory, n_vectors, of_head, take, take_columns, zeros
from taylorshift_backends._numpy_rows import prepare, row_length
from taylorshift_backends._numpy_vectors import BYTES
from taylorshift_core.features import n_features

if TYPE_CHECKING:
    from taylorshift_core import Backend

Array = Any


def state_tile(backend: Backend, x: Array, values: Array, offsets: int) -> Array:  # noqa: ARG001  blocks are its own
    """Return the sum over tokens of features times values, see `taylorshift_core.tiles.state_tile`."""
    return each_matrix(_summarise, (n_features(x.shape[-2]), values.shape[-1]), x, values)


def read_tile(backend: Backend, x: Array, weighted: Array, offsets: int) -> Array:  # noqa: ARG001  blocks are its own
    """Return the sum over features of features times weighted state, see `taylorshift_core.tiles.read_tile`."""
    return each_matrix(_read, (x.shape[-1], weighted.shape[-1]), x, weighted)


def back_tile(backend: Backend, x: Array, weighted: Array, columns: Array, offsets: int) -> Array:  # noqa: ARG001
    """Return the gradient of what is read to `x`, see `taylorshift_core.tiles.back_tile`."""
    return each_matrix(_fold_back, x.shape[-2:], x, weighted, columns)


def meet_tile(backend: Backend, queries: Array, keys: Array, values: Array) -> Array:  # noqa: ARG001  blocks are its own
    """Return the sum over keys of (query . key)**2 times value, see `taylorshift_core.tiles.meet_tile`."""
    rows = np.swapaxes(queries, -1, -2), np.swapaxes(keys, -1, -2)
    return each_matrix(_meet, (queries.shape[-2], values.shape[-1]), *rows, values)


def augment(tokens: Array, scale: Array | None, last: float, *, normalise: bool) -> Array:
    """Return the columns [scale * x / |x|, last] of rows x, see `taylorshift_core.augment.augment`."""
    scale = np.ones((1, 1), tokens.dtype) if scale is None else scale
    shape = tokens.shape[-1] + 1, tokens.shape[-2]
    return each_matrix(_augment, shape, tokens, scale, options=(tokens.dtype.type(last), normalise))


def augment_back(
    tokens: Array, units: Array, cotangent: Array, factor: Array | None, *, normalise: bool
) -> tuple[Array, Array]:
    """Return the gradients to rows and to their scale, see `taylorshift_core.augment.augment_back`."""
    factor = np.ones((1, 1), units.dtype) if factor is None else factor
    shape = tokens.shape[-2], tokens.shape[-1] + 1
    both = each_matrix(_augment_back, shape, units, cotangent, tokens, factor, options=(normalise,))
    return both[..., :-1], both[..., -1:]


def each_matrix(function: Any, shape: tuple[int, ...], *arrays: Array, options: tuple[Any, ...] = ()) -> Array:
    """Return what `function` writes, (..., *shape), for the matrices of arrays whose leading axes broadcast.

    It is called once, with contiguous arrays of three axes, the options, and the result. What all matrices of the result
    share comes once.
    """
    leading = leading_of(*arrays)
    result = np.empty((*leading, *shape), arrays[0].dtype)
    function(*(matrices(each, leading) for each in arrays), *options, result.reshape((math.prod(leading), *shape)))
    return result


def leading_of(*arrays: Array) -> tuple[int, ...]:
    """Return the leading axes that arrays broadcast to."""
    return _broadcast(*[each.shape[:-2] for each in arrays])


@lru_cache(maxsize=1024)  # NumPy makes arrays of the shapes, which takes as long as a product of a few tokens
def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    return np.broadcast_shapes(*shapes)


def matrices(array: Array, leading: tuple[int, ...]) -> Array:
    """Return an array whose leading axes broadcast as (matrices, rows, columns), contiguous; one matrix for all comes once.

    It is read-only, whether the array is or not: numba compiles what takes it once for each combination.
    """
    own = array.shape[:-2]
    if own != leading and math.prod(own) != 1:
        array, own = np.broadcast_to(array, (*leading, *array.shape[-2:])), leading
    result = np.ascontiguousarray(array.reshape((math.prod(own), *array.shape[-2:])))  # a view or a copy
    result.flags.writeable = False
    return result


@compiled
def _augment(tokens: Array, scale: Array, last: float, normalise: bool, x: Array) -> None:
    """Write the columns [scale * x / |x|, last] of rows x, (heads, tokens, dim)."""
    _, length, dim = tokens.shape
    everything, tile = np.empty(0, np.bool_), zeros((dim + 1) * TOKENS, tokens)
    for head in range(x.shape[0]):
        rows, factor = of_head(tokens, head), of_head(scale, head)[0, 0]
        for first in range(0, length, TOKENS):
            some = min(TOKENS, length - first)
            prepare(rows, everything, first, some, factor, last, normalise, tile, False)
            for row in range(dim + 1):
                x[head, row, first : first + some] = tile[row * TOKENS : row * TOKENS + some]


@compiled
def _augment_back(units: Array, cotangent: Array, tokens: Array, factor: Array, normalise: bool, result: Array) -> None:
    """Write the gradients to rows, (heads, tokens, dim), and in the last column to the scale of each."""
    length, dim = result.shape[1], result.shape[2] - 1
    along, by = np.empty(TOKENS, units.dtype), np.empty(TOKENS, units.dtype)
    for head in range(result.shape[0]):
        unit, given, rows = of_head(units, head), of_head(cotangent, head), of_head(tokens, head)
        for first in range(0, length, TOKENS):
            some, found = min(TOKENS, length - first), result[head, first : first + TOKENS]
            along[:] = 0
            by[:] = of_head(factor, head)[0, 0]
            for i in range(dim):
                near, far = unit[i, first : first + some], given[i, first : first + some]
                for token in range(some):
                    along[token] += near[token] * far[token]
            for token in range(some):
                found[token, dim] = along[token]
                if normalise:
                    largest, size = row_length(rows[first + token])
                    by[token] = by[token] / size / largest  # zero for a row of zeros, whose length counts as infinite
                else:
                    along[token] = 0
            for i in range(dim):
                near, far = unit[i, first : first + some], given[i, first : first + some]
                for token in range(some):
                    found[token, i] = (far[token] - near[token] * along[token]) * by[token]


@compiled
def _summarise(x: Array, values: Array, state: Array) -> None:
    """Write the sums over tokens of features of `x`, (width, tokens), times values, (tokens, columns)."""
    width, length, columns, lanes = x.shape[1], x.shape[2], values.shape[2] - 1, BYTES // x.itemsize
    offsets, padded, everything = width // 2 + 1, n_vectors(columns, x) * lanes, np.empty(0, np.bool_)
    tile, counts, panels = zeros(n_rows(width) * TOKENS, x), zeros(TOKENS, x), zeros(TOKENS * padded, x)
    sums, moments = zeros(width * offsets * padded, x), zeros(width * offsets * lanes, x)
    for head in range(state.shape[0]):
        sums[:] = 0
        moments[:] = 0
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            take(of_head(x, head), first, tokens, tile, n_rows(width))
            counts[:tokens] = of_head(values, head)[first : first + tokens, columns]
            counts[tokens:] = 0
            take_columns(of_head(values, head), everything, first, tokens, columns, panels)
            add_features(tile, counts, panels, tokens, width, columns, sums, moments)
        give_state(sums, moments, width, state[head])


@compiled
def _read(x: Array, weighted: Array, result: Array) -> None:
    """Write the sums over features of features of `x`, (width, tokens), times a state, (features, columns)."""
    width, length, columns = x.shape[1], x.shape[2], weighted.shape[2] - 1
    offsets, padded = width // 2 + 1, n_vectors(columns, x) * (BYTES // x.itemsize)
    tile, last, panels = zeros(n_rows(width) * TOKENS, x), zeros(TOKENS, x), zeros(TOKENS * padded, x)
    state, form, one = memory(width * offsets * padded, x), memory(width * offsets, x), x.dtype.type(1)
    for head in range(result.shape[0]):
        take_state(of_head(weighted, head), width, one, one, state, form)
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            take(of_head(x, head), first, tokens, tile, n_rows(width))
            read_features(tile, state, form, tokens, width, columns, panels, last)
            give_columns(panels, first, tokens, columns, result[head])
            result[head, first : first + tokens, columns] = last[:tokens]


@compiled
def _fold_back(x: Array, weighted: Array, columns: Array, result: Array) -> None:
    """Write the gradients to `x`, (width, tokens), of features times ``weighted @ columns.T``."""
    width, length, n_columns = x.shape[1], x.shape[2], weighted.shape[2]
    tile, back = zeros(n_rows(width) * TOKENS, x), zeros(n_rows(width) * TOKENS, x)
    across = zeros(n_columns * TOKENS, x)
    for head in range(result.shape[0]):
        flat = of_head(weighted, head).reshape(-1)
        for first in range(0, length, TOKENS):
            tokens = min(TOKENS, length - first)
            take(of_head(x, head), first, tokens, tile, n_rows(width))
            take(of_head(columns, head).T, first, tokens, across, n_columns)
            back[:] = 0
            add_back(tile, flat, across, tokens, width, n_columns, back)
            for row in range(n_rows(width)):
                if row < width:
                    result[head, row, first : first + tokens] = back[row * TOKENS : row * TOKENS + tokens]
                else:
                    result[head, row - width, first : first + tokens] += back[row * TOKENS : row * TOKENS + tokens]


@compiled
def _meet(queries: Array, keys: Array, values: Array, result: Array) -> None:
    """Write the sums over keys, (width, keys), of squared scores times values, (keys, columns)."""
    width, n_queries, n_keys, columns = keys.shape[1], queries.shape[2], keys.shape[2], values.shape[2] - 1
    lanes, everything = BYTES // keys.itemsize, np.empty(0, np.bool_)
    padded = n_vectors(columns, keys) * lanes
    near, far, counts = zeros(width * TOKENS, keys), zeros(width * TOKENS, keys), zeros(TOKENS, keys)
    panels, sums = zeros(TOKENS * padded, keys), zeros(TOKENS * padded, keys)
    totals, scores = zeros(TOKENS * lanes, keys), scores_memory(keys)
    for head in range(result.shape[0]):
        for start in range(0, n_queries, TOKENS):
            rows = min(TOKENS, n_queries - start)
            take(of_head(queries, head), start, rows, near, width)
            totals[:] = 0
            sums[:] = 0
            for first in range(0, n_keys, TOKENS):
                tokens = min(TOKENS, n_keys - first)
                take(of_head(keys, head), first, tokens, far, width)
                counts[:tokens] = of_head(values, head)[first : first + tokens, columns]
                counts[tokens:] = 0
                take_columns(of_head(values, head), everything, first, tokens, columns, panels)
                add_scores(near, far, counts, panels, rows, tokens, width, columns, scores, sums, totals)
            give_columns(sums, start, rows, columns, result[head])
            for row in range(rows):
                result[head, start + row, columns] = totals[row * lanes : (row + 1) * lanes].sum()
