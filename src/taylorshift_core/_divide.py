"""From weighted sums of [value, 1] to outputs: the last step of every form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taylorshift_core._run import Run

Array = Any


def divide(run: Run, sums: Array, count: Array, query: Array) -> Array:
    """Return ``sums[..., :-1] / sums[..., -1:]`` in the dtype of `query`; 0 for a query that may attend no key.

    The normaliser is a sum of weights that are positive, so it is zero only where nothing is attended, and the sums
    beside it are zero too. `count` is the number of keys attended: outputs of mean size one are multiplied by
    sqrt(count / head_dim), which the paper calls output normalisation.

    With `run.keep` the result is [output, 1 / normaliser] in the working dtype, and `count` where outputs have mean size
    one; the inverse is 0 where nothing is attended. `outputs_of` and `divide_vjp` read it.
    """
    xp = run.xp
    normaliser = sums[..., -1:]
    inverse = 1 / xp.where(normaliser == 0, xp.ones_like(normaliser), normaliser)
    factor = inverse
    if run.mean_size_one:  # with no key attended any factor will do, and the root of zero has no gradient
        factor = inverse * xp.sqrt(xp.where(count == 0, xp.ones_like(count), count) / query.shape[-1])
    output = sums[..., :-1] * factor
    if run.keep:
        kept = [output, xp.where(normaliser == 0, xp.zeros_like(inverse), inverse)]
        kept += [xp.broadcast_to(count, inverse.shape)] if run.mean_size_one else []
        return xp.concat(kept, axis=output.ndim - 1)
    return output if output.dtype == query.dtype else xp.astype(output, query.dtype)


def outputs_of(run: Run, kept: Array, query: Array) -> Array:
    """Return the outputs, in the dtype of `query`, out of what `divide` kept; a copy, which its owner may write."""
    return run.xp.astype(kept[..., : -2 if run.mean_size_one else -1], query.dtype)


def divide_vjp(run: Run, kept: Array, cotangent: Array, head_dim: int) -> tuple[Array, Array]:
    """Return the gradients to `sums`, shape (..., tokens, value_dim + 1), and to `count`, shape (..., tokens, 1)."""
    xp, value_dim = run.xp, cotangent.shape[-1]
    output, inverse = kept[..., :value_dim], kept[..., value_dim : value_dim + 1]
    cotangent = cotangent if cotangent.dtype == kept.dtype else xp.astype(cotangent, kept.dtype)
    along = xp.sum(cotangent * output, axis=output.ndim - 1, keepdims=True)
    factor, to_count = inverse, xp.zeros_like(along)
    if run.mean_size_one:
        count = kept[..., value_dim + 1 :]
        factor = factor * xp.sqrt(count / head_dim)
        to_count = along / (2 * xp.where(count == 0, xp.ones_like(count), count))
    return xp.concat([cotangent * factor, -along * inverse], axis=output.ndim - 1), to_count


def divide_jvp(run: Run, sums: tuple[Array, Array], count: tuple[Array, Array], query: Array) -> tuple[Array, Array]:
    """Return outputs and their tangents, from sums and counts with theirs."""
    xp, (sums_at, sums_by), (count_at, count_by) = run.xp, sums, count
    normaliser = sums_at[..., -1:]
    inverse = 1 / xp.where(normaliser == 0, xp.ones_like(normaliser), normaliser)
    output = sums_at[..., :-1] * inverse
    tangent = (sums_by[..., :-1] - output * sums_by[..., -1:]) * inverse
    if run.mean_size_one:
        factor = xp.sqrt(count_at / query.shape[-1])
        growth = count_by / (2 * xp.where(count_at == 0, xp.ones_like(count_at), count_at))
        output, tangent = output * factor, (tangent + output * growth) * factor
    if output.dtype == query.dtype:
        return output, tangent
    return xp.astype(output, query.dtype), xp.astype(tangent, query.dtype)
