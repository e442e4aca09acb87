"""Both forms as the paper writes them, in NumPy: every intermediate result is stored, none is a tile.

The paper: Nauen, Palacio, Dengel, TaylorShift, 2024, arXiv 2403.02920. The efficient form takes all head_dim**2 products of
the entries of a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

Array = np.ndarray[Any, Any]


def unit_rows(rows: Array) -> Array:
    """Return rows of length 1."""
    unit: Array = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit


def with_ones(value: Array) -> Array:
    """Return [1, value]: the first column of what is summed becomes the normaliser."""
    return np.concatenate([np.ones_like(value[..., :1]), value], axis=-1)


def squares(rows: Array) -> Array:
    """Return all products of two entries of each row, shape (..., length, head_dim**2)."""
    return (rows[..., :, None] * rows[..., None, :]).reshape(*rows.shape[:-1], -1)


def direct(query: Array, key: Array, value: Array) -> Array:
    """Return attention by all pairs."""
    score = unit_rows(query) @ unit_rows(key).swapaxes(-1, -2)
    weight = score * score
    weight *= 0.5
    weight += score
    weight += 1
    output: Array = (weight @ value) / weight.sum(axis=-1, keepdims=True)
    return output


def efficient(query: Array, key: Array, value: Array) -> Array:
    """Return attention through the products of entries."""
    query, key, value = unit_rows(query), unit_rows(key), with_ones(value)
    second = squares(key).swapaxes(-1, -2) @ value
    sums = 0.5 * (squares(query) @ second)
    sums += query @ (key.swapaxes(-1, -2) @ value)
    sums += value.sum(axis=-2, keepdims=True)
    output: Array = sums[..., 1:] / sums[..., :1]
    return output


def intermediate_sizes(rng: Generator, length: int, head_dim: int, *, normalised: bool) -> dict[str, float]:
    """Return the mean square of the norm of each intermediate result of the efficient form, for one random head.

    Queries and keys have random directions, values are normally distributed. With `normalised`, queries and keys are
    multiplied by head_dim**(1/4), [1, value] by 1/length and the output by sqrt(length/head_dim), as the paper does.
    """
    query, key = (unit_rows(rng.standard_normal((length, head_dim))) for _ in range(2))
    value = with_ones(rng.standard_normal((length, head_dim)))
    alpha = head_dim**0.25 if normalised else 1.0
    query, key, value = alpha * query, alpha * key, value / length if normalised else value
    second = squares(key).T @ value
    parts = squares(query) @ second, alpha**2 * (query @ (key.T @ value)), alpha**4 * value.sum(axis=0)[None]
    sums = 0.5 * parts[0] + parts[1] + parts[2]
    output = sums[:, 1:] / sums[:, :1] * (np.sqrt(length / head_dim) if normalised else 1.0)
    rows = dict(zip(TERMS[1:], (*parts, sums[:, :1], output), strict=True))
    return {TERMS[0]: float(np.sum(second**2))} | {
        name: float(np.mean(np.sum(each**2, axis=-1))) for name, each in rows.items()
    }


TERMS = ("state of squares", "squares read", "products read", "sum of values", "normaliser", "output")


def predicted_sizes(length: int, head_dim: int, *, normalised: bool) -> dict[str, float]:
    """Return the root of the expected square of the norm of each intermediate result, for the inputs described above.

    With s the score of two independent unit vectors, E s² = 1/d and E s⁴ = 3/(d (d + 2)); different tokens are independent.
    The output is the one of many tokens: a quotient has no expectation in closed form.
    """
    n, d = length, head_dim
    fourth = 3 / (d * (d + 2))
    weight, weight_squared = 1 + 1 / (2 * d), 1 + 2 / d + fourth / 4
    square = {
        "state of squares": n + n * (n - 1) / d + d * n,
        "squares read": (n + d * n) * fourth + n * (n - 1) / d**2,
        "products read": n / d + n,
        "sum of values": n * n + d * n,
        "normaliser": n * weight_squared + n * (n - 1) * weight**2,
        "output": d / n * weight_squared / weight**2,
    }
    factor = dict.fromkeys(square, d / n if normalised else 1.0)
    if normalised:
        factor |= {"state of squares": d**0.5 / n, "output": (n / d) ** 0.5}
    return {name: factor[name] * square[name] ** 0.5 for name in TERMS}
