"""The symmetric square of a vector: its products of pairs, each pair once.

For x with m entries the features are x_i x_j for every unordered pair. They are laid out by cyclic offset: block o
holds x_i x_(i+o mod m) for i = 0..m-1, so that a block is one multiplication of whole rows and all blocks together
are one multiplication with a sliding window. Offsets 0..m//2 meet every pair once, but for the last offset of an even
m, whose second half repeats its first and is left out: m (m + 1) / 2 features. Pairs of different entries stand for
two terms of the square, so ``(x . y)**2 = sum(multiplicity * features(x) * features(y))`` with multiplicity 1 in
block 0 and 2 elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = Any


def n_features(width: int) -> int:
    """Return the number of features of a vector with `width` entries."""
    return width * (width + 1) // 2


def n_offsets(width: int) -> int:
    """Return the number of cyclic offsets that meet every pair."""
    return width // 2 + 1


def offset_blocks(width: int, at_once: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield first and last-plus-one offset of each block, and first and last-plus-one row of its features."""
    for first in range(0, n_offsets(width), at_once):
        last = min(first + at_once, n_offsets(width))
        yield first, last, first * width, min(last * width, n_features(width))


def feature_tile(xp: Any, x: Array, first: int, last: int) -> Array:
    """Return the features of offsets first..last-1 of a tile of tokens.

    Parameters
    ----------
    x : array, shape (..., width, tokens)
        One column a token.

    Returns
    -------
    array, shape (..., rows, tokens)
        `width` rows an offset; half of that at the last offset of an even width.
    """
    width = x.shape[-2]
    doubled = xp.concat([x, x[..., : max(last - 1, 0), :]], axis=x.ndim - 2) if last > 1 else x
    rows = [(o, width // 2 if 2 * o == width else width) for o in range(first, last)]
    parts = [x[..., :n, :] * doubled[..., o : o + n, :] for o, n in rows]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=x.ndim - 2)


def tangent_tile(xp: Any, x: Array, tangent: Array, first: int, last: int) -> Array:
    """Return by how much the features of `feature_tile` change as `x` moves along `tangent`, of the same shape."""
    width, axis = x.shape[-2], x.ndim - 2
    near, near_tangent = xp.expand_dims(x, axis=axis), xp.expand_dims(tangent, axis=axis)
    changes = near * _partners(xp, tangent, first, last) + near_tangent * _partners(xp, x, first, last)
    rows = xp.reshape(changes, (*changes.shape[:-3], (last - first) * width, x.shape[-1]))
    return rows[..., : min(last * width, n_features(width)) - first * width, :]


def fold_back(xp: Any, x: Array, cotangent: Array, first: int, last: int) -> Array:
    """Return the gradient of ``sum(cotangent * feature_tile(xp, x, first, last))`` to `x`.

    Parameters
    ----------
    x : array, shape (..., width, tokens)
    cotangent : array, shape (..., rows, tokens)
        One row a feature, as `feature_tile` lays them out; it may have more leading axes than `x`.

    Returns
    -------
    array, shape (..., width, tokens)

    Notes
    -----
    Two multiplications and two additions a feature: it is a product of a near and a far row, and goes back to both.
    What goes back to the far rows stands in diagonals; they become columns as rows are laid out one shorter.
    """
    count, (width, tokens), axis = last - first, x.shape[-2:], cotangent.ndim - 2
    leading = cotangent.shape[:-2]
    blocks = _below(xp, cotangent, count * width)
    blocks = xp.reshape(blocks, (*leading, count, width, tokens))
    to_near = xp.sum(blocks * _partners(xp, x, first, last), axis=axis)
    longer = width + count - 1
    products = _below(xp, blocks * xp.expand_dims(x, axis=x.ndim - 2), longer + 1)
    products = xp.reshape(products, (*leading, count * (longer + 1), tokens))[..., : count * longer, :]
    diagonals = xp.sum(xp.reshape(products, (*leading, count, longer, tokens)), axis=axis)
    around = [xp.zeros_like(diagonals[..., :first, :]), diagonals]
    to_far = _below(xp, xp.concat(around, axis=axis), 2 * width)
    return to_near + to_far[..., :width, :] + to_far[..., width:, :]


def _partners(xp: Any, x: Array, first: int, last: int) -> Array:
    """Return (..., offsets, width, tokens): the rows of `x` from each offset on, once around."""
    *leading, width, tokens = x.shape
    count, axis = last - first, x.ndim - 2
    rows = xp.broadcast_to(xp.expand_dims(x, axis=axis), (*leading, count + 1, width, tokens))
    rows = xp.reshape(rows, (*leading, (count + 1) * width, tokens))
    if first:
        rows = xp.concat([rows[..., first:, :], rows[..., :first, :]], axis=axis)
    rows = xp.reshape(rows[..., : count * (width + 1), :], (*leading, count, width + 1, tokens))
    return rows[..., :width, :]


def _below(xp: Any, x: Array, rows: int) -> Array:
    """Return `x` with zeros below it, up to so many rows."""
    missing = rows - x.shape[-2]
    if missing == 0:
        return x
    zeros = xp.broadcast_to(xp.zeros_like(x[..., :1, :]), (*x.shape[:-2], missing, x.shape[-1]))
    return xp.concat([x, zeros], axis=x.ndim - 2)


def apply_multiplicity(xp: Any, state: Array, width: int) -> Array:
    """Return the state, shape (..., features, columns), with each row times its multiplicity."""
    ones = xp.ones_like(state[..., :1])
    return state * xp.concat([ones[..., :width, :], 2 * ones[..., width:, :]], axis=state.ndim - 2)
