"""Dask: what is asked of a library that computes later, in blocks, perhaps elsewhere."""

from __future__ import annotations

import dataclasses
import pickle
from typing import TYPE_CHECKING, Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from oracle import attention_oracle, causal
from problems import FORMS, Problem, draw

from taylorshift_core import (
    BackendError,
    attention,
    attention_vjp,
    attention_weights,
    explain,
    load_backend,
    summarise,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TILED = ("direct", "efficient")
PROBLEM = Problem(19, 22, 5, 4, heads=6, kv_heads=2, query_batch=(3,), key_batch=(3,), value_batch=(3,))
BATCH, HEADS, LENGTH, DIM = (2, -1, -1, -1), (-1, 1, -1, -1), (-1, -1, 7, -1), (-1, -1, -1, 2)


@pytest.fixture
def nothing_computed() -> Iterator[None]:
    """Let any computation raise."""

    def scheduler(*_: Any, **__: Any) -> None:
        msg = "a Dask array was computed early"
        raise AssertionError(msg)

    with dask.config.set(scheduler=scheduler):
        yield


def _blocks(array: np.ndarray, chunks: tuple[int, ...]) -> Any:
    return da.from_array(array, chunks=chunks[-array.ndim :])


def _small_tiles(*arrays: Any, form: str, **keywords: Any) -> Any:
    """Return a plan whose tiles are shorter than the blocks: arrays of less than a tile are taken as one block."""
    return dataclasses.replace(explain(*arrays, form=form, **keywords), query_tile=4, key_tile=3)


def _n_tasks(array: Any) -> int:
    (optimised,) = dask.optimize(array)
    return len(dict(optimised.__dask_graph__()))


@pytest.mark.parametrize("form", TILED)
@pytest.mark.parametrize("kind", ["absent", "keys", "batch", "batch, kv heads", "batch, heads"])
@pytest.mark.parametrize("chunks", [BATCH, HEADS, LENGTH, DIM, (2, 4, 5, 3), (1, 1, 3, 2)], ids=str)
def test_chunks_along_any_axis(form: str, kind: str, chunks: tuple[int, ...]) -> None:
    arrays, keywords = draw(dataclasses.replace(PROBLEM, key_mask=kind, scale="per head", normalise_output=True))
    inputs = [_blocks(x, chunks) for x in arrays]
    options = {name: da.from_array(x) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
    actual = attention(*inputs, plan=_small_tiles(*inputs, form=form, **options), **options)
    assert actual.chunks[-2] == inputs[0].chunks[-2]
    expected = attention_oracle(*arrays, **keywords)
    np.testing.assert_allclose(actual.compute(), expected, rtol=0, atol=1e-14 * np.max(np.abs(expected)))


@pytest.mark.parametrize("form", TILED)
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_errors_of_narrow_dtypes(form: str, kind: str) -> None:
    arrays = [x.astype(kind) for x in draw(dataclasses.replace(PROBLEM, query_length=300, key_length=280))[0]]
    actual = attention(*(_blocks(x, (2, 2, 70, -1)) for x in arrays), form=form)
    assert actual.dtype == kind
    expected = attention_oracle(*(x.astype(np.float64) for x in arrays))
    error = np.max(np.abs(actual.compute() - expected)) / np.max(np.abs(expected))
    print(f"dask {form} {kind}: error {error:.2e} of max|oracle|")
    assert error <= {"float32": 2e-6, "float16": 1e-3}[kind]


@pytest.mark.parametrize("form", TILED)
@pytest.mark.parametrize("block", [1, 5])
def test_causal_blocks_that_dask_would_cut_elsewhere(form: str, block: int) -> None:
    arrays = draw(dataclasses.replace(PROBLEM, query_length=22))[0]
    inputs = [_blocks(x, (2, 1, 7, -1)) for x in arrays]  # and the query heads of one key head into three
    plan = _small_tiles(*inputs, form=form)
    actual = attention(*inputs, block_causal=block, prefix_length=2, plan=plan)
    expected = attention_oracle(*arrays, allowed=causal(22, 22, block=block, prefix=2))
    np.testing.assert_allclose(actual.compute(), expected, rtol=0, atol=1e-14 * np.max(np.abs(expected)))


@pytest.mark.filterwarnings("ignore::dask.array.PerformanceWarning")  # a matrix of weights has many blocks
@pytest.mark.usefixtures("nothing_computed")
def test_nothing_is_computed_early() -> None:
    query, key, value = (_blocks(x, (2, 2, 7, 3)) for x in draw(PROBLEM)[0])
    mask = da.ones((3, 22), chunks=5, dtype=bool)
    for form in FORMS:
        attention(query, key, value, form=form, key_mask=mask, scale=da.ones(6), normalise_output=True)
        attention(query, key, value, form=form, is_causal=True)
        output, pull = attention_vjp(query, key, value, form=form)
        assert isinstance(pull(output).key, da.Array)
    attention_weights(query, key, key_mask=mask)
    (summarise(key, value) + summarise(key, value)).attend(query)
    with pytest.raises(AssertionError, match="computed early"):
        attention(query, key, value).compute()


@pytest.mark.parametrize("form", TILED)
@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients_are_those_of_numpy(form: str, is_causal: bool) -> None:
    arrays = draw(dataclasses.replace(PROBLEM, query_length=22))[0]
    inputs = [_blocks(x, (2, 2, 7, 3)) for x in arrays]
    cotangent = np.random.default_rng(1).standard_normal((3, 6, 22, 4))
    plan = _small_tiles(*inputs, form=form)
    _, pull = attention_vjp(*inputs, is_causal=is_causal, plan=plan)
    _, expected = attention_vjp(*arrays, is_causal=is_causal, plan=plan)
    for actual, wanted in zip(pull(da.from_array(cotangent, chunks=9))[:3], expected(cotangent)[:3], strict=True):
        np.testing.assert_allclose(actual.compute(), wanted, rtol=0, atol=1e-13 * np.max(np.abs(wanted)))


def test_tasks_are_counted_in_blocks_not_in_tokens() -> None:
    counts = {}
    for length, block in ((10**6, 50_000), (10**6, 25_000), (10**7, 500_000)):
        tokens = [da.full((1, length, 32), i, chunks=(1, block, 32), dtype=np.float32) for i in range(3)]
        counts[length, block] = _n_tasks(attention(*tokens, form="efficient"))
    print(f"tasks, with 3 for each block of input, by (length, block): {counts}")
    twenty, forty, same = counts.values()
    assert same == twenty
    assert forty - twenty <= 20 * 12
    assert twenty <= 20 * 12


def test_memory_is_that_of_a_few_blocks() -> None:
    rng = da.random.default_rng(0)
    tokens = [rng.standard_normal((1, 200_000, 16), chunks=(1, 5_000, 16), dtype=np.float32) for _ in range(3)]
    _, peak = load_backend("dask").peak_memory(lambda: attention(*tokens, form="efficient").sum())
    print(f"peak {peak / 1e6:.1f} MB for {sum(x.nbytes for x in tokens) / 1e6:.1f} MB of input that no one holds")
    assert peak < 12e6


@pytest.mark.parametrize("form", TILED)
@pytest.mark.parametrize("heads", [2, 4])
def test_lengths_that_dask_does_not_know(form: str, heads: int) -> None:
    (query, key, value), keywords = draw(Problem(29, 31, 5, 4, heads=heads, kv_heads=2, key_mask="batch, heads"))
    of_query, of_key = query[0, :, 0] > 0, key[0, :, 0] > 0
    mask = keywords["key_mask"]
    expected = attention_oracle(query[:, of_query], key[:, of_key], value[:, of_key], key_mask=mask[:, of_key])
    inputs = [
        _blocks(x, (1, 7, 3))[:, da.from_array(kept, chunks=7)]
        for x, kept in ((query, of_query), (key, of_key), (value, of_key))
    ]
    lazy_mask = da.from_array(mask, chunks=(1, 7))[:, da.from_array(of_key, chunks=7)]
    actual = attention(*inputs, key_mask=lazy_mask, form=form)
    assert np.isnan(actual.shape[-2])
    np.testing.assert_allclose(actual.compute(), expected, rtol=0, atol=1e-14 * np.max(np.abs(expected)))


@pytest.mark.parametrize("form", TILED)
def test_results_broadcast_against_other_chunks(form: str) -> None:
    """Dask fuses what follows into our tasks; a last axis of size 1 must then serve all blocks of the other array."""
    arrays = draw(Problem(29, 31, 5, 1, heads=1, kv_heads=1))[0]
    inputs = [_blocks(x[0], (7, -1)) for x in arrays]
    actual = attention(*inputs, form=form) * da.ones((29, 8), chunks=(7, 2)) + 1
    expected = np.repeat(attention_oracle(*arrays)[0], 8, axis=-1) + 1
    np.testing.assert_allclose(actual.compute(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", TILED)
def test_graphs_travel_to_other_processes(form: str) -> None:
    arrays = draw(PROBLEM)[0]
    sent = cloudpickle.dumps(attention(*(_blocks(x, (2, 2, 7, -1)) for x in arrays), form=form, is_causal=True))
    expected = attention_oracle(*arrays, allowed=causal(19, 22))
    np.testing.assert_allclose(pickle.loads(sent).compute(), expected, rtol=0, atol=1e-14 * np.max(np.abs(expected)))


def test_kinds_of_blocks_that_are_refused() -> None:
    good = da.ones((4, 3), chunks=2)
    masked = da.ma.masked_equal(good, 0)
    with pytest.raises(BackendError, match=r"key cannot be used: it is a masked array"):
        attention(good, masked, good)
    foreign = da.ones((4, 3), chunks=2)
    foreign._meta = type("Sparse", (), {"__module__": "elsewhere.core", "dtype": np.dtype(float), "ndim": 2})()
    with pytest.raises(BackendError, match=r"value cannot be used: its blocks are of elsewhere"):
        attention(good, good, foreign)
