"""The definition of TaylorShift attention over all pairs, in float64 NumPy; what every other result is held against.

Nothing here completes the square, uses features or tiles: `weights_of` says p(s) = a s² + b s + c and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Scale = float | NDArray[np.float64] | None
    Coefficients = tuple[float, float, float]

DEFAULT = (0.5, 1.0, 1.0)


def attention_oracle(
    query: NDArray[np.float64],
    key: NDArray[np.float64],
    value: NDArray[np.float64],
    *,
    scale: Scale = None,
    normalise: bool = True,
    coefficients: Coefficients = DEFAULT,
    key_mask: NDArray[np.bool_] | None = None,
    normalise_output: bool = False,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return the average of `value` under the weights p(score), 0 for a query that may attend no key."""
    settings = {"scale": scale, "normalise": normalise, "coefficients": coefficients, "key_mask": key_mask}
    with np.errstate(all="ignore"):
        weights = weights_of(query, key, **settings, allowed=allowed)
        attended = _attended(query, key, key_mask)
        values = np.where(attended[..., None], _per_query_head(query, value), 0.0)
        count = _pairs(attended, allowed).sum(axis=-1, keepdims=True)
        average = np.where(count > 0, weights @ values / weights.sum(axis=-1, keepdims=True), 0.0)
    return average * np.sqrt(count / query.shape[-1]) if normalise_output else average


def attention_weights_oracle(
    query: NDArray[np.float64],
    key: NDArray[np.float64],
    *,
    scale: Scale = None,
    normalise: bool = True,
    coefficients: Coefficients = DEFAULT,
    key_mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return the weights divided by their sum: rows sum to 1, or are 0 where no key may be attended."""
    with np.errstate(all="ignore"):
        weights = weights_of(query, key, scale=scale, normalise=normalise, coefficients=coefficients, key_mask=key_mask)
        some = _attended(query, key, key_mask).any(axis=-1)[..., None, None]
        return np.where(some, weights / weights.sum(axis=-1, keepdims=True), 0.0)


def weights_of(
    query: NDArray[np.float64],
    key: NDArray[np.float64],
    *,
    scale: Scale = None,
    normalise: bool = True,
    coefficients: Coefficients = DEFAULT,
    key_mask: NDArray[np.bool_] | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return p(score) for every pair, 0 where the key is masked or not allowed to the query, not yet divided."""
    a, b, c = coefficients
    if scale is None:
        scale = 1.0 if normalise else query.shape[-1] ** -0.5
    if normalise:
        query, key = _unit_rows(query), _unit_rows(key)
    score = _per_score(scale, query) * (query @ np.swapaxes(_per_query_head(query, key), -1, -2))
    return np.where(_pairs(_attended(query, key, key_mask), allowed), a * score**2 + b * score + c, 0.0)


def cancellation(
    query: NDArray[np.float64],
    key: NDArray[np.float64],
    *,
    scale: Scale = None,
    normalise: bool = True,
    coefficients: Coefficients = DEFAULT,
    key_mask: NDArray[np.bool_] | None = None,
    **_: object,
) -> float:
    """Return how much larger the terms of the normaliser are than itself, where weights may vanish; else 1.

    There (score + beta)**2 is all there is to a weight, and is summed of terms that may be much larger than it.
    """
    a, b, c = coefficients
    if 4 * a * c > b * b:
        return 1.0
    settings = {"normalise": normalise, "key_mask": key_mask}
    size = np.abs(1.0 if scale is None else scale) * (query.shape[-1] ** -0.5 if scale is None and not normalise else 1)
    terms = weights_of(np.abs(query), np.abs(key), scale=size, coefficients=(a, abs(b), c), **settings).sum(axis=-1)
    total = weights_of(query, key, scale=scale, coefficients=coefficients, **settings).sum(axis=-1)
    return float(np.max(np.divide(terms, total, out=np.ones_like(total), where=total > 0), initial=1.0))


def causal(
    query_length: int, key_length: int, *, past: int = 0, block: int = 1, prefix: int = 0, window: int | None = None
) -> NDArray[np.bool_]:
    """Return which of the keys (columns) each query (rows) sees; of the keys the first `past` came before all queries."""
    i, j = np.arange(query_length)[:, None], np.arange(key_length)[None, :] - past
    seen = (j < prefix) | ((i >= prefix) & ((i - prefix) // block >= (j - prefix) // block))
    return seen if window is None else seen & (j > i - window)


def packed(queries: Sequence[int], keys: Sequence[int]) -> NDArray[np.bool_]:
    """Return which keys each query sees where sequences of these lengths lie end to end."""
    i, j = (np.repeat(np.arange(len(lengths)), lengths) for lengths in (queries, keys))
    return i[:, None] == j[None, :]


def _pairs(attended: NDArray[np.bool_], allowed: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return which pairs count: (..., queries or 1, keys)."""
    return attended[..., None, :] if allowed is None else attended[..., None, :] & allowed


def _unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each row by its length; a zero row stays zero (its largest entry goes first, against overflow)."""
    largest = np.max(np.abs(rows), axis=-1, keepdims=True)
    rows = rows / np.where(largest == 0, 1.0, largest)
    length = np.sqrt(np.sum(rows * rows, axis=-1, keepdims=True))
    return rows / np.where(length == 0, 1.0, length)


def _per_score(scale: float | NDArray[np.float64], query: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give a scale per head the two axes of the scores."""
    scale = np.asarray(scale, dtype=np.float64)
    return scale[:, None, None] if scale.ndim == 1 and query.ndim > 1 else scale


def _per_query_head(query: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Repeat each kv head for the query heads of its group; two axes mean there are no heads."""
    return rows if rows.ndim == 2 else np.repeat(rows, query.shape[-3] // rows.shape[-3], axis=-3)


def _attended(
    query: NDArray[np.float64], key: NDArray[np.float64], key_mask: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Return the mask per query head, (..., heads, key_length), or (key_length,) where there are no heads."""
    if key_mask is None:
        key_mask = np.ones(key.shape[-2], dtype=np.bool_)
    if key.ndim == 2:
        return key_mask
    heads, kv_heads = query.shape[-3], key.shape[-3]
    if key_mask.ndim == key.ndim - 1 and key_mask.ndim > 1:
        return np.repeat(key_mask, heads // kv_heads, axis=-2) if key_mask.shape[-2] == kv_heads else key_mask
    return key_mask[..., None, :]
