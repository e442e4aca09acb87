"""Libraries that differentiate by themselves: their gradients of the definition, of `attention`, and ours, agree.

Over the same product of options as the forward pass. Libraries without automatic differentiation are held against
differences in `test_gradients`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from autodiff import NATIVE, definition
from compare import assert_matches
from conftest import LIBRARIES, NAME
from gradient_oracle import NAMES, gradients_oracle
from gradient_ways import pulled, run
from oracle import _attended, _pairs, causal
from problems import Problem, draw, every_three_together

from taylorshift_core import attention, explain

if TYPE_CHECKING:
    from conftest import Library

# Any three options meet in the whole list; these 49 rows, seven of each of its blocks, still have all of each column.
PROBLEMS = [p for i, p in enumerate(every_three_together()) if i % 7 == i // 49]
RULES: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"is_causal": True},
    "blocks behind a prefix": {"block_causal": 2, "prefix_length": 1},
}
CASES = [pytest.param(p, rule, id=f"{i:02}-{name}") for i, p in enumerate(PROBLEMS) for name, rule in RULES.items()]
if NAME not in NATIVE:
    CASES = CASES[:3]
elif LIBRARIES[NAME].meeting is not None:
    CASES = CASES[::44]  # each rule with several problems
TILES = {"query_tile": 3, "key_tile": 2, "offsets": 1}


@pytest.mark.parametrize("form", ["direct", "efficient"])
@pytest.mark.parametrize(("problem", "rule"), CASES)
def test_three_ways_to_one_gradient(library: Library, problem: Problem, rule: dict[str, Any], form: str) -> None:
    """By the library through the definition, by the library through `attention`, and by `attention_vjp`."""
    dtype, xp = library.dtypes[0], library.namespace
    (query, key, value), keywords = draw(problem)
    lengths = problem.query_length, problem.key_length
    block, prefix = rule.get("block_causal", 1), rule.get("prefix_length", 0)
    allowed = causal(*lengths, block=block, prefix=prefix) if rule else None
    seen = _pairs(_attended(query, key, keywords["key_mask"]), allowed)
    mask = None if keywords["key_mask"] is None else library.to_array(keywords["key_mask"])
    scale = keywords["scale"]
    if scale is None:
        scale = 1.0 if problem.normalise else problem.head_dim**-0.5
    arrays = tuple(library.to_array(np.asarray(x), dtype) for x in (query, key, value, scale))
    plain = {"coefficients": problem.coefficients, "normalise": problem.normalise}
    plain["normalise_output"] = problem.normalise_output
    options = plain | rule | {"key_mask": mask}
    given = {name: options[name] for name in ("coefficients", "normalise", "key_mask")}
    options["plan"] = replace(explain(*arrays[:3], form=form, **given), **TILES)

    exact = [library.exact(x) for x in arrays]
    settings = plain | {"key_mask": keywords["key_mask"], "allowed": allowed, "scale": exact[3]}
    shape = np.broadcast_shapes(query.shape[:-2], (*key.shape[:-3], 1), (*value.shape[:-3], 1))
    drawn = np.random.default_rng(1).standard_normal((*shape, problem.query_length, problem.value_dim))
    cotangent = library.to_array(drawn, dtype)
    wanted = gradients_oracle(*exact[:3], library.exact(cotangent), **settings)

    def ours(query: Any, key: Any, value: Any, scale: Any) -> Any:
        return attention(query, key, value, scale=scale, **options)

    found = {"attention_vjp": run(library, pulled, *arrays[:3], cotangent, scale=arrays[3], **options)[1:]}
    if library.name in NATIVE:
        pairs = library.to_array(np.broadcast_to(seen, np.broadcast_shapes(seen.shape, (*shape[-1:], 1, 1))).copy())
        written = lambda *given: definition(xp, *given, seen=pairs, **plain)  # noqa: E731
        found["native, definition"] = NATIVE[library.name](written, arrays, cotangent)
        found["native, attention"] = NATIVE[library.name](ours, arrays, cotangent)
    copies = problem.heads * problem.query_length * int(np.prod(shape[:-1], dtype=int))
    for gradients in found.values():
        for name, gradient in zip(NAMES, gradients, strict=True):
            by, size = wanted[name]
            terms = 4 * (problem.terms + problem.query_length) * copies
            assert_matches(library, dtype, gradient, by, terms=terms, reference=size)
