"""PyTorch on shadow CUDA devices: no waiting for the device inside attention, everything on the right device."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gpu.cases import FORMS, PROBLEMS, TILES, causal_oracle
from gpu_without_gpu.shadow_cuda import DeviceMismatchError, ShadowCuda, ShadowTensor, SyncError
from oracle import attention_oracle
from problems import Problem, draw

from taylorshift_core import BackendError, attention, attention_weights, explain, load_backend, summarise

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def on_cpu(problem: Problem, precision: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arrays and keywords of a problem as tensors of the CPU; floating-point ones in `precision`."""

    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x) if x.dtype == np.bool_ else torch.tensor(x, dtype=DTYPES[precision])

    arrays, keywords = draw(problem)
    options = {name: tensor(x) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
    return [tensor(x) for x in arrays], options


def to_device(thing: Any, device: str) -> Any:
    return thing.to(device) if isinstance(thing, torch.Tensor) else thing


def exact(thing: Any) -> Any:
    """Return a tensor as NumPy's, in float64 unless it is a mask; numbers and None as they are."""
    value = thing.value if isinstance(thing, ShadowTensor) else thing
    if not isinstance(value, torch.Tensor):
        return value
    return value.numpy() if value.dtype == torch.bool else value.double().numpy()


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_attention(name: str, precision: str, form: str, device: str) -> None:
    problem = PROBLEMS[name]
    arrays, options = on_cpu(problem, precision)
    with ShadowCuda():
        inputs = [to_device(x, device) for x in arrays]
        keywords = {name: to_device(x, device) for name, x in options.items()}
        plan = dataclasses.replace(explain(*inputs, form=form, **keywords), **TILES)
        with ShadowCuda(forbid_syncs=True):
            output = attention(*inputs, plan=plan, **keywords)
    assert (str(output.device), output.dtype) == (device, DTYPES[precision])
    expected = attention_oracle(*map(exact, arrays), **{name: exact(x) for name, x in options.items()})
    allowed = 4 * torch.finfo(DTYPES[precision]).eps * np.sqrt(problem.terms) * np.max(np.abs(expected))
    assert np.max(np.abs(exact(output) - expected)) <= allowed


def test_weights_and_states() -> None:
    arrays, options = on_cpu(PROBLEMS["grouped"], "float32")
    with ShadowCuda():
        query, key, value = (to_device(x, "cuda:1") for x in arrays)
        mask = to_device(options["key_mask"], "cuda:1")
        with ShadowCuda(forbid_syncs=True):
            attention_weights(query, key, key_mask=mask)
            state = summarise(key[:, :5], value[:, :5]) + summarise(key[:, 5:], value[:, 5:])
            output = state.attend(query)
    expected = attention_oracle(*map(exact, arrays))
    assert str(output.device) == "cuda:1"
    np.testing.assert_allclose(exact(output), expected, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_causal_in_two_parts(form: str) -> None:
    arrays, _ = on_cpu(Problem(query_length=9, key_length=9, heads=4), "float32")
    with ShadowCuda():
        query, key, value = (to_device(x, "cuda:1") for x in arrays)
        with ShadowCuda(forbid_syncs=True):
            first, rest = ([x[:, part] for x in (query, key, value)] for part in (slice(None, 5), slice(5, None)))
            one, state = attention(*first, form=form, is_causal=True, return_state=True)
            two = attention(*rest, form=form, is_causal=True, state=state)
    expected = causal_oracle(*map(exact, arrays))
    assert str(one.device) == str(two.device) == "cuda:1"
    np.testing.assert_allclose(np.concatenate([exact(one), exact(two)], axis=1), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["key", "value", "key_mask", "scale"])
@pytest.mark.parametrize("place", ["cpu", "cuda:0"])
def test_tensors_in_two_places(place: str, name: str) -> None:
    problem = dataclasses.replace(PROBLEMS["plain"], key_mask="keys", scale="per head")
    (query, key, value), options = on_cpu(problem, "float32")
    given = {"query": query, "key": key, "value": value, "key_mask": options["key_mask"], "scale": options["scale"]}
    with ShadowCuda():
        inputs = {name: to_device(x, "cuda:1") for name, x in given.items()}
        with pytest.raises(BackendError, match="all arrays must be on one device"):
            attention(**inputs | {name: to_device(given[name], place)})


# ---- planted bugs: what the shadow must see ----

PLANTED: dict[str, tuple[type[Exception], Callable[[Any], Any]]] = {
    "float": (SyncError, lambda x: x * float(x.sum())),
    "bool": (SyncError, lambda x: x if x.any() else -x),
    "mask": (SyncError, lambda x: x[x > -9].reshape(x.shape)),
    "round trip": (SyncError, lambda x: x.cpu().to(x.device)),
    "constant of the host, copied": (SyncError, lambda x: x * torch.tensor([1.0], device=x.device)),
    "missing device": (DeviceMismatchError, lambda x: x * torch.ones(1)),
    "another device": (DeviceMismatchError, lambda x: x * torch.ones(1, device="cuda:0")),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_in_an_adapter(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    error, pack = PLANTED[bug]
    backend = dataclasses.replace(load_backend("torch"), pack=pack)
    monkeypatch.setattr("taylorshift_core._registry._backend_for", lambda _namespace: backend)
    with ShadowCuda():
        inputs = [to_device(x, "cuda:1") for x in on_cpu(PROBLEMS["plain"], "float32")[0]]
        with ShadowCuda(forbid_syncs=True), pytest.raises(error):
            attention(*inputs)


# ---- the shadow itself ----


def test_values_and_views() -> None:
    with ShadowCuda() as shadow:
        x = torch.arange(6.0, device="cuda").reshape(2, 3)
        y = torch.matmul(x, x.mT) + 1
        y[0] *= -1
        y = torch.where(y > 0, y, torch.zeros((), device=y.device)).to(torch.float16)
    assert (str(y.device), y.dtype) == ("cuda:0", torch.float16)
    np.testing.assert_array_equal(y.value, [[0, 0], [15, 51]])
    assert not shadow.syncs


def test_a_list_of_what_waits() -> None:
    with ShadowCuda() as shadow:
        x = torch.ones(3, device="cuda") * torch.tensor(2.0)  # legal in torch: a scalar of the host
        float(x.sum())
        x.nonzero()
        x.cpu()
    assert [what.split(".")[1] for what in shadow.syncs] == ["_local_scalar_dense", "nonzero", "_to_copy"]


def test_a_shadow_outside_its_block() -> None:
    with ShadowCuda():
        x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="outside"):
        x + 1
