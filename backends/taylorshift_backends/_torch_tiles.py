"""Tiles in plain tensors of the CPU: fewer operations, into memory that is used again."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import torch

from taylorshift_backends._torch_kinds import plain, writable
from taylorshift_core import augment as generic
from taylorshift_core import features

if TYPE_CHECKING:
    from taylorshift_core import Backend

Array = Any
_kept = threading.local()


def buffer(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return uninitialised memory that this thread gets again at the next call with that name."""
    size = math.prod(shape) * dtype.itemsize
    memory = getattr(_kept, name, None)
    if memory is None or not size <= memory.numel() <= max(4 * size, 1 << 20):
        with torch.inference_mode(mode=False):  # else it could not be written outside of that mode
            memory = torch.empty(size, dtype=torch.uint8, device="cpu")
        setattr(_kept, name, memory)
    return memory[:size].view(dtype).view(shape)


def augment(backend: Backend, tokens: Array, scale: Array | None, last: float, *, normalise: bool) -> Array:
    """Return the columns [scale * x / |x|, last]; where squares may not be exact, the careful way."""
    if not plain(tokens) or not normalise:
        return generic.augment(backend, tokens, scale, last, normalise=normalise)
    squares = torch.linalg.vecdot(tokens, tokens).unsqueeze(-2)
    limits = torch.finfo(tokens.dtype)
    exact = (squares > limits.tiny / limits.eps) & (squares < limits.max)
    *batch, length, dim = tokens.shape
    x = tokens.new_empty((*batch, dim + 1, length))
    factor = torch.rsqrt(squares) if scale is None else scale * torch.rsqrt(squares)
    torch.mul(tokens.mT, factor, out=x[..., :dim, :])
    if not exact.all():  # token by token: what one holds must not change a bit of another
        careful = generic.augment(backend, tokens, scale, last, normalise=True)
        x[..., :dim, :] = torch.where(exact, x[..., :dim, :], careful[..., :dim, :])
    x[..., dim:, :] = last
    return x


def feature_tile(xp: Any, x: Array, first: int, last: int) -> Array:
    """Return the features of offsets first..last-1, in memory that the thread's next call uses again."""
    if not plain(x):
        return features.feature_tile(xp, x, first, last)
    *batch, width, length = x.shape
    doubled = buffer("doubled", (*batch, width + last - 1, length), x.dtype)
    doubled[..., :width, :] = x
    doubled[..., width:, :] = x[..., : last - 1, :]
    row, column = doubled.stride()[-2:]
    shape, strides = (*batch, last - first, width, length), (*doubled.stride()[:-2], row, row, column)
    windows = doubled.as_strided(shape, strides, doubled.storage_offset() + first * row)
    products = buffer("features", shape, x.dtype)
    torch.mul(x.unsqueeze(-3), windows, out=products)
    n_rows = min(last * width, features.n_features(width)) - first * width
    return products.view((*batch, (last - first) * width, length))[..., :n_rows, :]


def squared_product(xp: Any, first: Array, second: Array) -> Array:
    """Return matmul(first, second)**2, over the product where nothing records how it came about."""
    if plain(first) and plain(second):
        leading = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
        product = buffer("scores", (*leading, first.shape[-2], second.shape[-1]), first.dtype)
        torch.matmul(first, second, out=product)
        return product.mul_(product)
    product = xp.matmul(first, second)
    return product.mul_(product) if writable(product) else product * product


def matmul(first: Array, second: Array) -> Array:
    """Return the product, computed the other way round where rows of the first lie in columns: then both run along memory."""
    turned = plain(first) and first.ndim > 1 and first.stride(-2) == 1 < first.stride(-1)
    return torch.matmul(second.mT, first.mT).mT if turned else torch.matmul(first, second)
