"""One step of decoding: the state of TaylorShift, and softmax over a cache of all keys and values, in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import Decoder, State
from taylorshift_core.cli.figures.contestants import softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[[int], tuple[Callable[[], Any], int]]

Array = np.ndarray[Any, Any]
HEADS, HEAD_DIM = 8, 32
_PART = 10_000  # tokens drawn at a time


def tokens(length: int, seed: int = 0) -> tuple[Array, ...]:
    """Return query, key and value of so many tokens."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((HEADS, length, HEAD_DIM), dtype=np.float32) for _ in range(3))


def state(length: int) -> tuple[Callable[[], Any], int]:
    """Return a step of the decoder behind so many tokens, and the bytes that it keeps."""
    _, key, value = tokens(min(length, _PART))
    past = State.zeros(key, head_dim=HEAD_DIM, value_dim=HEAD_DIM, leading=(HEADS,))
    for _ in range(max(1, length // _PART)):
        past = past.add(key, value)
    decoder, token = Decoder(past), tokens(1, seed=1)

    def step() -> Any:
        nonlocal decoder
        output, decoder = decoder.step(*token)
        return output

    return step, past.sums.nbytes + decoder.tail * HEADS * (2 * HEAD_DIM + 2) * 4


def numpy_cache(length: int) -> tuple[Callable[[], Any], int]:
    """Return a step of softmax over a cache, in NumPy; the caches are allocated at full length and filled."""
    _, keys, values = tokens(length)
    query, key, value = tokens(1, seed=1)

    def step() -> Array:
        keys[:, -1:], values[:, -1:] = key, value
        return softmax(query, keys, values)

    return step, keys.nbytes + values.nbytes


DECODERS = {"state (NumPy)": state, "softmax, cache (NumPy)": numpy_cache}
