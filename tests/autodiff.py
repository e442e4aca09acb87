"""The definition written out in the operations of a library, and how that library differentiates by itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any
Arrays = tuple[Array, ...]


def definition(
    xp: Any,
    query: Array,
    key: Array,
    value: Array,
    scale: Array,
    *,
    seen: Array,
    coefficients: tuple[float, float, float],
    normalise: bool,
    normalise_output: bool,
) -> Array:
    """Return the mean of the values under the weights a*s**2 + b*s + c of all pairs; `seen` is (..., queries, keys)."""
    a, b, c = coefficients
    if normalise:
        query, key = (x / xp.sqrt(xp.sum(x * x, axis=x.ndim - 1, keepdims=True)) for x in (query, key))
    key, value = (_per_query_head(xp, query, x) for x in (key, value))
    if scale.ndim == 1:
        scale = xp.reshape(scale, (*scale.shape, 1, 1))
    score = scale * xp.matmul(query, xp.matrix_transpose(key))
    weights = xp.where(seen, a * score * score + b * score + c, xp.zeros_like(score))
    normaliser = xp.sum(weights, axis=weights.ndim - 1, keepdims=True)
    output = xp.matmul(weights, value) / xp.where(normaliser > 0, normaliser, xp.ones_like(normaliser))
    if normalise_output:
        count = xp.sum(xp.astype(seen, output.dtype), axis=seen.ndim - 1, keepdims=True)
        output = output * xp.sqrt(count / query.shape[-1])
    return output


def _per_query_head(xp: Any, query: Array, rows: Array) -> Array:
    """Repeat each kv head for the query heads of its group."""
    *batch, kv_heads, tokens, dim = rows.shape
    shape = *batch, kv_heads, query.shape[-3] // kv_heads, tokens, dim
    rows = xp.broadcast_to(xp.expand_dims(rows, axis=rows.ndim - 2), shape)
    return xp.reshape(rows, (*batch, query.shape[-3], tokens, dim))


def _torch(function: Callable[..., Array], arrays: Arrays, cotangent: Array) -> Arrays:
    torch = import_module("torch")
    arrays = tuple(x.detach().requires_grad_() for x in arrays)
    gradients: Arrays = torch.autograd.grad(function(*arrays), arrays, cotangent)
    return gradients


def _jax(function: Callable[..., Array], arrays: Arrays, cotangent: Array) -> Arrays:
    jax = import_module("jax")

    def pulled(arrays: Arrays, cotangent: Array) -> Arrays:
        gradients: Arrays = jax.vjp(function, *arrays)[1](cotangent)
        return gradients

    gradients: Arrays = jax.jit(pulled)(arrays, cotangent)
    return gradients


def _mlx(function: Callable[..., Array], arrays: Arrays, cotangent: Array) -> Arrays:
    mx = import_module("mlx.core")
    return tuple(mx.vjp(lambda *given: [function(*given)], list(arrays), [cotangent])[1])


# (function, arrays, cotangent) -> gradients
NATIVE: dict[str, Callable[[Callable[..., Array], Arrays, Array], Arrays]] = {"torch": _torch, "jax": _jax, "mlx": _mlx}
