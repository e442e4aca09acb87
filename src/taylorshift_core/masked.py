"""Sums over what a mask allows: what it hides changes nothing, not even a NaN or an infinity."""

from __future__ import annotations

from typing import Any

Array = Any


def sum_allowed(xp: Any, weights: Array, values: Array, allowed: Array) -> Array:
    """Return ``weights @ values`` over the pairs that are allowed.

    Parameters
    ----------
    weights : array, shape (..., queries, keys)
        The caller's to give away: it may be written.
    values : array, shape (..., keys, columns)
    allowed : boolean array, broadcasts to (..., queries, keys)

    Returns
    -------
    array, shape (..., queries, columns)
        NaN where a query sees a value that is not finite.
    """
    weights, ones = xp.where(allowed, weights, xp.zeros_like(weights)), xp.astype(allowed, values.dtype)
    finite = xp.isfinite(values)  # zero times NaN is NaN: sum without them, and spoil only who sees them
    spoiled = xp.matmul(ones, xp.where(finite, xp.zeros_like(values), xp.ones_like(values))) > 0
    sums = xp.matmul(weights, xp.where(finite, values, xp.zeros_like(values)))
    return xp.where(spoiled, xp.full_like(sums, xp.nan), sums)
