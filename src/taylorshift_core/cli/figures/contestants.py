"""Who is measured: a way to compute attention, checked against its definition before it is timed.

A contestant takes NumPy arrays and gives a function that computes and waits; each is held against its definition in
float64, on the first and last queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import attention, load_backend
from taylorshift_core.cli._reference import definition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core.cli._speeds import Case

    Run = Callable[..., Any]

Array = np.ndarray[Any, Any]
EFFICIENT, DIRECT, SOFTMAX = "numpy efficient", "numpy direct", "softmax (NumPy)"
_ROWS = 32  # queries at either end that are checked
_MOST_BYTES = 1 << 30  # that a contestant may hold which stores all features
_BLOCK = 512  # queries whose scores softmax in NumPy holds at a time


@dataclass(frozen=True)
class Contestant:
    """Somebody's attention; `start` returns the function to be timed, `definition` what it computes.

    `most_pairs` bounds queries times keys times heads, for those who would take too long.
    """

    name: str
    library: str
    start: Callable[[Sequence[Array], dict[str, Any]], Run]
    definition: Callable[..., Array]
    stores_features: bool = False
    most_pairs: float = math.inf

    def takes(self, case: Case) -> bool:
        """Tell whether the case is within reach."""
        if case.heads * case.length * (case.key_length or case.length) > self.most_pairs:
            return False
        return not self.stores_features or 8 * case.heads * case.length * case.head_dim**2 <= _MOST_BYTES

    def check(self, run: Run, arrays: Sequence[Array], options: dict[str, Any]) -> float:
        """Return the largest error beside the largest output; raise if it is beyond what rounding explains."""
        query, key, value = (array.astype(np.float64) for array in arrays)
        rows = np.unique(np.clip(np.r_[:_ROWS, -_ROWS:0] % query.shape[-2], 0, None))
        options = {name: x for name, x in options.items() if name != "is_causal"} | _seen(key, rows, options)
        expected = self.definition(query[:, rows], key, value, **options)
        got = np.asarray(load_backend(self.library).to_numpy(run()))
        got = got.reshape(got.shape[-3:])[:, rows]
        error = float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))
        terms = key.shape[-2] + (key.shape[-1] + 1) * (key.shape[-1] + 2) // 2
        allowed = 4 * float(np.finfo(arrays[0].dtype).eps) * math.sqrt(terms)
        if not error <= allowed:
            msg = f"{self.name} is off by {error:.2g} of the largest output, where rounding explains {allowed:.2g}"
            raise AssertionError(msg)
        return error


def _seen(key: Array, rows: Array, options: dict[str, Any]) -> dict[str, Any]:
    if not options.get("is_causal"):
        return {}
    return {"allowed": np.arange(key.shape[-2])[None, :] <= rows[:, None]}


def softmax(query: Array, key: Array, value: Array, allowed: Array | None = None) -> Array:
    """Return attention with exp, scores divided by sqrt(head_dim), in the precision of the arrays."""
    scores = query @ np.swapaxes(key, -1, -2) / query.dtype.type(math.sqrt(query.shape[-1]))
    scores = scores if allowed is None else np.where(allowed, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    output: Array = weights @ value / weights.sum(axis=-1, keepdims=True)
    return output


def _softmax_in_blocks(arrays: Sequence[Array], _options: dict[str, Any]) -> Run:
    query, key, value = arrays

    def run() -> Array:
        output = np.empty((*query.shape[:-1], value.shape[-1]), value.dtype)
        for head, first in np.ndindex(len(query), -(-query.shape[1] // _BLOCK)):
            rows = slice(first * _BLOCK, (first + 1) * _BLOCK)
            output[head, rows] = softmax(query[head, rows], key[head], value[head])
        return output

    return run


def ours(
    name: str,
    form: str,
    expected: Callable[..., Array] | None = None,
    compiled: Callable[[Run], Run] = lambda call: call,
) -> Contestant:
    """Return one form of one backend; `expected` is the definition to hold it against, by default that of the demo."""
    expected = partial(definition, advance=lambda: None) if expected is None else expected
    return Contestant(f"{name} {form}", name, partial(_start, name, form, compiled), expected)


def softmax_in_numpy() -> Contestant:
    """Return softmax attention as NumPy users write it, a block of queries at a time."""
    return Contestant(SOFTMAX, "numpy", _softmax_in_blocks, softmax, most_pairs=1 << 24)


def _start(
    name: str, form: str, compiled: Callable[[Run], Run], arrays: Sequence[Array], options: dict[str, Any]
) -> Run:
    backend = load_backend(name)
    inputs = [backend.from_numpy(array) for array in arrays]
    on_device = {name: backend.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    call = compiled(partial(attention, form=form, **on_device))
    return lambda: backend.wait(call(*inputs))
