"""Attention problems as data: sizes and options, and the arrays drawn for them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = (0.5, 1.0, 1.0)
FORMS = ("direct", "efficient", "auto")


@dataclass(frozen=True)
class Problem:
    """One call of `attention`, described; `draw` makes the arrays."""

    query_length: int = 5
    key_length: int = 5
    head_dim: int = 3
    value_dim: int = 3
    heads: int = 2
    kv_heads: int = 2
    query_batch: tuple[int, ...] = ()
    key_batch: tuple[int, ...] = ()
    value_batch: tuple[int, ...] = ()
    scale: str = "default"
    normalise: bool = True
    coefficients: tuple[float, float, float] = DEFAULT
    key_mask: str = "absent"
    normalise_output: bool = False

    @property
    def terms(self) -> int:
        """Count what is summed for one entry of the output: keys, and features of a query."""
        return self.key_length + (self.head_dim + 1) * (self.head_dim + 2) // 2


def draw(problem: Problem, seed: int = 0) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
    """Return (query, key, value) and the keywords of one problem, as float64 NumPy arrays."""
    p, rng = problem, np.random.default_rng(seed)
    arrays = (
        rng.standard_normal((*p.query_batch, p.heads, p.query_length, p.head_dim)),
        rng.standard_normal((*p.key_batch, p.kv_heads, p.key_length, p.head_dim)),
        rng.standard_normal((*p.value_batch, p.kv_heads, p.key_length, p.value_dim)),
    )
    keywords: dict[str, Any] = {
        "scale": SCALES[p.scale](p, rng),
        "normalise": p.normalise,
        "coefficients": p.coefficients,
        "key_mask": MASKS[p.key_mask](p, rng),
        "normalise_output": p.normalise_output,
    }
    return arrays, keywords


SCALES = {
    "default": lambda _p, _rng: None,
    "number": lambda _p, _rng: 0.7,
    "0-d": lambda _p, rng: rng.uniform(0.5, 1.5, size=()) * np.ones(()),
    "per head": lambda p, rng: rng.uniform(-1.5, 1.5, size=p.heads),
    "full": lambda p, rng: rng.uniform(0.5, 1.5, size=(*p.query_batch, p.heads, 1, 1)),
}


def _mask(rows: tuple[int, ...], p: Problem, rng: np.random.Generator) -> Any:
    """Draw a mask that leaves out about a third; where it has several rows, one of them attends nothing."""
    mask = rng.uniform(size=(*rows, p.key_length)) < 0.67
    mask[..., : p.key_length // 4 + 1] = True
    if np.prod(rows, dtype=int) > 1:
        mask[(-1,) * len(rows)] = False
    return mask


MASKS = {
    "absent": lambda _p, _rng: None,
    "keys": lambda p, rng: _mask((), p, rng),
    "batch": lambda p, rng: _mask(p.key_batch, p, rng),
    "batch, 1": lambda p, rng: _mask((*p.key_batch, 1), p, rng),
    "batch, kv heads": lambda p, rng: _mask((*p.key_batch, p.kv_heads), p, rng),
    "batch, heads": lambda p, rng: _mask((*p.query_batch, p.heads), p, rng),
    "nothing": lambda p, _rng: np.zeros(p.key_length, dtype=np.bool_),
}

# Eight columns of at most seven choices each; a choice is what it changes of the Problem.
COLUMNS: tuple[tuple[dict[str, Any], ...], ...] = (
    (
        {"value_dim": None},  # None: as head_dim
        {"value_dim": 2},
        {"value_dim": None, "query_length": 4, "key_length": 7},
        {"value_dim": 5, "query_length": 7, "key_length": 4},
    ),
    ({"head_dim": 1}, {"head_dim": 3}, {"head_dim": 4}),
    ({}, {"heads": 4, "kv_heads": 2}, {"heads": 3, "kv_heads": 1}),
    (
        {},
        {"query_batch": (2,), "key_batch": (2,), "value_batch": (2,)},
        {"query_batch": (2, 1), "key_batch": (1, 3), "value_batch": (2, 3)},
        {"query_batch": (1,), "key_batch": (2,), "value_batch": (1,)},
    ),
    tuple({"scale": name} for name in SCALES),
    tuple({"normalise": n, "normalise_output": o} for n in (True, False) for o in (False, True)),
    (
        {},
        {"coefficients": (1.0, 0.0, 1.0)},  # b = 0: no linear term
        {"coefficients": (0.25, 1.5, 2.25)},  # gamma = 0: the weight is a square, zero at score -3
        {"coefficients": (2.0, -1.0, 0.5)},
        {"coefficients": (0.125, 0.75, 3.0)},  # beta = 3, gamma = 15
    ),
    tuple({"key_mask": name} for name in MASKS),
)


def readings() -> Iterator[tuple[int, ...]]:
    """Yield 343 rows of eight numbers below 7, in any three columns of which each triple of numbers stands once.

    The rows are the polynomials of degree below 3 over the field of 7 elements, read at its 7 points and, for the eighth
    column, by their leading coefficient: any three readings determine the polynomial (an orthogonal array of strength 3).
    """
    for low, middle, high in itertools.product(range(7), repeat=3):
        yield (*((low + middle * x + high * x * x) % 7 for x in range(7)), high)


def every_three_together() -> Iterator[Problem]:
    """Yield 343 problems in which any three choices of three columns meet at least once."""
    for row in readings():
        chosen: dict[str, Any] = {}
        for reading, choices in zip(row, COLUMNS, strict=True):
            chosen |= choices[reading % len(choices)]
        yield Problem(**(chosen | {"value_dim": chosen["value_dim"] or chosen["head_dim"]}))
