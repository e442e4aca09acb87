"""Problems that reach every branch where a device matters: masks, scales, groups, broadcasting batches, several tiles."""

from typing import Any

import numpy as np
from oracle import attention_oracle
from problems import Problem

FORMS = ("direct", "efficient")
PROBLEMS = {
    "plain": Problem(),
    "grouped": Problem(query_length=7, key_length=11, heads=6, value_dim=4, scale="per head", key_mask="batch, heads"),
    "batched": Problem(
        head_dim=4,
        query_batch=(2, 1),
        key_batch=(1, 3),
        value_batch=(2, 3),
        scale="full",
        key_mask="keys",
        coefficients=(2.0, -1.0, 0.5),
        normalise_output=True,
    ),
    "raw": Problem(query_length=30, key_length=70, scale="0-d", normalise=False),
}
TILES: dict[str, Any] = {"query_tile": 4, "key_tile": 3}


def causal_oracle(query: Any, key: Any, value: Any) -> Any:
    """Return attention in which query i sees keys 0..i."""
    rows = [
        attention_oracle(query[..., i : i + 1, :], key[..., : i + 1, :], value[..., : i + 1, :])
        for i in range(query.shape[-2])
    ]
    return np.concatenate(rows, axis=-2)
