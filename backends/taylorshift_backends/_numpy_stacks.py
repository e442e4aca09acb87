"""Products of features and scores in calls of NumPy, in stacks of blocks.

OpenBLAS copies the factors of a large product before it multiplies them, and one of ours, the features or the scores, is
as large as all the work around it. Products of at most a million multiply-adds it takes as they lie: so a product is
a stack of such blocks, in one call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from taylorshift_backends._numpy_memory import buffer
from taylorshift_backends._numpy_workspace import pieces, stack, workspace
from taylorshift_core.features import n_features

Array = Any
_QUERIES, _KEYS = 128, 1024  # in a stack of blocks of scores


def summarise(x: Array, values: Array, offsets: int) -> Array:
    """Return the sums over tokens of features of `x`, (..., width, tokens), times values, (..., tokens, columns)."""
    columns = values.shape[-1]
    leading = np.broadcast_shapes(x.shape[:-2], values.shape[:-2])
    state = np.empty((*leading, n_features(x.shape[-2]), columns), values.dtype)
    space, values = workspace(x, columns, max(1, offsets // 2)), _compact(values)  # fewer features, longer blocks
    stacks = [stack(values[..., tokens, :], n) for tokens, n in space.pieces]
    for block in space.features(x):
        into, more = state[..., block.start : block.stop, :], False
        for rows, many in zip(block.stacks, stacks, strict=True):
            parts = buffer("parts", (*leading, *rows.shape[-3:-1], columns), state.dtype)
            _sum_up(np.matmul(rows, many, out=parts), into, more=more)
            more = True
    return state


def read(x: Array, state: Array, offsets: int) -> Array:
    """Return the sums over features of features of `x`, (..., width, tokens), times state, (..., features, columns)."""
    length, columns = x.shape[-1], state.shape[-1]
    leading = np.broadcast_shapes(x.shape[:-2], state.shape[:-2])
    space, state = workspace(x, columns, offsets), _compact(state)[..., None, :, :]
    sums, part = (buffer(name, (*leading, length, columns), state.dtype) for name in ("sums", "parts"))
    outputs = [[stack(into[..., tokens, :], n) for tokens, n in space.pieces] for into in (sums, part)]
    for block in space.features(x):
        some = state[..., block.start : block.stop, :]
        for rows, into in zip(block.stacks, outputs[block.start > 0], strict=True):
            np.matmul(np.swapaxes(rows, -1, -2), some, out=into)
        if block.start:
            sums += part
    return sums


def meet(queries: Array, keys: Array, values: Array, counts: Array) -> tuple[Array, Array]:
    """Return the sums over keys, (..., width, keys), of squared scores times values and times counts, (..., keys)."""
    leading = np.broadcast_shapes(*(each.shape[:-2] for each in (queries, keys, values)))
    n_queries, n_keys = queries.shape[-1], keys.shape[-1]
    sums = np.zeros((*leading, n_queries, values.shape[-1]), values.dtype)
    normaliser = np.zeros((*leading, n_queries, 1), values.dtype)
    for first in range(0, n_keys, _KEYS):
        tokens = slice(first, first + _KEYS)
        far, many, ones = keys[..., tokens], _compact(values[..., tokens, :]), counts[..., tokens, None]
        for start in range(0, n_queries, _QUERIES):
            rows = slice(start, start + _QUERIES)
            near = np.swapaxes(queries[..., rows], -1, -2)
            _meet_stacks(near, far, ((many, sums[..., rows, :]), (ones, normaliser[..., rows, :])))
    return sums, normaliser[..., 0]


def _meet_stacks(near: Array, far: Array, sides: tuple[tuple[Array, Array], ...]) -> None:
    """Add to the second of each side its first, weighted by squared scores."""
    batch = np.broadcast_shapes(near.shape[:-2], far.shape[:-2])
    per_key = near.shape[-2] * max(near.shape[-1], sides[0][0].shape[-1])
    for tokens, n in pieces(far.shape[-1], per_key):
        keys = np.swapaxes(stack(np.swapaxes(far[..., tokens], -1, -2), n), -1, -2)
        scores = buffer("scores", (*batch, n, near.shape[-2], keys.shape[-1]), near.dtype)
        np.matmul(near[..., None, :, :], keys, out=scores)
        np.multiply(scores, scores, out=scores)
        for many, into in sides:
            _sum_up(np.matmul(scores, stack(many[..., tokens, :], n)), into, more=True)


def _compact(array: Array) -> Array:
    """Return a copy whose rows follow one another from a cache line on, in a buffer that the thread's next call reuses."""
    copy = buffer("compact", array.shape, array.dtype)
    copy[...] = array
    return copy


def _sum_up(parts: Array, into: Array, *, more: bool) -> None:
    """Write the sum of a stack of matrices, or add it."""
    total = parts[..., 0, :, :]
    if parts.shape[-3] > 1:
        total = np.add.reduce(parts, axis=-3, out=buffer("total", total.shape, parts.dtype))
    if more:
        into += total
    else:
        into[...] = total
