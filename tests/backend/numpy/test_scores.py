"""Gradients of the direct form in the NumPy adapter, at lengths that cross its blocks of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gradient_ways import assert_gradients
from oracle import causal
from problems import Problem

from taylorshift_backends import _numpy_scores

if TYPE_CHECKING:
    from conftest import Library

CAUSAL: dict[str, Any] = {"is_causal": True}


@pytest.mark.parametrize("options", [{}, CAUSAL], ids=["all keys", "causal"])
@pytest.mark.parametrize("lengths", [(513, 300), (300, 1025), (1100, 700)])
def test_lengths_past_the_blocks(
    library: Library, dtype: str, lengths: tuple[int, int], options: dict[str, Any]
) -> None:
    allowed = causal(*lengths) if options else None
    assert_gradients(library, dtype, Problem(*lengths, 5, 3, key_mask="keys"), "direct", allowed, **options)


@pytest.mark.parametrize("length", [40, 270])
def test_groups_and_batches(library: Library, dtype: str, length: int) -> None:
    """Several short sequences share a block; an axis that is broadcast shares its tokens."""
    batch = {"query_batch": (2,), "key_batch": (1,), "value_batch": (2,)}
    assert_gradients(library, dtype, Problem(length, length + 3, 3, 2, 4, 2, **batch, key_mask="keys"), "direct")


@pytest.mark.parametrize(("length", "size"), [(0, 4), (1, 4), (4, 4), (5, 4), (13, 4)])
def test_slices_cover_every_token_once(length: int, size: int) -> None:
    parts = [np.arange(length)[each] for each in _numpy_scores._slices(length, size)]
    assert all(0 < len(part) <= size for part in parts)
    np.testing.assert_array_equal(np.concatenate([*parts, []]), np.arange(length))
