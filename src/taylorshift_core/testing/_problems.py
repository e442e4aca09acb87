"""The problems of the conformance kit, as they lie in vectors.json beside this file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

Array = Any


@dataclass(frozen=True)
class Problem:
    """One call of `attention`, and what the definition in float64 makes of it.

    Parameters
    ----------
    name
        What is special about it.
    options
        Keywords of `attention` that are numbers.
    tiles
        Sizes of the tiles to cut it into: queries, keys, offsets of the feature map; None for those planned.
    arrays
        query, key, value, perhaps scale and the cotangent of the output; multiples of 1/32 that every dtype holds exactly.
    masks
        key_mask or attn_mask, where there is one.
    expected
        The output, and the gradients by the names of what they belong to.
    sizes
        What errors of those are relative to: the largest entry of the output; of a gradient, its largest sum of absolute
        terms.
    """

    name: str
    options: dict[str, Any]
    tiles: tuple[int, int, int] | None
    arrays: dict[str, Array]
    masks: dict[str, Array]
    expected: dict[str, Array]
    sizes: dict[str, float]

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms that it has."""
        return ("direct",) if "attn_mask" in self.masks else ("direct", "efficient")

    @property
    def is_causal(self) -> bool:
        """Whether queries see no more than the keys before them."""
        return "is_causal" in self.options or "block_causal" in self.options

    @property
    def has_states(self) -> bool:
        """Whether its keys can be summarised: all queries of a key head see the same."""
        return "attn_mask" not in self.masks and not self._masked_per_query_head

    @property
    def _masked_per_query_head(self) -> bool:
        mask, key = self.masks.get("key_mask"), self.arrays["key"]
        return mask is not None and 1 < mask.ndim == key.ndim - 1 and mask.shape[-2] not in (1, key.shape[-3])

    @property
    def terms(self) -> int:
        """How many numbers are summed for one entry of the output: keys, and features of a query."""
        *_, length, head_dim = self.arrays["key"].shape
        return int(length + (head_dim + 1) * (head_dim + 2) // 2)

    def hidden(self) -> Array | None:
        """Return which rows of key and value no query may see, or None where nothing is masked."""
        mask, key = self.masks.get("key_mask"), self.arrays["key"]
        if mask is None:
            return None
        if mask.ndim == key.ndim - 2 > 0:  # no heads axis
            mask = mask[..., None, :]
        if self._masked_per_query_head:
            mask = mask.reshape(*mask.shape[:-2], key.shape[-3], -1, mask.shape[-1]).any(axis=-2)
        return np.broadcast_to(~mask, key.shape[:-1])


@cache
def problems() -> tuple[Problem, ...]:
    """Return all problems."""
    text = resources.files("taylorshift_core.testing").joinpath("vectors.json").read_text(encoding="utf-8")
    found = json.loads(text)
    return tuple(_problem(each, found["unit"]) for each in found["problems"])


def _problem(found: dict[str, Any], unit: float) -> Problem:
    return Problem(
        name=found["name"],
        options=found["options"],
        tiles=found["tiles"],
        arrays={name: _array(each, np.float64) * unit for name, each in found["arrays"].items()},
        masks={name: _array(each, np.bool_) for name, each in found["masks"].items()},
        expected={name: _array(each, np.float64) for name, each in found["expected"].items()},
        sizes=found["sizes"],
    )


def _array(found: dict[str, Any], dtype: Any) -> Array:
    return np.asarray(found["entries"], dtype=dtype).reshape(found["shape"])
