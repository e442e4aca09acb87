"""The ways to compute one causal attention: whole in either form, in chunks through a state, one token at a time."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import array_namespace
from compare import assert_matches
from hypothesis import settings
from hypothesis import strategies as st
from oracle import attention_oracle
from problems import Problem, draw

from taylorshift_core import (
    Decoder,
    SlidingWindow,
    State,
    attention,
    attention_packed,
    explain,
    load_backend,
    summarise,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from conftest import Library

Array = Any
TILES = {"query_tile": 5, "key_tile": 4, "offsets": 2}  # small, so that a few tokens cross them


def whole(form: str, **keywords: Any) -> Callable[..., Array]:
    """Return attention in one form, in small tiles."""

    def run(query: Array, key: Array, value: Array, **options: Any) -> Array:
        plan = replace(explain(query, key, value, form=form), **TILES)
        return attention(query, key, value, plan=plan, **keywords, **options)

    return run


def chunked(length: int) -> Callable[..., Array]:
    """Return causal attention of chunks of so many tokens, each given the state of those before."""

    def run(query: Array, key: Array, value: Array, **options: Any) -> Array:
        state: State | None = None
        parts = []
        for part, keywords in _cut(query.shape[-2], length, options):
            tokens = (array[..., part, :] for array in (query, key, value))
            output, state = attention(*tokens, is_causal=True, state=state, return_state=True, **keywords)
            parts.append(output)
        return joined(parts)

    return run


def stepped(start: Decoder | SlidingWindow, lengths: Iterable[int] = (1,)) -> Callable[..., Array]:
    """Return the outputs of a decoder, or a window, that is given so many tokens at a time, over and over."""

    def run(query: Array, key: Array, value: Array, **options: Any) -> Array:
        settings = {name: options.pop(name) for name in ("normalise", "coefficients") if name in options}
        decoder: Any = replace(start, **settings)
        parts = []
        for part, keywords in _cut(query.shape[-2], lengths, options):
            tokens = (array[..., part, :] for array in (query, key, value))
            output, decoder = decoder.step(*tokens, **keywords)
            parts.append(output)
        return joined(parts)

    return run


def merged(length: int) -> Callable[..., Array]:
    """Return the attention of all queries to all keys, through states of chunks of so many keys, merged."""

    def run(
        query: Array, key: Array, value: Array, *, scale: Any = None, normalise_output: bool = False, **options: Any
    ) -> Array:
        states = [
            summarise(key[..., part, :], value[..., part, :], **keywords)
            for part, keywords in _cut(key.shape[-2], length, options)
        ]
        return states[0].merge(*states[1:]).attend(query, scale=scale, normalise_output=normalise_output)

    return run


def in_one_pack(**keywords: Any) -> Callable[..., Array]:
    """Return the attention of a pack whose second sequence is the only one that is not empty."""

    def run(query: Array, key: Array, value: Array, **options: Any) -> Array:
        bounds = {"cu_seqlens_q": (0, 0, query.shape[-2]), "cu_seqlens_k": [0, 0, key.shape[-2]]}
        return attention_packed(query, key, value, **bounds, **keywords, **options)

    return run


def _cut(total: int, lengths: int | Iterable[int], options: dict[str, Any]) -> Iterator[tuple[slice, dict[str, Any]]]:
    """Yield the tokens of each part, one empty part where there are none, and the options with the mask cut alike."""
    sizes = [lengths] if isinstance(lengths, int) else list(lengths)
    first, number = 0, 0
    while first < total or number == 0:
        part = slice(first, min(first + sizes[number % len(sizes)], total))
        mask = options.get("key_mask")
        yield part, options | {"key_mask": None if mask is None else mask[..., part]}
        first, number = part.stop, number + 1


def joined(parts: list[Array]) -> Array:
    """Return the parts joined along the tokens."""
    with load_backend(NAME).scope(parts[0]):
        return array_namespace(parts[0]).concat(parts, axis=parts[0].ndim - 2)


NAME = os.environ.get("TAYLORSHIFT_TEST_BACKEND", "numpy")
THIN = {"cupy": 2, "dpnp": 3, "jax": 32, "ndonnx": 12}  # of so many problems of the conformance kit each place sees one
FEWER = {"cupy": 8, "dask": 8, "dpnp": 8, "jax": 20, "ndonnx": 8}  # where each shape costs a compilation or a graph


def several(examples: int) -> settings:
    """Return settings for a property that is tried on so many problems, always the same ones; on fewer where they are slow."""
    return settings(deadline=None, derandomize=True, max_examples=max(2, examples // FEWER.get(NAME, 1)))


AT_ONCE = ("numpy", "torch")  # libraries that compute at once and quickly: long streams take seconds there


def long_stream(length: int) -> int:
    """Return `length`, or a tenth of it where every operation is traced or compiled first."""
    return length if os.environ.get("TAYLORSHIFT_TEST_BACKEND", "numpy") in AT_ONCE else length // 10


LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 9, 11)  # no token, one, a tile of 4 or 5 less one, exactly, and one more, ...
MASKS_OF_STATES = ("absent", "keys", "batch", "batch, 1", "batch, kv heads", "nothing")


@st.composite
def problems(draw: st.DrawFn, *, cross: bool = False) -> Problem:
    """Draw sizes and options, all that a state can have; with `cross`, as many keys as may be."""
    length = draw(st.sampled_from(LENGTHS))
    heads, kv_heads = draw(st.sampled_from([(2, 2), (4, 2), (3, 1)]))
    batch = draw(st.sampled_from([(), (2,), (2, 1)]))
    return Problem(
        query_length=length,
        key_length=draw(st.sampled_from(LENGTHS)) if cross else length,
        head_dim=draw(st.sampled_from([1, 2, 3, 5])),
        value_dim=draw(st.sampled_from([1, 2, 4])),
        heads=heads,
        kv_heads=kv_heads,
        query_batch=batch,
        key_batch=batch,
        value_batch=batch,
        scale=draw(st.sampled_from(["default", "number", "per head", "full"])),
        normalise=draw(st.booleans()),
        coefficients=draw(st.sampled_from([(0.5, 1.0, 1.0), (1.0, 0.0, 1.0), (0.125, 0.75, 3.0)])),
        key_mask=draw(st.sampled_from(MASKS_OF_STATES)),
        normalise_output=draw(st.booleans()),
    )


def rounded(library: Library, dtype: str, problem: Problem, seed: int = 0) -> tuple[list[Array], dict[str, Any]]:
    """Return query, key and value of a problem, and its keywords, as the library holds them."""
    arrays, keywords = draw(problem, seed)
    options = {name: library.to_array(x, dtype) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
    return [library.to_array(x, dtype) for x in arrays], options


def eps_of_sums(library: Library, dtype: str) -> float:
    """Return the spacing at 1 of the precision that inputs of `dtype` are summed in."""
    xp = library.namespace
    return float(xp.finfo(library.backend.working_dtype(xp, getattr(xp, dtype))).eps)


def assert_way(
    library: Library, dtype: str, way: Callable[..., Array], problem: Problem, allowed: np.ndarray | None, seed: int = 0
) -> None:
    """Run one way on one problem and hold it against the definition in float64 on the rounded inputs."""
    inputs, options = rounded(library, dtype, problem, seed)
    exact = {name: library.exact(x) if library.is_array(x) else x for name, x in options.items()}
    query, key, value = (library.exact(x) for x in inputs)
    expected = attention_oracle(query, key, value, **exact, allowed=allowed)
    actual = library.run(way, *inputs, **options)
    # The average may come out near zero though its terms do not: errors are those of terms of size max|value|.
    reference = float(np.max(np.abs(value), initial=0.0))
    if problem.normalise_output:
        reference *= max(1.0, (problem.key_length / problem.head_dim) ** 0.5)
    assert_matches(library, dtype, actual, expected, terms=problem.terms, reference=reference)
