"""Train a small classifier of handwritten digits with NumPy alone: no automatic differentiation anywhere.

    python examples/train_numpy.py --picture loss.png

Every layer is pulled back by hand in `step`, in the reverse of the order in which it was computed; attention pulls
itself back. `train_autodiff.py` is the same model where the library differentiates.
"""

from __future__ import annotations

from typing import Any

import digits
import numpy as np

from taylorshift_core import attention, attention_vjp

Array = Any
Parameters = dict[str, Array]


def split(rows: Array) -> Array:
    """Return (batch, heads, tokens, width / heads) of (batch, tokens, width)."""
    return rows.reshape(*rows.shape[:-1], digits.HEADS, -1).swapaxes(1, 2)


def merge(rows: Array) -> Array:
    """Return (batch, tokens, width) of (batch, heads, tokens, width / heads)."""
    return rows.swapaxes(1, 2).reshape(rows.shape[0], rows.shape[2], -1)


def step(p: Parameters, images: Array, labels: Array) -> tuple[float, Parameters]:
    """Return the mean cross-entropy of a batch, and its gradient to every parameter."""
    # Forward.
    tokens = images @ p["embed"] + p["place"]
    query, key, value = (split(tokens @ p[name]) for name in ("query", "key", "value"))
    mixed, pull_attention = attention_vjp(query, key, value, scale=p["scale"])
    seen = tokens + merge(mixed) @ p["out"]
    active = np.maximum(seen, 0)
    pooled = active.mean(axis=1)
    probabilities = _softmax(pooled @ p["classes"] + p["bias"])
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()

    # Backward.
    to_logits = (probabilities - np.eye(digits.CLASSES, dtype=np.float32)[labels]) / len(labels)
    to_pooled = to_logits @ p["classes"].T
    to_seen = (seen > 0) * to_pooled[:, None, :] / np.float32(digits.PATCHES)
    to_mixed = split(to_seen @ p["out"].T)
    back = pull_attention(to_mixed)
    to_tokens = to_seen
    gradients = {"classes": pooled.T @ to_logits, "bias": to_logits.sum(axis=0)}
    gradients |= {"out": _product(merge(mixed), to_seen), "scale": back.scale}
    for name, by in (("query", back.query), ("key", back.key), ("value", back.value)):
        gradients[name] = _product(tokens, merge(by))
        to_tokens = to_tokens + merge(by) @ p[name].T
    gradients |= {"embed": _product(images, to_tokens), "place": to_tokens.sum(axis=0)}
    return loss, gradients


def predict(p: Parameters, images: Array) -> Array:
    """Return the most likely digit of each image."""
    tokens = images @ p["embed"] + p["place"]
    query, key, value = (split(tokens @ p[name]) for name in ("query", "key", "value"))
    seen = tokens + merge(attention(query, key, value, scale=p["scale"])) @ p["out"]
    return (np.maximum(seen, 0).mean(axis=1) @ p["classes"] + p["bias"]).argmax(axis=-1)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _product(rows: Array, to_rows: Array) -> Array:
    """Return the gradient to a matrix that rows were multiplied with, summed over the batch."""
    return rows.reshape(-1, rows.shape[-1]).T @ to_rows.reshape(-1, to_rows.shape[-1])


if __name__ == "__main__":
    digits.main("numpy", step, predict, np.asarray)
