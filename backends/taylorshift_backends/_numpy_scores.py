"""The gradient of a tile of scores for NumPy: in blocks that stay in the cache, in memory that is used again."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_memory import buffer

if TYPE_CHECKING:
    from taylorshift_core import Backend

Array = Any
_SCORES = 1 << 17  # of a block: as many gradients beside them, a megabyte in float32
_QUERIES = 512  # of a block at most


def meet_back_tile(
    backend: Backend,  # noqa: ARG001  it is NumPy's
    queries: Array,
    keys: Array,
    values: Array,
    cotangent: Array,
) -> tuple[Array, Array, Array]:
    """Return the gradients of what keys and values sum up to, see `taylorshift_core.tiles.meet_back_tile`."""
    leading = np.broadcast_shapes(*(array.shape[:-2] for array in (queries, keys, values, cotangent)))
    tiled = (
        (queries, queries),
        (keys, keys),
        (values, cotangent),
    )  # gradients to the first, as long as it, like the second
    to_queries, to_keys, to_values = (np.zeros((*leading, *one.shape[-2:]), like.dtype) for one, like in tiled)
    twice = 2 * cotangent
    rows = max(1, min(_QUERIES, queries.shape[-2]))
    columns = max(1, _SCORES // (rows * max(1, math.prod(leading))))
    for q in _slices(queries.shape[-2], rows):
        own, by = queries[..., q, :], cotangent[..., q, :]
        for k in _slices(keys.shape[-2], columns):
            shape = *leading, own.shape[-2], keys[..., k, :].shape[-2]
            scores, to_scores = (buffer(name, shape, own.dtype) for name in ("scores", "gradients to scores"))
            np.matmul(own, np.swapaxes(keys[..., k, :], -1, -2), out=scores)
            np.matmul(twice[..., q, :], np.swapaxes(values[..., k, :], -1, -2), out=to_scores)
            to_scores *= scores
            scores *= scores
            to_queries[..., q, :] += to_scores @ keys[..., k, :]
            to_keys[..., k, :] += np.swapaxes(to_scores, -1, -2) @ own
            to_values[..., k, :] += np.swapaxes(scores, -1, -2) @ by
    return to_queries, to_keys, to_values


def _slices(length: int, size: int) -> list[slice]:
    """Return the parts of so many tokens, all about as long, of at most `size` each."""
    n_parts = -(-length // size)
    return [slice(*pair) for pair in pairwise(round(i * length / max(1, n_parts)) for i in range(n_parts + 1))]
