"""Gradients and tangents through `_prepare`: rows are scaled, normalised, augmented and masked there, and so are these.

A row of zeros stays zero however its neighbours move, by the convention of `attention`: its gradient and its tangent
are zero. Nothing behind a mask has either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core.augment import inverse_length

if TYPE_CHECKING:
    from taylorshift_core._backend import Backend
    from taylorshift_core._checks import Weighting

Array = Any


def units_of(backend: Backend, query: Array, scale: Array, weighting: Weighting) -> tuple[Array, Array]:
    """Return a tile of queries as columns not yet scaled, and as `prepare_query` has them."""
    xp = backend.namespace
    units = backend.augment(backend, _widen(backend, query), None, weighting.beta, normalise=weighting.normalise)
    scale = xp.broadcast_to(scale, (*scale.shape[:-2], query.shape[-1], 1))
    return units, units * xp.concat([scale, xp.ones_like(scale[..., :1, :])], axis=scale.ndim - 2)


def query_vjp(
    backend: Backend, query: Array, units: Array, scale: Array, cotangent: Array, weighting: Weighting
) -> tuple[Array, Array]:
    """Return the gradients to a tile of queries and, one number a token, to its scale.

    `units` is the first of `units_of`; `cotangent`, shape (..., head_dim + 1, tokens), belongs to the second.
    """
    query, normalise = _widen(backend, query), weighting.normalise
    to_query, to_scale = backend.augment_back(backend.namespace, query, units, cotangent, scale, normalise=normalise)
    return to_query, to_scale


def key_vjp(
    backend: Backend, key: Array, mask: Array | None, units: Array, cotangent: Array, weighting: Weighting
) -> Array:
    """Return the gradient to a tile of keys, from that to `units`, what `prepare_key` made."""
    xp, normalise = backend.namespace, weighting.normalise
    key = _widen(backend, _visible(xp, key, mask))
    to_key, _ = backend.augment_back(xp, key, units, cotangent, None, normalise=normalise)
    return _visible(xp, to_key, mask)


def value_vjp(backend: Backend, mask: Array | None, cotangent: Array) -> Array:
    """Return the gradient to a tile of values, from that to what `prepare_value` made."""
    return _visible(backend.namespace, cotangent[..., :-1], mask)


def query_jvp(
    backend: Backend, query: Array, units: Array, scale: Array, tangents: tuple[Array, Array], weighting: Weighting
) -> Array:
    """Return by how much a prepared tile of queries changes with the queries and their scale, whose tangents are given."""
    xp, (by_query, by_scale), units = backend.namespace, tangents, units[..., :-1, :]
    tangent = _units_jvp(backend, query, units, by_query, weighting)
    return _constant_row(xp, scale * tangent + by_scale * units)


def key_jvp(
    backend: Backend, key: Array, mask: Array | None, units: Array, by_key: Array, weighting: Weighting
) -> Array:
    """Return by how much a prepared tile of keys changes with the keys, whose tangent is given."""
    xp = backend.namespace
    key, by_key = _visible(xp, key, mask), _visible(xp, by_key, mask)
    return _constant_row(xp, _units_jvp(backend, key, units[..., :-1, :], by_key, weighting))


def value_jvp(backend: Backend, by_value: Array, mask: Array | None) -> Array:
    """Return by how much `prepare_value` changes with a tile of values, whose tangent is given."""
    xp = backend.namespace
    tangent = _widen(backend, _visible(xp, by_value, mask))
    return xp.concat([tangent, xp.zeros_like(tangent[..., :1])], axis=tangent.ndim - 1)


def _units_jvp(backend: Backend, tokens: Array, units: Array, by_tokens: Array, weighting: Weighting) -> Array:
    xp = backend.namespace
    tokens, tangent = _widen(backend, tokens), xp.matrix_transpose(_widen(backend, by_tokens))
    if not weighting.normalise:
        return tangent
    along = xp.sum(units * tangent, axis=tangent.ndim - 2, keepdims=True)
    return (tangent - units * along) * inverse_length(xp, tokens, units)


def _visible(xp: Any, tokens: Array, mask: Array | None) -> Array:
    return tokens if mask is None else xp.where(mask, tokens, xp.zeros_like(tokens))


def _constant_row(xp: Any, tangent: Array) -> Array:
    """Return the tangent with that of the constant row behind it."""
    return xp.concat([tangent, xp.zeros_like(tangent[..., :1, :])], axis=tangent.ndim - 2)


def _widen(backend: Backend, array: Array) -> Array:
    dtype = backend.working_dtype(backend.namespace, array.dtype)
    return array if array.dtype == dtype else backend.namespace.astype(array, dtype)
