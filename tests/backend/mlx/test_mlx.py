"""MLX: lazy arrays without a device, four dtypes, and transformations that trace."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from gradient_oracle import NAMES, derivative, directions, gradients_oracle, tangent_oracle
from oracle import attention_oracle, causal
from problems import Problem, draw

from taylorshift_core import BackendError, Evaluation, attention, explain, load_backend

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


@pytest.mark.shows(compile="mx.compile, mx.vmap")
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


def _gradients(form: str, problem: Problem, transform: Callable[..., Any], **options: Any) -> None:
    """Hold what a transformation of MLX makes of a loss against the gradients of the definition, in float64."""
    arrays, keywords = draw(problem)
    mask, scale = keywords["key_mask"], keywords["scale"]
    inputs = [MLX.from_numpy(x) for x in (*arrays, np.asarray(1.0 if scale is None else scale))]
    cotangent = np.random.default_rng(7).standard_normal((*arrays[0].shape[:-1], arrays[2].shape[-1]))
    plan = dataclasses.replace(explain(*inputs[:3], form=form), query_tile=7, key_tile=5)

    def loss(query: Any, key: Any, value: Any, scale: Any) -> Any:
        key_mask = None if mask is None else MLX.from_numpy(mask)
        output = attention(query, key, value, plan=plan, key_mask=key_mask, scale=scale, **options)
        return mx.sum(output * MLX.from_numpy(cotangent))

    with mx.stream(mx.cpu):
        gradients = transform(loss)(*inputs)
    allowed = causal(13, 13) if options else None
    wanted = gradients_oracle(*arrays, cotangent, scale=_known(scale), key_mask=mask, allowed=allowed)
    for actual, name in zip(gradients, NAMES, strict=True):
        exact, size = wanted[name]
        np.testing.assert_allclose(MLX.to_numpy(actual), exact, rtol=0, atol=1e-14 * size, err_msg=name)


def _known(scale: Any) -> Any:
    return np.asarray(1.0) if scale is None else scale


def _grad(loss: Callable[..., Any]) -> Callable[..., Any]:
    return mx.grad(loss, argnums=(0, 1, 2, 3))


@pytest.mark.shows(gradients="mx.grad")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", ["0-d", "per head"])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=["all keys", "causal"])
@pytest.mark.parametrize("compiled", [False, True])
def test_grad_is_that_of_the_definition(form: str, scale: str, options: dict[str, Any], compiled: bool) -> None:
    problem = dataclasses.replace(PROBLEM, scale=scale)
    _gradients(form, problem, lambda loss: mx.compile(_grad(loss)) if compiled else _grad(loss), **options)


@pytest.mark.parametrize("form", FORMS)
def test_grad_is_taken_from_the_core(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from what MLX makes of the forward, which would hold the features."""
    calls: list[Any] = []
    pulled = Evaluation.vjp
    monkeypatch.setattr(Evaluation, "vjp", lambda *arguments: (calls.append(1), pulled(*arguments))[1])
    _gradients(form, PROBLEM, _grad)
    assert calls == [1]


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_flows_through_a_state(form: str) -> None:
    arrays = [MLX.from_numpy(x) for x in draw(dataclasses.replace(PROBLEM, key_mask="absent"))[0]]
    cotangent = np.random.default_rng(7).standard_normal((2, 4, 13, 4))

    def loss(query: Any, key: Any, value: Any) -> Any:
        first, state = attention(
            query[..., :6, :], key[..., :6, :], value[..., :6, :], form=form, is_causal=True, return_state=True
        )
        rest = attention(query[..., 6:, :], key[..., 6:, :], value[..., 6:, :], form=form, is_causal=True, state=state)
        return mx.sum(mx.concatenate([first, rest], axis=-2) * MLX.from_numpy(cotangent))

    gradients = mx.grad(loss, argnums=(0, 1, 2))(*arrays)
    exact = [MLX.to_numpy(x) for x in arrays]
    wanted = gradients_oracle(*exact, cotangent, allowed=causal(13, 13))
    for actual, name in zip(gradients, NAMES, strict=False):
        np.testing.assert_allclose(MLX.to_numpy(actual), wanted[name][0], rtol=0, atol=1e-14 * wanted[name][1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ["grad of vmap", "vmap of grad"])
def test_grad_and_vmap(form: str, order: str) -> None:
    arrays = draw(dataclasses.replace(PROBLEM, key_mask="absent"))[0]
    inputs = [MLX.from_numpy(x) for x in arrays]
    cotangent = np.ones((2, 4, 13, 4))

    def loss(query: Any, key: Any, value: Any) -> Any:
        return mx.sum(attention(query, key, value, form=form))

    if order == "vmap of grad":
        gradients = mx.vmap(mx.grad(loss, argnums=(0, 1, 2)))(*inputs)
    else:
        gradients = mx.grad(lambda *inputs: mx.sum(mx.vmap(loss)(*inputs)), argnums=(0, 1, 2))(*inputs)
    wanted = gradients_oracle(*arrays, cotangent)
    for actual, name in zip(gradients, NAMES, strict=False):
        np.testing.assert_allclose(MLX.to_numpy(actual), wanted[name][0], rtol=0, atol=1e-14 * wanted[name][1])


@pytest.mark.shows(gradients="mx.jvp")
@pytest.mark.parametrize("form", FORMS)
def test_jvp_is_that_of_the_definition(form: str) -> None:
    arrays, keywords = draw(PROBLEM)
    moves = directions(arrays, seed=3)
    inputs, tangents = ([MLX.from_numpy(x) for x in each] for each in (arrays, moves))
    mask = keywords["key_mask"]

    def function(query: Any, key: Any, value: Any) -> Any:
        return attention(query, key, value, form=form, key_mask=MLX.from_numpy(mask))

    _, (tangent,) = mx.jvp(function, inputs, tangents)
    wanted = tangent_oracle((*arrays, None), (*moves, None), key_mask=mask)
    np.testing.assert_allclose(MLX.to_numpy(tangent), wanted, rtol=0, atol=1e-9 * np.max(np.abs(wanted)))


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives(form: str) -> None:
    """The derivative along v of the gradient is a difference of gradients."""
    arrays = draw(dataclasses.replace(PROBLEM, key_mask="absent", query_batch=(), key_batch=(), value_batch=()))[0]
    query, key, value = (MLX.from_numpy(x) for x in arrays)
    v = MLX.from_numpy(np.random.default_rng(5).standard_normal(arrays[1].shape))

    def gradient(key: Any) -> Any:
        return mx.grad(lambda key: mx.sum(attention(query, key, value, form=form) ** 2))(key)

    along = MLX.to_numpy(mx.grad(lambda key: mx.sum(gradient(key) * v))(key))
    wanted = derivative(lambda h: MLX.to_numpy(gradient(key + h * v)))  # the Hessian is symmetric
    np.testing.assert_allclose(along, wanted, rtol=0, atol=1e-8 * np.max(np.abs(wanted)))


@pytest.mark.parametrize("is_causal", [False, True])
def test_memory_of_gradients_grows_by_less_than_the_features_of_a_token(is_causal: bool) -> None:
    head_dim, lengths = 48, (8_000, 24_000)
    peaks = []
    for length in lengths:
        inputs = [mx.random.normal((1, length, head_dim), key=mx.random.key(i)) for i in range(3)]
        mx.eval(inputs)

        def gradients(inputs: Any = inputs) -> Any:
            def loss(query: Any, key: Any, value: Any) -> Any:
                return mx.sum(attention(query, key, value, form="efficient", is_causal=is_causal) ** 2)

            return mx.concatenate(mx.grad(loss, argnums=(0, 1, 2))(*inputs))

        peaks.append(MLX.peak_memory(gradients)[1])
    per_token = (peaks[1] - peaks[0]) / (lengths[1] - lengths[0])
    features = 4 * (head_dim + 1) * (head_dim + 2) // 2
    print(f"mlx: {per_token:.0f} bytes a token with gradients; the features of a token are {features}")
    assert per_token < features


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
