"""MLX: lazy arrays without a device, four dtypes, and transformations that trace."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from oracle import attention_oracle, causal
from problems import Problem, draw

from taylorshift_core import BackendError, attention, attention_vjp, explain, load_backend

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS = ("direct", "efficient")
MLX = load_backend("mlx")
ALLOWED = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
PROBLEM = Problem(13, 13, 5, 4, heads=4, query_batch=(2,), key_batch=(2,), value_batch=(2,), key_mask="batch, heads")


def _rounded(array: np.ndarray, kind: str) -> tuple[Any, np.ndarray]:
    """Return an array in a dtype of MLX, and in float64 what it then holds."""
    made = MLX.from_numpy(array) if array.dtype == bool else MLX.from_numpy(array).astype(getattr(mx, kind))
    return made, MLX.to_numpy(made) if array.dtype == bool else MLX.to_numpy(made).astype(np.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("mask", ["absent", "batch", "batch, heads"])
def test_errors_by_dtype(form: str, kind: str, mask: str) -> None:
    problem = dataclasses.replace(PROBLEM, query_length=300, key_length=280, head_dim=32, key_mask=mask)
    arrays, keywords = draw(dataclasses.replace(problem, scale="per head", normalise_output=True))
    pairs = [_rounded(x, kind) for x in arrays]
    options = {name: _rounded(x, kind) if isinstance(x, np.ndarray) else (x, x) for name, x in keywords.items()}
    actual = attention(*(x for x, _ in pairs), form=form, **{name: x for name, (x, _) in options.items()})
    assert actual.dtype == getattr(mx, kind)
    expected = attention_oracle(*(x for _, x in pairs), **{name: x for name, (_, x) in options.items()})
    error = np.max(np.abs(MLX.to_numpy(actual) - expected)) / np.max(np.abs(expected))
    print(f"mlx {form} {kind}: error {error:.2e} of max|oracle|")
    assert error <= ALLOWED[kind]


@pytest.mark.parametrize("is_causal", [False, True])
def test_memory_stays_a_tiles(is_causal: bool) -> None:
    """A lazy graph of all tiles would hold what each of them needs."""
    inputs = [mx.random.normal((1, 60_000, 32), key=mx.random.key(i)) for i in range(3)]
    mx.eval(inputs)
    output, peak = MLX.peak_memory(lambda: attention(*inputs, form="efficient", is_causal=is_causal))
    tiles = (peak - 2 * output.nbytes) / 1e6  # the output is there in tiles and whole
    print(f"mlx: {tiles:.1f} MB beside twice the output of {output.nbytes / 1e6:.1f} MB")
    assert tiles < 8


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("traced", [mx.compile, mx.vmap], ids=["compile", "vmap"])
def test_functions_that_trace(form: str, is_causal: bool, traced: Callable[..., Any]) -> None:
    arrays = draw(dataclasses.replace(PROBLEM, key_mask="absent"))[0]
    inputs = [MLX.from_numpy(x) for x in arrays]
    plan = dataclasses.replace(explain(*inputs, form=form), query_tile=7, key_tile=5)

    def function(query: Any, key: Any, value: Any) -> Any:
        return attention(query, key, value, plan=plan, is_causal=is_causal)

    allowed = causal(13, 13) if is_causal else None
    with mx.stream(mx.cpu):  # float64 is the CPU's
        actual = MLX.to_numpy(traced(function)(*inputs))
    np.testing.assert_allclose(actual, attention_oracle(*arrays, allowed=allowed), rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_mlx_are_ours(form: str) -> None:
    arrays, keywords = draw(PROBLEM)
    inputs, mask = [MLX.from_numpy(x) for x in arrays], MLX.from_numpy(keywords["key_mask"])
    cotangent = mx.random.normal((2, 4, 13, 4), key=mx.random.key(7)).astype(mx.float64)
    plan = dataclasses.replace(explain(*inputs, form=form), query_tile=7, key_tile=5)

    def loss(query: Any, key: Any, value: Any) -> Any:
        return mx.sum(attention(query, key, value, plan=plan, key_mask=mask) * cotangent)

    gradients = mx.grad(loss, argnums=(0, 1, 2))(*inputs)
    _, pull = attention_vjp(*inputs, plan=plan, key_mask=mask)
    for actual, wanted in zip(gradients, pull(cotangent)[:3], strict=True):
        np.testing.assert_allclose(MLX.to_numpy(actual), MLX.to_numpy(wanted), rtol=0, atol=1e-13)


def test_float64_is_refused_where_mlx_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    x = mx.ones((3, 2), dtype=mx.float64)
    attention(x, x, x)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
    with pytest.raises(BackendError, match=r"query cannot be used: MLX has float64 on the CPU alone"):
        attention(x, x, x)
    attention(*[x.astype(mx.float32)] * 3)


@pytest.mark.parametrize("kind", ["bool", "int32", "float16", "float32", "float64"])
def test_dtypes_survive_the_way_from_and_to_numpy(kind: str) -> None:
    array = np.asarray([0, 1, 3]).astype(kind) / (3 if kind == "float64" else 1)
    array = array.astype(kind)
    there = MLX.from_numpy(array, device="ignored, since arrays stand on no device")
    back = MLX.to_numpy(there)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_waiting_computes() -> None:
    x = mx.ones((512, 512)) * 2
    before = mx.get_active_memory()
    assert MLX.wait(x) is x
    assert mx.get_active_memory() - before >= 0.99 * x.nbytes
