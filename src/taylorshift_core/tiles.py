"""The products of attention and its gradient, a tile at a time: nearly all the time of both forms is spent in them.

Each is a few matrix products around one elementwise multiplication. What is written here is the plain form for any
library; an adapter may give its `Backend` one that does the same in larger or smaller pieces.

A tile comes prepared, and what stands around its products is the core's. An adapter that can do better in one piece gives
`Backend.whole_step`, which is asked by name and arrays, and answers with a step of the loops or None:

* "summarise": ``(run, key, value[, mask]) -> (state,)``, what `_efficient.summarise` folds;
* "read": ``(run, query, state, scale) -> (output,)``, what `_efficient.attend` maps over queries;
* "scan": ``(run, state, query, key, value[, mask], scale) -> (state, (output,))``, causal attention in either form, called
  once with all tokens; see `taylorshift_core.walk`. It is asked with the state first: one without rows and columns stands for
  no keys, and then none is wanted behind the tokens;
* "meet": ``(run, query, key, value, scale[, mask]) -> (output,)``, the direct form, mapped over queries;
* "read_vjp": ``(run, query, kept, cotangent, scale, state) -> (to_query, to_scale, to_state)``, and
  "summarise_vjp": ``(run, key, value[, mask], to_state) -> (to_key, to_value)``, see `_efficient_gradients`;
* "meet_vjp": ``(run, query, kept, cotangent, scale, key, value[, mask]) -> (to_query, to_scale, to_key, to_value)``, see
  `_direct_gradients`, and "meet_causal_vjp", the same for as many queries as keys of which each sees those up to its own.
  These four take all tokens at once, and answer with all the leading axes that they broadcast to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core.features import offset_blocks

if TYPE_CHECKING:
    from taylorshift_core._backend import Backend

Array = Any


def state_tile(backend: Backend, x: Array, values: Array, offsets: int) -> Array:
    """Return the sum over tokens of features times values: the state of a tile.

    Parameters
    ----------
    x : array, shape (..., width, tokens)
        Prepared tokens, one column each.
    values : array, shape (..., tokens, columns)
    offsets
        How many offsets of the feature map to build at once, see `taylorshift_core.features`.

    Returns
    -------
    array, shape (..., n_features(width), columns)
    """
    xp = backend.namespace
    blocks = offset_blocks(x.shape[-2], offsets)
    parts = [xp.matmul(backend.feature_tile(xp, x, first, last), values) for first, last, _, _ in blocks]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=parts[0].ndim - 2)


def read_tile(backend: Backend, x: Array, weighted: Array, offsets: int) -> Array:
    """Return the sum over features of features times weighted state: what a tile of tokens reads.

    Parameters
    ----------
    x : array, shape (..., width, tokens)
    weighted : array, shape (..., n_features(width), columns)
    offsets
        As in `state_tile`.

    Returns
    -------
    array, shape (..., tokens, columns)
    """
    xp, sums = backend.namespace, None
    for first, last, start, stop in offset_blocks(x.shape[-2], offsets):
        features = xp.matrix_transpose(backend.feature_tile(xp, x, first, last))
        part = xp.matmul(features, weighted[..., start:stop, :])
        sums = part if sums is None else sums + part
    return sums


def back_tile(backend: Backend, x: Array, weighted: Array, columns: Array, offsets: int) -> Array:
    """Return the gradient of ``sum(columns * read_tile(backend, x, weighted, offsets))`` to `x`.

    Parameters
    ----------
    x : array, shape (..., width, tokens)
    weighted : array, shape (..., n_features(width), columns)
    columns : array, shape (..., tokens, columns)
    offsets
        As in `state_tile`.

    Returns
    -------
    array, shape (..., width, tokens)
    """
    xp, total = backend.namespace, None
    columns = xp.matrix_transpose(columns)
    for first, last, start, stop in offset_blocks(x.shape[-2], offsets):
        to_features = xp.matmul(weighted[..., start:stop, :], columns)
        part = backend.fold_back(xp, x, to_features, first, last)
        total = part if total is None else total + part
    return total


def meet_tile(backend: Backend, queries: Array, keys: Array, values: Array) -> Array:
    """Return the sum over keys of (query . key)**2 times value.

    Parameters
    ----------
    queries : array, shape (..., queries, width)
    keys : array, shape (..., keys, width)
    values : array, shape (..., keys, columns)

    Returns
    -------
    array, shape (..., queries, columns)
    """
    xp = backend.namespace
    return xp.matmul(backend.squared_product(xp, queries, xp.matrix_transpose(keys)), values)


def meet_back_tile(
    backend: Backend, queries: Array, keys: Array, values: Array, cotangent: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of ``sum(cotangent * meet_tile(backend, queries, keys, values))``.

    Parameters
    ----------
    queries : array, shape (..., queries, width)
    keys : array, shape (..., keys, width)
    values : array, shape (..., keys, columns)
    cotangent : array, shape (..., queries, columns)

    Returns
    -------
    three arrays
        To queries, to keys and to values, in five products of all pairs, where `meet_tile` has two. Each may have all
        the leading axes that the arrays broadcast to.
    """
    xp = backend.namespace
    scores = xp.matmul(queries, xp.matrix_transpose(keys))
    to_scores = xp.matmul(2 * cotangent, xp.matrix_transpose(values))
    to_scores *= scores
    weights = scores * scores  # not in place: the gradients to the scores, which may be differentiated, hold them
    return (
        xp.matmul(to_scores, keys),
        xp.matmul(xp.matrix_transpose(to_scores), queries),
        xp.matmul(xp.matrix_transpose(weights), cotangent),
    )
