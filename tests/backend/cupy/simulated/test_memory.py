"""CuPy on simulated devices: what a call allocates grows with its results alone, however many tokens there are."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np
from gpu_without_gpu.traffic import traffic
from problems import Problem, draw

from taylorshift_core import Decoder, attention, attention_vjp, explain, load_backend, summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM, BYTES = 4, 2, 8, 6, 4
FEW = MORE = 1024  # tokens, many whole tiles
OUTPUT = HEADS * VALUE_DIM  # entries a token
PREPARED = KV_HEADS * (HEAD_DIM + 1 + VALUE_DIM + 1)  # the one copy of keys and values that the direct form makes
GRADIENTS = HEADS * HEAD_DIM + KV_HEADS * (HEAD_DIM + VALUE_DIM)


def arrays(queries: int, keys: int) -> list[Any]:
    problem = Problem(queries, keys, HEAD_DIM, VALUE_DIM, HEADS, KV_HEADS, key_mask="keys")
    (query, key, value), options = draw(problem)
    return [cupy.asarray(x.astype(np.float32)) for x in (query, key, value)] + [cupy.asarray(options["key_mask"])]


def attend(form: str, tile: int = 64, **options: Any) -> Callable[..., Any]:
    def call(query: Any, key: Any, value: Any, mask: Any) -> Any:
        plan = replace(explain(query, key, value, form=form), query_tile=tile, key_tile=tile)
        return attention(query, key, value, plan=plan, key_mask=mask, **options)

    return call


def peak_entries(call: Callable[..., Any], queries: int, keys: int) -> int:
    """Return the most entries of float32 that a call holds at one time, its results among them."""
    given = arrays(queries, keys)
    gc.collect()  # arrays of tests before, which must not be freed meanwhile
    with traffic() as seen:
        call(*given)
    return seen.peak_bytes // BYTES


def growth(call: Callable[..., Any], *, queries: int, keys: int, few: int = FEW) -> float:
    """Return by how many entries a token the peak grows, from `few` tokens on, with more queries or keys or both."""
    more = peak_entries(call, few + queries * MORE, few + keys * MORE) - peak_entries(call, few, few)
    return more / MORE


def test_the_efficient_form_allocates_its_output() -> None:
    assert growth(attend("efficient"), queries=1, keys=0) == OUTPUT
    assert growth(attend("efficient"), queries=0, keys=1) == 0


def test_the_direct_form_allocates_its_output_and_the_prepared_keys() -> None:
    """Tiles of scores are large beside what comes and goes while keys and values are prepared."""
    call = attend("direct", tile=256)
    assert growth(call, queries=1, keys=0) == OUTPUT
    assert growth(call, queries=0, keys=1) == PREPARED


def test_the_causal_efficient_form_allocates_its_output() -> None:
    assert growth(attend("efficient", is_causal=True), queries=1, keys=1) == OUTPUT


def test_parts_of_a_causal_output_are_held_beside_it_while_they_are_joined() -> None:
    """A prefix and a short rest have outputs of their own; features would be 180 entries a token."""
    options = {"block_causal": 16, "prefix_length": 40}
    assert OUTPUT <= growth(attend("efficient", **options), queries=1, keys=1) <= 2 * OUTPUT


def test_a_state_allocates_nothing_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(load_backend("cupy"), tile_bytes=1 << 16)
    monkeypatch.setattr("taylorshift_core._registry._backend_for", lambda _namespace: small)

    def call(_query: Any, key: Any, value: Any, mask: Any) -> Any:
        return summarise(key, value, key_mask=mask).add(key, value)

    assert growth(call, queries=0, keys=1) == 0


def test_gradients_allocate_themselves_and_what_is_kept() -> None:
    def call(query: Any, key: Any, value: Any, mask: Any) -> Any:
        plan = replace(explain(query, key, value, form="efficient"), query_tile=64, key_tile=64)
        output, pullback = attention_vjp(query, key, value, plan=plan, key_mask=mask)
        return pullback(output)

    normaliser, share_of_scale = HEADS, HEADS  # a number a query
    # With fewer tokens the peak is elsewhere, while a tile's features and gradients are still more than what is kept.
    assert growth(call, queries=1, keys=1, few=2 * FEW) == 2 * OUTPUT + normaliser + share_of_scale + GRADIENTS


def test_a_decoder_allocates_the_same_at_every_step() -> None:
    query, key, value, _ = arrays(64, 64)
    decoder, peaks = Decoder(tail=1), []
    for i in range(64):
        token = [x[:, i : i + 1, :] for x in (query, key, value)]
        gc.collect()
        with traffic() as seen:
            _, decoder = decoder.step(*token)
        peaks.append(seen.peak_bytes)
    assert set(peaks[2:]) == {peaks[2]}
