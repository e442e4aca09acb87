"""What traced libraries run, under the eyes of the referee: rules of seeing as numbers, in one loop over all keys.

JAX alone is told to walk so, and would not see a constant on another device or a slice behind the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gradient_ways import assert_gradients
from oracle import causal
from problems import Problem

if TYPE_CHECKING:
    from conftest import Library

PROBLEM = Problem(9, 11, 3, 2, 4, 2, key_mask="batch", scale="per head", normalise_output=True)
RULES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "each token": ({"is_causal": True}, {}),
    "blocks and a prefix": ({"block_causal": 2, "prefix_length": 3}, {"block": 2, "prefix": 3}),
}


@pytest.mark.parametrize("form", ["direct", "efficient"])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_outputs_and_gradients(
    library: Library, dtype: str, monkeypatch: pytest.MonkeyPatch, form: str, tiled: bool, rule: str
) -> None:
    traced = replace(library.backend, traced=True)
    monkeypatch.setattr("taylorshift_core._registry._backend_for", lambda _namespace: traced)
    options, allowed = RULES[rule]
    seen = causal(PROBLEM.query_length, PROBLEM.key_length, **allowed)
    assert_gradients(library, dtype, PROBLEM, form, seen, tiled=tiled, **options)
