"""CuPy on simulated devices: values, the right device and stream, no waiting, and no memory but tiles."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import cupy
import ml_dtypes
import numpy as np
import pytest
from gpu.cases import FORMS, PROBLEMS, TILES, causal_oracle
from gpu_without_gpu.traffic import Traffic, forbid_copies_to_host, traffic
from oracle import attention_oracle, attention_weights_oracle
from problems import Problem, draw

from taylorshift_core import BackendError, attention, attention_weights, explain, load_backend, summarise

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def on_device(number: int, *arrays: Any) -> list[Any]:
    """Return NumPy arrays on a device; numbers and None as they are."""
    with cupy.cuda.Device(number):
        return [cupy.asarray(array) if isinstance(array, np.ndarray) else array for array in arrays]


def rounded(problem: Problem, dtype: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arrays and keywords of a problem; floating-point arrays in `dtype`."""
    arrays, keywords = draw(problem)
    kind = DTYPES[dtype]
    options = {
        name: x.astype(kind) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x
        for name, x in keywords.items()
    }
    return [x.astype(kind) for x in arrays], options


def exact(thing: Any) -> Any:
    """Return an array, of NumPy or of CuPy, in float64 on the host; masks, numbers and None as they are."""
    host = thing.get() if isinstance(thing, cupy.ndarray) else thing
    return host.astype(np.float64) if isinstance(host, np.ndarray) and host.dtype != np.bool_ else host


def assert_close(actual: Any, expected: Any, dtype: str, terms: int) -> None:
    assert actual.dtype == DTYPES[dtype]
    assert actual.shape == expected.shape
    allowed = 4 * float(ml_dtypes.finfo(DTYPES[dtype]).eps) * np.sqrt(terms) * np.max(np.abs(expected))
    assert np.max(np.abs(exact(actual) - expected)) <= allowed


def assert_nothing_but_launches(seen: Traffic) -> None:
    assert seen.launches > 0
    assert (seen.copies_to_host, seen.copies_to_device, seen.copies_on_device, seen.synchronisations) == (0, 0, 0, 0)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_attention(name: str, precision: str, form: str, number: int) -> None:
    problem = PROBLEMS[name]
    arrays, options = rounded(problem, precision)
    inputs, keywords = on_device(number, *arrays), dict(zip(options, on_device(number, *options.values()), strict=True))
    plan = dataclasses.replace(explain(*inputs, form=form, **keywords), **TILES)
    with forbid_copies_to_host(), traffic() as seen:
        output = attention(*inputs, plan=plan, **keywords)
    assert_nothing_but_launches(seen)
    assert output.device == cupy.cuda.Device(number)
    assert cupy.cuda.Device() == cupy.cuda.Device(0)
    expected = attention_oracle(*map(exact, arrays), **{name: exact(x) for name, x in options.items()})
    assert_close(output, expected, precision, problem.terms)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("precision", DTYPES)
def test_weights(precision: str, number: int) -> None:
    (query, key, _), options = rounded(PROBLEMS["grouped"], precision)
    inputs, mask = on_device(number, query, key), on_device(number, options["key_mask"])[0]
    with forbid_copies_to_host(), traffic() as seen:
        weights = attention_weights(*inputs, key_mask=mask)
    assert_nothing_but_launches(seen)
    assert weights.device == cupy.cuda.Device(number)
    expected = attention_weights_oracle(exact(query), exact(key), key_mask=options["key_mask"])
    assert_close(weights, expected, precision, PROBLEMS["grouped"].terms)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("precision", DTYPES)
def test_states(precision: str, number: int) -> None:
    arrays, _ = rounded(PROBLEMS["plain"], precision)
    query, key, value = on_device(number, *arrays)
    with forbid_copies_to_host(), traffic() as seen:
        state = summarise(key[:, :2], value[:, :2]) + summarise(key[:, 2:], value[:, 2:])
        output = state.attend(query)
    assert_nothing_but_launches(seen)
    assert output.device == cupy.cuda.Device(number)
    assert_close(output, attention_oracle(*map(exact, arrays)), precision, PROBLEMS["plain"].terms)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_causal_in_two_parts(form: str, number: int) -> None:
    problem = Problem(query_length=9, key_length=9, heads=4)
    arrays, _ = rounded(problem, "float32")
    first, rest = (on_device(number, *(x[:, part] for x in arrays)) for part in (slice(None, 5), slice(5, None)))
    with forbid_copies_to_host(), traffic() as seen:
        one, state = attention(*first, form=form, is_causal=True, return_state=True)
        two = attention(*rest, form=form, is_causal=True, state=state)
    assert_nothing_but_launches(seen)
    expected = causal_oracle(*map(exact, arrays))
    assert one.device == two.device == cupy.cuda.Device(number)
    assert_close(one, expected[:, :5], "float32", problem.terms)
    assert_close(two, expected[:, 5:], "float32", problem.terms)


def test_a_plan_costs_nothing() -> None:
    inputs = on_device(1, *draw(PROBLEMS["plain"])[0])
    with traffic() as seen:
        explain(*inputs)
    assert seen == Traffic()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_current_stream(form: str, number: int) -> None:
    inputs = on_device(number, *draw(PROBLEMS["grouped"])[0])
    with cupy.cuda.Device(number), cupy.cuda.Stream(non_blocking=True), traffic() as seen:
        attention(*inputs, form=form)
    assert seen.launches > 0
    assert seen.launches_on_default_stream == 0


def peak_bytes(form: str, query_length: int, key_length: int) -> int:
    """Return the most that one call allocates beyond its output, in tiles of 64 tokens."""
    problem = Problem(query_length, key_length, head_dim=8, value_dim=6, heads=4, kv_heads=2, key_mask="keys")
    arrays, options = rounded(problem, "float32")
    inputs = on_device(0, *arrays)
    (mask,) = on_device(0, options["key_mask"])
    plan = dataclasses.replace(explain(*inputs, form=form), query_tile=64, key_tile=64)
    gc.collect()  # arrays of tests before, which must not be freed meanwhile
    with traffic() as seen:
        output = attention(*inputs, plan=plan, key_mask=mask)
    return seen.peak_bytes - int(output.nbytes)


def test_memory_of_the_efficient_form_does_not_grow() -> None:
    assert peak_bytes("efficient", 512, 512) == peak_bytes("efficient", 1024, 512) == peak_bytes("efficient", 512, 1024)


def test_memory_of_the_direct_form_grows_by_one_copy_of_keys_and_values() -> None:
    start = peak_bytes("direct", 512, 512)
    assert peak_bytes("direct", 1024, 512) == start
    key_heads, prepared_entries, bytes_each = 2, (8 + 1) + (6 + 1), 4
    assert peak_bytes("direct", 512, 1024) == start + 512 * key_heads * prepared_entries * bytes_each


MIXED = {
    "another device": lambda x: on_device(0, x)[0],
    "the host": lambda x: x,
}


@pytest.mark.parametrize("name", ["key", "value", "key_mask", "scale"])
@pytest.mark.parametrize("place", MIXED)
def test_arrays_in_two_places(place: str, name: str) -> None:
    problem = dataclasses.replace(PROBLEMS["plain"], key_mask="keys", scale="per head")
    (query, key, value), options = draw(problem)
    given = {"query": query, "key": key, "value": value, "key_mask": options["key_mask"], "scale": options["scale"]}
    inputs = dict(zip(given, on_device(1, *given.values()), strict=True))
    with pytest.raises(BackendError, match=r"all arrays must be o[nf] one"):
        attention(**inputs | {name: MIXED[place](given[name])})


@pytest.mark.parametrize("number", [0, 1])
def test_adapter(number: int) -> None:
    backend = load_backend("cupy")
    device = backend.devices()[number]
    array = backend.from_numpy(np.arange(6.0), device=device)
    assert array.device == device
    assert backend.wait(array) is array
    np.testing.assert_array_equal(backend.to_numpy(array), np.arange(6.0))


def test_peak_memory() -> None:
    def two_at_a_time() -> Any:
        x = cupy.zeros(1 << 20, dtype=cupy.float32)
        x = x + 1  # the old and the new
        return x + 1

    measure = load_backend("cupy").peak_memory
    assert measure is not None
    result, n_bytes = measure(two_at_a_time)
    assert float(result[0]) == 2
    assert 2 * result.nbytes <= n_bytes < 3 * result.nbytes
