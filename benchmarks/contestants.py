"""Who is measured: every backend in both forms, what others have published, and the matrix product itself."""

from __future__ import annotations

import importlib.util
import math
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from oracle import attention_oracle

from taylorshift_core import MissingLibraryError, backend_names, load_backend
from taylorshift_core.cli.figures.contestants import Contestant, ours, softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[[], Any]

Array = np.ndarray[Any, Any]


def _torch(function: Callable[..., Any]) -> Callable[[Sequence[Array], dict[str, Any]], Run]:
    """Return the start of a function of PyTorch tensors with a batch axis, without gradients."""

    def start(arrays: Sequence[Array], options: dict[str, Any]) -> Run:
        import torch

        inputs = [torch.from_numpy(array)[None] for array in arrays]

        def run() -> Any:
            with torch.inference_mode():
                return function(*inputs, **options)

        return run

    return start


def torch_sdpa(query: Any, key: Any, value: Any, **options: Any) -> Any:
    """Return softmax attention of PyTorch's own."""
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(query, key, value, **options)


def published(query: Any, key: Any, value: Any) -> Any:
    """Return the efficient form as published: d**2 features of all tokens at once, and the scaling that keeps them small."""
    import torch

    d, n = query.shape[-1], key.shape[-2]
    alpha = d**0.25
    query = alpha * query / query.norm(dim=-1, keepdim=True)
    key = alpha * key / key.norm(dim=-1, keepdim=True)
    value = torch.cat([torch.ones_like(value[..., :1]), value], dim=-1) / n
    squares = (key[..., :, None] * key[..., None, :]).flatten(-2)
    second = squares.mT @ value
    squares = (query[..., :, None] * query[..., None, :]).flatten(-2)
    sums = 0.5 * squares @ second + alpha**2 * (query @ (key.mT @ value)) + alpha**4 * value.sum(-2, keepdim=True)
    return sums[..., 1:] / sums[..., :1]


def _taylor_series(arrays: Sequence[Array], options: dict[str, Any]) -> Run:
    """Return the attention inside the module of taylor-series-linear-attention, its projections left out."""
    import torch
    from taylor_series_linear_attention import TaylorSeriesLinearAttn

    query, key, value = (torch.from_numpy(array)[None] for array in arrays)
    heads, head_dim = query.shape[1], query.shape[-1]
    module = TaylorSeriesLinearAttn(
        heads * head_dim, dim_head=head_dim, heads=heads, combine_heads=False, remove_even_power_dups=True
    ).eval()

    class Given(torch.nn.Module):
        def __init__(self, *tensors: Any) -> None:
            super().__init__()
            self.tensors = tensors

        def forward(self, _: Any) -> Any:
            return self.tensors if len(self.tensors) > 1 else self.tensors[0]

    module.to_q, module.to_kv, module.merge_heads = Given(query), Given(key, value), torch.nn.Identity()
    tokens = torch.empty(1, query.shape[-2], heads * head_dim)

    def run() -> Any:
        with torch.inference_mode():
            return module(tokens)

    return run


def _jitted(call: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    compiled: Callable[..., Any] = jax.jit(call)
    return compiled


def _jax_softmax(arrays: Sequence[Array], options: dict[str, Any]) -> Run:
    import jax

    inputs = [jax.numpy.asarray(np.swapaxes(array, 0, 1)[None]) for array in arrays]
    call = jax.jit(partial(jax.nn.dot_product_attention, **options))
    back = jax.jit(lambda x: jax.numpy.swapaxes(x, -3, -2))
    jax.block_until_ready(back(call(*inputs)))
    return lambda: back(call(*inputs).block_until_ready())


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def installed_backends() -> list[str]:
    """Return the names of the adapters whose libraries are installed and find a device."""
    found = []
    for name in backend_names():
        try:
            if load_backend(name).devices():
                found.append(name)
        except MissingLibraryError:
            continue
    return found


@cache
def contestants() -> tuple[Contestant, ...]:
    """Return all whose libraries are installed."""
    found = [
        ours(name, form, attention_oracle, _jitted if name == "jax" else lambda call: call)
        for name in installed_backends()
        for form in ("direct", "efficient")
    ]
    if _installed("torch"):
        found.append(Contestant("torch SDPA", "torch", _torch(torch_sdpa), softmax))
        found.append(
            Contestant(
                "published efficient (torch)", "torch", _torch(published), attention_oracle, stores_features=True
            )
        )
    if _installed("torch", "taylor_series_linear_attention"):
        definition = partial(attention_oracle, normalise=False)
        name = "taylor-series-linear-attention"
        found.append(Contestant(name, "torch", _taylor_series, definition, stores_features=True))
    if _installed("jax"):
        found.append(Contestant("jax dot_product_attention", "jax", _jax_softmax, softmax))
    return tuple(found)


def matrix_product(library: str, size: int) -> Run:
    """Return a square product of float32 matrices that are checked."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    expected = left[:4].astype(np.float64) @ right
    if library == "torch":
        import torch

        a, b = torch.from_numpy(left), torch.from_numpy(right)
        run = lambda: a @ b  # noqa: E731
    else:
        run = lambda: left @ right  # noqa: E731
    np.testing.assert_allclose(np.asarray(run())[:4], expected, atol=1e-4 * math.sqrt(size))
    return run
