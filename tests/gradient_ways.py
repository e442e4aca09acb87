"""How the gradients of one attention are asked for, and held against those of the definition."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from compare import assert_kind, assert_matches, eps_of, summed
from gradient_oracle import NAMES, directions, gradients_oracle, tangent_oracle
from oracle import attention_oracle
from problems import draw

from taylorshift_core import attention_jvp, attention_vjp, explain

if TYPE_CHECKING:
    from conftest import Library
    from problems import Problem

SMALL = {"query_tile": 3, "key_tile": 2, "offsets": 1}  # so that a few tokens cross them
ROUNDINGS = 4  # a gradient is a chain of four sums: scores, sums, what goes back through both


def run(library: Library, function: Any, *arrays: Any, **keywords: Any) -> Any:
    """Call a function that returns several arrays the way the library is tested; assert that no input was written."""
    inputs = [x for x in (*arrays, *keywords.values()) if library.is_array(x)]
    before = [library.bits(x) for x in inputs]
    results = library.call(function, *arrays, **keywords)
    for result in results:
        library.backend.wait(result)
    assert [library.bits(x) for x in inputs] == before, "an input was written"
    return results


def pulled(query: Any, key: Any, value: Any, cotangent: Any, **options: Any) -> tuple[Any, ...]:
    """Return the output and the gradients to query, key, value and scale."""
    output, pullback = attention_vjp(query, key, value, **options)
    return output, *pullback(cotangent)[:4]


def pushed(query: Any, key: Any, value: Any, *tangents: Any, **options: Any) -> tuple[Any, Any]:
    """Return the output and its tangent."""
    result: tuple[Any, Any] = attention_jvp((query, key, value), tangents, **options)
    return result


def assert_gradients(
    library: Library, dtype: str, problem: Problem, form: str, allowed: np.ndarray | None = None, **options: Any
) -> None:
    """Hold gradients and a tangent of one problem against the definition's, on the rounded inputs.

    `options` say the same as `allowed`, or ask for small tiles: whatever has no meaning for the oracle.
    """
    arrays, keywords = draw(problem)
    inputs = [library.to_array(x, dtype) for x in arrays]
    keywords = {name: library.to_array(x, dtype) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
    exact = [library.exact(x) for x in inputs]
    settings = {name: library.exact(x) if library.is_array(x) else x for name, x in keywords.items()}
    scale = settings.pop("scale")
    expected = attention_oracle(*exact, scale=scale, allowed=allowed, **settings)
    cotangent = library.to_array(np.random.default_rng(1).standard_normal(expected.shape), dtype)
    wanted = gradients_oracle(*exact, library.exact(cotangent), scale=scale, allowed=allowed, **settings)
    if options.pop("tiled", False):
        given = {name: keywords[name] for name in ("scale", "key_mask", "coefficients", "normalise")}
        keywords["plan"] = replace(explain(*inputs, form=form, **given), **SMALL)
    output, *gradients = run(library, pulled, *inputs, cotangent, form=form, **keywords, **options)
    terms = ROUNDINGS * (problem.terms + problem.query_length)
    assert_matches(library, dtype, output, expected, terms=terms)
    for name, gradient in zip(NAMES, gradients, strict=True):
        by, size = wanted[name]
        number = name == "scale" and not library.is_array(keywords["scale"])
        assert_matches(
            library,
            summed(library, dtype) if number else dtype,
            gradient,
            by,
            terms=terms * _broadcast(problem),
            reference=size,
        )
    moving = *exact, scale if isinstance(scale, np.ndarray) else None
    tangents = [x if x is None else library.to_array(np.asarray(x), dtype) for x in directions(moving, seed=2)]
    output, tangent = run(library, pushed, *inputs, *tangents, form=form, **keywords, **options)
    assert_matches(library, dtype, output, expected, terms=terms)
    moves = tuple(None if x is None else library.exact(x) for x in tangents)
    by = tangent_oracle((*exact, scale), moves, allowed=allowed, **settings)
    assert_kind(library, dtype, tangent, by.shape)
    # All rows move about as far as they are long. Differences of the oracle are exact to about 1e-10 of that.
    error, size = np.max(np.abs(library.exact(tangent) - by), initial=0.0), np.max(np.abs(by), initial=_largest(exact))
    assert error <= max(4 * eps_of(library, dtype) * np.sqrt(terms), 1e-9) * size


def _largest(exact: list[Any]) -> float:
    """Return a bound of the outputs; of mean size one they may be larger than the values."""
    query, key, value = exact
    return float(np.max(np.abs(value), initial=0.0) * max(1.0, np.sqrt(key.shape[-2] / query.shape[-1])))


def _broadcast(problem: Problem) -> int:
    """Return how many copies of an operand a gradient may be summed over."""
    batches = zip(problem.query_batch, problem.key_batch, problem.value_batch, strict=True)
    return int(np.prod([max(sizes) for sizes in batches], dtype=int)) * problem.heads * max(1, problem.query_length)
