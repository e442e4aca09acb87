"""The work on a tile, compiled: one call that holds no lock of the interpreter, so that threads run side by side.

Blocks are small enough that features and scores stay in the innermost cache between the loop that makes them and the
product that uses them, and that OpenBLAS multiplies them as they lie, without copying (a million multiply-adds). The
last column, the ones beside the values, stays out of the products, see `_numpy_tiles`; that of scores is summed in the
loop that squares them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  what numba takes matrix products from: missing, it is better missed here

from taylorshift_core.features import n_features

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core import Backend

Array = Any
_BLOCK = 980_000  # multiply-adds
_ROWS = 153  # features in a block
_QUERIES = 96  # rows of a block of scores
_VECTOR = 16  # tokens in a block come in multiples of it
_compile: Callable[[Any], Any] = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})


def state_tile(backend: Backend, x: Array, values: Array, offsets: int) -> Array:  # noqa: ARG001  blocks are its own
    """Return the sum over tokens of features times values, see `taylorshift_core.tiles.state_tile`."""
    return _of_all(_summarise, n_features(x.shape[-2]), values.shape[-1], x, values)


def read_tile(backend: Backend, x: Array, weighted: Array, offsets: int) -> Array:  # noqa: ARG001  blocks are its own
    """Return the sum over features of features times weighted state, see `taylorshift_core.tiles.read_tile`."""
    return _of_all(_read, x.shape[-1], weighted.shape[-1], x, weighted)


def back_tile(backend: Backend, x: Array, weighted: Array, columns: Array, offsets: int) -> Array:  # noqa: ARG001
    """Return the gradient of what is read to `x`, see `taylorshift_core.tiles.back_tile`."""
    return _of_all(_fold_back, *x.shape[-2:], x, weighted, columns)


def meet_tile(backend: Backend, queries: Array, keys: Array, values: Array) -> Array:  # noqa: ARG001  blocks are its own
    """Return the sum over keys of (query . key)**2 times value, see `taylorshift_core.tiles.meet_tile`."""
    rows = np.swapaxes(queries, -1, -2), np.swapaxes(keys, -1, -2)
    return _of_all(_meet, queries.shape[-2], values.shape[-1], *rows, values)


def _of_all(function: Any, rows: int, columns: int, *arrays: Array) -> Array:
    """Return what `function` adds to zeros, (..., rows, columns), for each matrix of arrays whose leading axes broadcast."""
    leading = np.broadcast_shapes(*(each.shape[:-2] for each in arrays))
    result = np.zeros((*leading, rows, columns), arrays[-1].dtype)
    whole = [
        each if each.shape[:-2] == leading else np.broadcast_to(each, (*leading, *each.shape[-2:])) for each in arrays
    ]
    function(
        *(np.ascontiguousarray(each.reshape((-1, *each.shape[-2:]))) for each in whole),
        result.reshape((-1, rows, columns)),
    )
    return result


@_compile
def _blocks(width: int, columns: int) -> tuple[int, int]:
    """Return offsets and tokens of a block of features."""
    offsets = min(max(_ROWS // width, 1), width // 2 + 1)
    tokens = _BLOCK // (offsets * width * max(columns, 1)) // _VECTOR * _VECTOR
    return offsets, max(tokens, _VECTOR)


@_compile
def _build(x: Array, features: Array, start: int) -> None:
    """Write features of a block of tokens, from row `start` on, the first of an offset."""
    width, tokens = x.shape
    near, far = 0, start // width
    for row in range(features.shape[0]):
        one, other, product = x[near], x[far], features[row]
        for token in range(tokens):
            product[token] = one[token] * other[token]
        near, far = near + 1, far + 1
        if far == width:
            far = 0
        if near == width:
            near, far = 0, (start + row + 1) // width


@_compile
def _add(total: Array, part: Array) -> None:
    for row in range(part.shape[0]):
        into, more = total[row], part[row]
        for column in range(part.shape[1]):
            into[column] += more[column]


@_compile
def _summarise_one(x: Array, values: Array, state: Array) -> None:
    """Add the sums over tokens of features of `x`, (width, tokens), times values, (tokens, columns), to a state."""
    (width, length), columns = x.shape, values.shape[1] - 1
    offsets, at_once = _blocks(width, columns)
    block = offsets * width
    memory, parts = np.empty(block * at_once, x.dtype), np.empty((block, columns), x.dtype)
    own, weighted = np.empty(width * at_once, x.dtype), np.empty(width * at_once, x.dtype)
    moments, moment = np.zeros((width, width), x.dtype), np.empty((width, width), x.dtype)
    for first in range(0, length, at_once):
        tokens = min(at_once, length - first)
        some = values[first : first + tokens]
        many = np.ascontiguousarray(some[:, :columns])
        tile, counted = (
            own[: width * tokens].reshape((width, tokens)),
            weighted[: width * tokens].reshape((width, tokens)),
        )
        tile[:] = x[:, first : first + tokens]
        counted[:] = tile * some[:, columns]
        np.dot(counted, tile.T, moment)
        moments += moment
        for start in range(0, state.shape[0], block):
            rows = min(block, state.shape[0] - start)
            features = memory[: rows * tokens].reshape((rows, tokens))
            _build(tile, features, start)
            np.dot(features, many, parts[:rows])
            _add(state[start : start + rows], parts[:rows])
    for row in range(state.shape[0]):
        state[row, columns] += moments[row % width, (row % width + row // width) % width]


@_compile
def _read_one(x: Array, weighted: Array, sums: Array) -> None:
    """Add the sums over features of features of `x`, (width, tokens), times a state to `sums`, (tokens, columns)."""
    (width, length), columns = x.shape, weighted.shape[1] - 1
    offsets, at_once = _blocks(width, columns)
    block = offsets * width
    memory, parts = np.empty(block * at_once, x.dtype), np.empty((at_once, columns), x.dtype)
    own, formed = np.empty(width * at_once, x.dtype), np.empty(width * at_once, x.dtype)
    state, form = np.ascontiguousarray(weighted[:, :columns]), np.zeros((width, width), x.dtype)
    for row in range(state.shape[0]):
        form[row % width, (row % width + row // width) % width] += weighted[row, columns]
    for first in range(0, length, at_once):
        tokens = min(at_once, length - first)
        tile, other = own[: width * tokens].reshape((width, tokens)), formed[: width * tokens].reshape((width, tokens))
        tile[:] = x[:, first : first + tokens]
        np.dot(form, tile, other)
        other *= tile
        normaliser = other.sum(axis=0)
        into = sums[first : first + tokens]
        into[:, columns] += normaliser
        for start in range(0, state.shape[0], block):
            rows = min(block, state.shape[0] - start)
            features = memory[: rows * tokens].reshape((rows, tokens))
            _build(tile, features, start)
            np.dot(features.T, state[start : start + rows], parts[:tokens])
            _add(into, parts[:tokens])


@_compile
def _fold_back_one(x: Array, weighted: Array, columns: Array, result: Array) -> None:
    """Add the gradients to `x`, (width, tokens), of features times ``weighted @ columns.T`` to `result`."""
    (width, length), n_columns = x.shape, weighted.shape[1]
    offsets, at_once = _blocks(width, n_columns)
    block = offsets * width
    memory, own, back = (
        np.empty(block * at_once, x.dtype),
        np.empty(width * at_once, x.dtype),
        np.empty(width * at_once, x.dtype),
    )
    for first in range(0, length, at_once):
        tokens = min(at_once, length - first)
        tile, total = own[: width * tokens].reshape((width, tokens)), back[: width * tokens].reshape((width, tokens))
        tile[:] = x[:, first : first + tokens]
        total[:] = 0
        some = columns[first : first + tokens].T
        for start in range(0, weighted.shape[0], block):
            rows = min(block, weighted.shape[0] - start)
            to_features = memory[: rows * tokens].reshape((rows, tokens))
            np.dot(weighted[start : start + rows], some, to_features)
            for row in range(rows):
                near = row % width
                far = (near + (start + row) // width) % width
                one, other, to_one, to_other, given = tile[near], tile[far], total[near], total[far], to_features[row]
                for token in range(tokens):
                    to_one[token] += given[token] * other[token]
                for token in range(tokens):
                    to_other[token] += given[token] * one[token]
        result[:, first : first + tokens] += total


@_compile
def _meet_one(queries: Array, keys: Array, values: Array, sums: Array) -> None:
    """Add the sums over keys, (width, keys), of squared scores times values, (keys, columns), to `sums`."""
    (width, n_queries), n_keys, columns = queries.shape, keys.shape[1], values.shape[1] - 1
    at_once = max(_BLOCK // (_QUERIES * max(width, columns)) // _VECTOR, 1) * _VECTOR
    near, far = np.empty(width * _QUERIES, keys.dtype), np.empty(width * at_once, keys.dtype)
    memory, parts = np.empty(_QUERIES * at_once, keys.dtype), np.empty((_QUERIES, columns), keys.dtype)
    many, ones = np.ascontiguousarray(values[:, :columns]), np.ascontiguousarray(values[:, columns])
    for start in range(0, n_queries, _QUERIES):
        rows = min(_QUERIES, n_queries - start)
        some = near[: width * rows].reshape((width, rows))
        some[:] = queries[:, start : start + rows]
        for first in range(0, n_keys, at_once):
            tokens = min(at_once, n_keys - first)
            others = far[: width * tokens].reshape((width, tokens))
            others[:] = keys[:, first : first + tokens]
            scores, weights = memory[: rows * tokens].reshape((rows, tokens)), ones[first : first + tokens]
            np.dot(some.T, others, scores)
            for row in range(rows):
                scored, total = scores[row], keys.dtype.type(0)
                for token in range(tokens):
                    scored[token] *= scored[token]
                    total += scored[token] * weights[token]
                sums[start + row, columns] += total
            np.dot(scores, many[first : first + tokens], parts[:rows])
            _add(sums[start : start + rows], parts[:rows])


@_compile
def _summarise(x: Array, values: Array, state: Array) -> None:
    for i in range(x.shape[0]):
        _summarise_one(x[i], values[i], state[i])


@_compile
def _read(x: Array, weighted: Array, sums: Array) -> None:
    for i in range(x.shape[0]):
        _read_one(x[i], weighted[i], sums[i])


@_compile
def _fold_back(x: Array, weighted: Array, columns: Array, result: Array) -> None:
    for i in range(x.shape[0]):
        _fold_back_one(x[i], weighted[i], columns[i], result[i])


@_compile
def _meet(queries: Array, keys: Array, values: Array, sums: Array) -> None:
    for i in range(queries.shape[0]):
        _meet_one(queries[i], keys[i], values[i], sums[i])
