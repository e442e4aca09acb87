"""From the caller's arrays to what both forms work on.

Inside the core every array has the axes ``(..., kv_heads, groups, tokens, dim)``: the query heads that share a key
head stand on an axis of their own, which keys and values carry with size 1 and broadcast. Tiles of queries and keys
are feature-major, ``(..., dim + 1, tokens)``: normalised, and augmented by the row that completes the square.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from taylorshift_core._checks import is_array
from taylorshift_core._namespace import sizes_of

if TYPE_CHECKING:
    from taylorshift_core._backend import Backend
    from taylorshift_core._call import Call
    from taylorshift_core._checks import Problem, Weighting

Array = Any
_MATRIX = 2


def group_query(xp: Any, query: Array, problem: Problem) -> Array:
    """Return `query` with its heads axis split into (kv_heads, groups)."""
    if query.ndim == _MATRIX:
        return query
    if problem.groups == 1:
        return _with_groups(query)
    return xp.reshape(query, (*query.shape[:-3], problem.kv_heads, problem.groups, *query.shape[-2:]))


def group_key(array: Array) -> Array:
    """Return `key` or `value` with a groups axis of size 1."""
    return array if array.ndim == _MATRIX else _with_groups(array)


def _with_groups(array: Array) -> Array:
    return array[..., None, :, :]  # by index: `expand_dims` takes longer in NumPy than a short sequence in a kernel


def ungroup(xp: Any, output: Array, problem: Problem) -> Array:
    """Return the output with its (kv_heads, groups) axes joined into heads again."""
    if output.ndim == _MATRIX:
        return output
    if problem.groups == 1:
        return xp.squeeze(output, axis=output.ndim - 3)
    return xp.reshape(output, (*output.shape[:-4], problem.heads, *output.shape[-2:]))


def ungroup_key(xp: Any, array: Array) -> Array:
    """Return a state without its groups axis of size 1."""
    return array if array.ndim == _MATRIX else xp.squeeze(array, axis=array.ndim - 3)


def group_dense(xp: Any, allowed: Array | None, query: Array, key: Array, problem: Problem) -> Array | None:
    """Return a dense mask as (..., kv_heads or 1, groups or 1, queries, keys), whole along queries and keys."""
    if allowed is None:
        return None
    while allowed.ndim < query.ndim:
        allowed = xp.expand_dims(allowed, axis=0)
    if sizes_of(allowed)[-2:] != (problem.query_length, problem.key_length):
        allowed = xp.broadcast_to(allowed, (*allowed.shape[:-2], query.shape[-2], key.shape[-2]))
    if problem.single or allowed.shape[-3] == 1:
        return group_key(allowed)
    return group_query(xp, allowed, problem)


def group_mask(xp: Any, key_mask: Array | None, key: Array, problem: Problem) -> Array | None:
    """Return the mask as (..., kv_heads or 1, groups or 1, tokens, 1), to stand beside a value tile."""
    if key_mask is None or key.ndim == _MATRIX:
        return key_mask if key_mask is None else xp.expand_dims(key_mask, axis=1)
    mask = xp.expand_dims(key_mask, axis=key_mask.ndim)
    while mask.ndim < key.ndim:  # no heads axis, or the length alone
        mask = xp.expand_dims(mask, axis=mask.ndim - 2 if mask.ndim == key.ndim - 1 else 0)
    if mask.shape[-3] in (1, problem.kv_heads):
        return xp.expand_dims(mask, axis=mask.ndim - 2)
    return xp.reshape(mask, (*mask.shape[:-3], problem.kv_heads, problem.groups, *mask.shape[-2:]))


def group_scale(call: Call, scale: Any) -> Array:
    """Return the scale as an array (..., kv_heads or 1, groups or 1, 1, 1) in the working dtype."""
    xp, problem = call.backend.namespace, call.problem
    axes = _MATRIX if problem.single else len(problem.batch) + 4
    if scale is None:
        scale = 1.0 if call.weighting.normalise else 1 / math.sqrt(problem.head_dim)
    if not is_array(scale):
        place = {} if call.device is None else {"device": call.device}
        return xp.full((1,) * axes, float(scale), dtype=call.dtype, **place)
    scale = xp.astype(scale, call.dtype)
    if scale.ndim == 0 or problem.single:
        return xp.reshape(scale, (1,) * axes)
    if scale.ndim == 1:
        scale = xp.reshape(scale, (*(1,) * len(problem.batch), problem.heads, 1, 1))
    return group_query(xp, scale, problem) if scale.shape[-3] != 1 else group_key(scale)


def prepare_query(backend: Backend, query: Array, scale: Array, weighting: Weighting) -> Array:
    """Return the rows [scale * q, beta] of a tile of queries, one column a token."""
    query = _widen(backend, query)
    return backend.augment(backend, query, scale, weighting.beta, normalise=weighting.normalise)


def prepare_key(backend: Backend, key: Array, mask: Array | None, weighting: Weighting) -> Array:
    """Return the rows [k, 1] of a tile of keys, one column a token; masked keys are taken as zero."""
    key = _widen(backend, key)
    if mask is not None:
        key = backend.namespace.where(mask, key, backend.namespace.zeros_like(key))
    return backend.augment(backend, key, None, 1.0, normalise=weighting.normalise)


def prepare_value(backend: Backend, value: Array, mask: Array | None) -> Array:
    """Return [v, 1] of a tile of values, one row a token; rows of masked keys are zero, whatever stood there."""
    xp = backend.namespace
    value = _widen(backend, value)
    value = xp.concat([value, xp.ones_like(value[..., :1])], axis=value.ndim - 1)
    return value if mask is None else xp.where(mask, value, xp.zeros_like(value))


def _widen(backend: Backend, array: Array) -> Array:
    dtype = backend.working_dtype(backend.namespace, array.dtype)
    return array if array.dtype == dtype else backend.namespace.astype(array, dtype)
