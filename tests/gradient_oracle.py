"""The gradients of the definition over all pairs, in float64 NumPy: no square completed, no features, no tiles.

Beside each gradient stands its size: the same sums with every term positive, which is what rounding errors are relative to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from oracle import DEFAULT, _attended, _pairs, _per_query_head, _per_score, _unit_rows, attention_oracle

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NAMES = ("query", "key", "value", "scale")


def gradients_oracle(
    query: Array,
    key: Array,
    value: Array,
    cotangent: Array,
    *,
    scale: Any = None,
    normalise: bool = True,
    coefficients: tuple[float, float, float] = DEFAULT,
    key_mask: NDArray[np.bool_] | None = None,
    normalise_output: bool = False,
    allowed: NDArray[np.bool_] | None = None,
) -> dict[str, tuple[Array, float]]:
    """Return the gradients of ``sum(cotangent * attention)`` to query, key, value and scale, and the size of each."""
    a, b, c = coefficients
    tau = _per_score((1.0 if normalise else query.shape[-1] ** -0.5) if scale is None else scale, query)
    seen = _pairs(_attended(query, key, key_mask), allowed)
    units, keys = (_unit_rows(query), _unit_rows(key)) if normalise else (query, key)
    keys, values = _per_query_head(query, keys), _per_query_head(query, value)
    cosines = units @ _t(keys)
    weights = np.where(seen, a * (tau * cosines) ** 2 + b * tau * cosines + c, 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    inverse = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    output = inverse * (weights @ values)
    if normalise_output:
        cotangent = cotangent * np.sqrt(seen.sum(axis=-1, keepdims=True) / query.shape[-1])

    def pull(sign: Callable[[Any], Any], minus: int) -> tuple[Array, ...]:
        by, u, k, v, t = sign(cotangent), sign(units), sign(keys), sign(values), sign(tau)
        to_weights = inverse * (by @ _t(v) + minus * np.sum(by * sign(output), axis=-1, keepdims=True))
        to_scores = np.where(seen, to_weights * (2 * a * t * (u @ _t(k)) + sign(b)), 0.0)
        to_query, to_key = t * (to_scores @ k), _t(to_scores) @ (t * u)
        if normalise:
            to_query = _unit_rows_pull(to_query, query, u, sign, minus)
            to_key = _unit_rows_pull(to_key, _per_query_head(query, key), k, sign, minus)
        to_scale = np.sum(to_scores * (u @ _t(k)), axis=(-1, -2), keepdims=True)
        return to_query, to_key, _t(inverse * weights) @ by, to_scale

    shapes = query.shape, key.shape, value.shape, np.shape(scale) if scale is not None else ()
    found = zip(NAMES, pull(lambda x: x, -1), pull(np.abs, 1), shapes, strict=True)
    fitted = {name: (_fit(exact, shape), _fit(size, shape)) for name, exact, size, shape in found}
    return {name: (exact, float(np.max(size, initial=0.0))) for name, (exact, size) in fitted.items()}


def directions(arrays: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    """Return random directions to move in, each row about as far as it is long."""
    rng = np.random.default_rng(seed)
    return tuple(
        None
        if x is None
        else rng.standard_normal(x.shape) * (np.linalg.norm(x, axis=-1, keepdims=True) if x.ndim > 1 else 1)
        for x in arrays
    )


def derivative(function: Callable[[float], Any], step: float = 1e-4) -> Any:
    """Return the derivative of a function of a number at 0, by central differences of fourth order."""
    near, far = (function(h) - function(-h) for h in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def tangent_oracle(arrays: tuple[Any, ...], tangents: tuple[Any, ...], **keywords: Any) -> Array:
    """Return by how much the definition changes as query, key, value and scale move along `tangents`; None stays."""

    def moved(h: float) -> Array:
        query, key, value, scale = (x if by is None else x + h * by for x, by in zip(arrays, tangents, strict=True))
        return attention_oracle(query, key, value, scale=scale, **keywords)

    change: Array = derivative(moved)
    return change


def _t(x: Array) -> Array:
    return np.swapaxes(x, -1, -2)


def _unit_rows_pull(by: Array, rows: Array, units: Array, sign: Callable[[Any], Any], minus: int) -> Array:
    """Return the gradient to rows from that to the same rows divided by their lengths; zero to rows of zeros."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    turned = by + minus * units * np.sum(units * by, axis=-1, keepdims=True)
    return np.divide(turned, length, out=np.zeros(np.broadcast_shapes(turned.shape, length.shape)), where=length > 0)


def _fit(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum `x` over the axes along which an array of this shape was broadcast, groups of heads and the two of a scale too."""
    if len(shape) < x.ndim:  # a scale: one number, or one a head
        x = x.reshape(x.shape[: x.ndim - 2])
        return x.sum(axis=tuple(range(x.ndim - len(shape))))
    if x.ndim > 2 and shape[-3] not in (1, x.shape[-3]):
        x = x.reshape(*x.shape[:-3], shape[-3], x.shape[-3] // shape[-3], *x.shape[-2:]).sum(axis=-3)
    axes = tuple(i for i, size in enumerate(shape) if size == 1 != x.shape[i])
    return x.sum(axis=axes, keepdims=True)
