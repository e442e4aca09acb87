"""Dask: what is asked of a library that computes later, in blocks, perhaps elsewhere."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from lazily import computing_nothing
from oracle import attention_oracle, attention_weights_oracle, causal
from problems import FORMS, Problem, draw

from taylorshift_core import (
    BackendError,
    Decoder,
    OptionError,
    ShapeError,
    attention,
    attention_jvp,
    attention_vjp,
    attention_weights,
    explain,
    load_backend,
    summarise,
)

TILED = ("direct", "efficient")
PROBLEM = Problem(19, 22, 5, 4, heads=6, kv_heads=2, query_batch=(3,), key_batch=(3,), value_batch=(3,))
BATCH, HEADS, LENGTH, DIM = (2, -1, -1, -1), (-1, 1, -1, -1), (-1, -1, 7, -1), (-1, -1, -1, 2)


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
def test_nothing_is_computed_early() -> None:
    query, key, value = (_blocks(x, (2, 2, 7, 3)) for x in draw(PROBLEM)[0])
    mask, dense = da.ones((3, 22), chunks=5, dtype=bool), da.ones((19, 22), chunks=5, dtype=bool)
    with computing_nothing():
        for form in FORMS:
            attention(query, key, value, form=form, key_mask=mask, scale=da.ones(6), normalise_output=True)
            attention(query, key, value, form=form, is_causal=True)
        attention(query, key, value, attn_mask=dense)
        attention_weights(query, key, key_mask=mask)
        state = summarise(key, value).add(key, value).remove(key, value).merge(summarise(key, value))
        output = state.attend(query)
        state.read(query)
        Decoder().step(query[..., :1, :], key[..., :1, :], value[..., :1, :])
        with pytest.raises(AssertionError, match="computed early"):
            output.compute()


@pytest.mark.filterwarnings("ignore::dask.array.PerformanceWarning")
@pytest.mark.parametrize("chunks", [HEADS, (1, 1, 3, 2)], ids=str)
def test_states_masks_and_weights_are_those_of_the_definition(chunks: tuple[int, ...]) -> None:
    (query, key, value), keywords = draw(dataclasses.replace(PROBLEM, key_mask="batch, kv heads"))
    mask, dense = keywords["key_mask"], np.random.default_rng(2).uniform(size=(6, 19, 22)) < 0.6
    q, k, v = (_blocks(x, chunks) for x in (query, key, value))
    lazy_mask = da.from_array(mask, chunks=(1, 1, 5))
    state = summarise(k, v, key_mask=lazy_mask)
    rest = state.remove(k[..., :4, :], v[..., :4, :], key_mask=lazy_mask[..., :4]) + summarise(k, v)
    twice = [np.concatenate([x[..., 4:, :], x], axis=-2) for x in (key, value)]
    mask_of_twice = np.concatenate([mask[..., 4:], np.ones_like(mask)], axis=-1)
    results = [
        (state.attend(q), attention_oracle(query, key, value, key_mask=mask)),
        (rest.attend(q), attention_oracle(query, *twice, key_mask=mask_of_twice)),
        (
            attention(q, k, v, attn_mask=da.from_array(dense, chunks=(2, 7, 5))),
            attention_oracle(query, key, value, allowed=dense),
        ),
        (attention_weights(q, k, key_mask=lazy_mask), attention_weights_oracle(query, key, key_mask=mask)),
    ]
    for actual, expected in results:
        assert isinstance(actual, da.Array)
        np.testing.assert_allclose(actual.compute(), expected, rtol=0, atol=2e-14 * np.max(np.abs(expected)))


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


def test_query_heads_of_one_key_head_walk_together() -> None:
    """Their state is built once, however Dask cut the query heads: a task for each of 4 pieces, 2 key heads, and batch."""
    inputs = [_blocks(x, (3, 1, 6, -1)) for x in draw(dataclasses.replace(PROBLEM, query_length=22))[0]]
    output = attention(*inputs, is_causal=True, plan=_small_tiles(*inputs, form="efficient"))
    names = [key[0] for key in output.__dask_graph__() if isinstance(key, tuple)]
    assert sum(name.startswith("taylorshift-scan") for name in names) == 4 * 2


def test_memory_is_that_of_a_few_blocks() -> None:
    rng = da.random.default_rng(0)
    tokens = [rng.standard_normal((1, 800_000, 16), chunks=(1, 5_000, 16), dtype=np.float32) for _ in range(3)]
    total, peak = load_backend("dask").peak_memory(lambda: attention(*tokens, form="efficient").sum())
    assert _n_tasks(total) == 1, "not computed"
    held = sum(x.nbytes for x in tokens)
    print(f"peak {peak / 1e6:.1f} MB for {held / 1e6:.1f} MB of input that no one holds")
    assert peak < held / 5  # the graph, a block of 1 MB and buffers of 2 MB for each thread


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


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("heads", [2, 4])
def test_causal_where_dask_does_not_know_the_length(heads: int, block: int) -> None:
    arrays = draw(Problem(29, 29, 5, 4, heads=heads, kv_heads=2))[0]
    kept = arrays[1][0, :, 0] > 0
    inputs = [_blocks(x, (1, 7, 3))[:, da.from_array(kept, chunks=7)] for x in arrays]
    past = summarise(*inputs[1:])
    for state in (None, past):
        actual = attention(*inputs, block_causal=block, prefix_length=2, state=state)
        before = 0 if state is None else int(kept.sum())
        query, key, value = (x[:, kept] for x in arrays)
        if state is not None:
            key, value = (np.concatenate([x, x], axis=-2) for x in (key, value))
        seen = causal(query.shape[-2], key.shape[-2], past=before, block=block, prefix=2)
        expected = attention_oracle(query, key, value, allowed=seen)
        np.testing.assert_allclose(actual.compute(), expected, rtol=0, atol=1e-14 * np.max(np.abs(expected)))


def test_what_needs_lengths_that_dask_does_not_know() -> None:
    x = da.ones((9, 3), chunks=4)
    x = x[x[:, 0] > 0]
    with pytest.raises(OptionError, match=r"only where lengths are known; .*compute_chunk_sizes"):
        attention(x, x, x, is_causal=True, form="efficient")
    with pytest.raises(OptionError, match="only where lengths are known"):
        attention(x, x, x, is_causal=True, plan=explain(x, x, x, form="efficient"))
    with pytest.raises(ShapeError, match=r"key \(None, 3\), value \(9, 3\)"):
        attention(x, x, da.ones((9, 3)))


@pytest.mark.parametrize("form", TILED)
def test_results_broadcast_against_other_chunks(form: str) -> None:
    """Dask fuses what follows into our tasks; a last axis of size 1 must then serve all blocks of the other array."""
    arrays = draw(Problem(29, 31, 5, 1, heads=1, kv_heads=1))[0]
    inputs = [_blocks(x[0], (7, -1)) for x in arrays]
    actual = attention(*inputs, form=form) * da.ones((29, 8), chunks=(7, 2)) + 1
    expected = np.repeat(attention_oracle(*arrays)[0], 8, axis=-1) + 1
    np.testing.assert_allclose(actual.compute(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", TILED)
def test_graphs_travel(form: str) -> None:
    arrays = draw(PROBLEM)[0]
    sent = cloudpickle.dumps(attention(*(_blocks(x, (2, 2, 7, -1)) for x in arrays), form=form, is_causal=True))
    expected = attention_oracle(*arrays, allowed=causal(19, 22))
    np.testing.assert_allclose(pickle.loads(sent).compute(), expected, rtol=0, atol=1e-14 * np.max(np.abs(expected)))


@pytest.mark.shows(distributed="chunks along any axis")
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_scheduler_gives_the_same_bits(scheduler: str) -> None:
    arrays = draw(dataclasses.replace(PROBLEM, query_length=90, key_length=90))[0]
    inputs = [_blocks(x, (2, 2, 25, -1)) for x in arrays]
    results = [attention(*inputs, form=form, is_causal=rule) for form in TILED for rule in (False, True)]
    expected = [
        attention_oracle(*arrays, allowed=causal(90, 90) if rule else None) for _ in TILED for rule in (False, True)
    ]
    once, here = (dask.compute(*results, scheduler=each) for each in ("synchronous", scheduler))
    for first, second, wanted in zip(once, here, expected, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(second, wanted, rtol=0, atol=2e-14 * np.max(np.abs(wanted)))


def test_calls_that_differ_in_their_rule_alone_stand_in_one_graph() -> None:
    arrays = draw(dataclasses.replace(PROBLEM, query_length=22))[0]
    inputs = [_blocks(x, (2, 2, 7, -1)) for x in arrays]
    for form in TILED:
        results = dask.compute(*(attention(*inputs, form=form, block_causal=block) for block in (1, 2, 5)))
        for block, actual in zip((1, 2, 5), results, strict=True):
            expected = attention_oracle(*arrays, allowed=causal(22, 22, block=block))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-14 * np.max(np.abs(expected)))


def test_no_gradients_and_it_says_so() -> None:
    x = da.ones((4, 3), chunks=2)
    with pytest.raises(BackendError, match=r"arrays of dask have no gradients: .*forwards"):
        attention_vjp(x, x, x)
    with pytest.raises(BackendError, match=r"arrays of dask have no gradients: .*forwards"):
        attention_jvp((x, x, x), (x, x, x))


def test_kinds_of_blocks_that_are_refused() -> None:
    good = da.ones((4, 3), chunks=2)
    masked = da.ma.masked_equal(good, 0)
    with pytest.raises(BackendError, match=r"key cannot be used: it is a masked array"):
        attention(good, masked, good)
    foreign = da.ones((4, 3), chunks=2)
    foreign._meta = type("Sparse", (), {"__module__": "elsewhere.core", "dtype": np.dtype(float), "ndim": 2})()
    with pytest.raises(BackendError, match=r"value cannot be used: its blocks are of elsewhere"):
        attention(good, good, foreign)
