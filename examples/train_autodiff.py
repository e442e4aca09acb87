"""The model of `train_numpy.py` where the library differentiates: PyTorch or JAX.

    python examples/train_autodiff.py --library torch
    python examples/train_autodiff.py --library jax

Nothing is said about gradients here: `attention` brings its own to each library.
"""

from __future__ import annotations

import sys
from typing import Any

import digits

from taylorshift_core import attention

Array = Any
Parameters = dict[str, Array]


def logits_of(p: Parameters, images: Array, *, relu: Any) -> Array:
    """Return one number an image and class."""
    tokens = images @ p["embed"] + p["place"]
    query, key, value = (
        (tokens @ p[name]).reshape(*tokens.shape[:-1], digits.HEADS, -1).swapaxes(1, 2)
        for name in ("query", "key", "value")
    )
    mixed = attention(query, key, value, scale=p["scale"]).swapaxes(1, 2).reshape(tokens.shape)
    return relu(tokens + mixed @ p["out"]).mean(1) @ p["classes"] + p["bias"]


def train_torch() -> None:
    """Train with torch.func.grad_and_value."""
    import torch

    torch.set_num_threads(1)  # the model is small

    def loss(p: Parameters, images: Array, labels: Array) -> Array:
        return torch.nn.functional.cross_entropy(logits_of(p, images, relu=torch.relu), labels)

    def step(p: Parameters, images: Array, labels: Array) -> tuple[Array, Parameters]:
        leaves = {name: array.requires_grad_() for name, array in p.items()}
        value = loss(leaves, images, labels)
        gradients = torch.autograd.grad(value, list(leaves.values()))
        for array in leaves.values():
            array.requires_grad_(False)
        return value.detach(), dict(zip(leaves, gradients, strict=True))

    digits.main("torch", step, lambda p, x: logits_of(p, x, relu=torch.relu).argmax(-1), torch.as_tensor)


def train_jax() -> None:
    """Train with jax.value_and_grad, compiled."""
    import jax
    import jax.numpy as jnp

    def loss(p: Parameters, images: Array, labels: Array) -> Array:
        logs = jax.nn.log_softmax(logits_of(p, images, relu=jax.nn.relu))
        return -jnp.take_along_axis(logs, labels[:, None], axis=-1).mean()

    predict = jax.jit(lambda p, x: logits_of(p, x, relu=jax.nn.relu).argmax(-1))
    digits.main("jax", jax.jit(jax.value_and_grad(loss)), predict, jnp.asarray)


if __name__ == "__main__":
    train_jax() if "jax" in sys.argv[1:] or "--library=jax" in sys.argv[1:] else train_torch()
