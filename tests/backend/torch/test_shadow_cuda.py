"""PyTorch on shadow CUDA devices: every public function stays on its device, and the host never waits for it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from calls import CALLS, Call, assert_close, tokens
from gpu_without_gpu.shadow_cuda import DeviceMismatchError, ShadowCuda, ShadowTensor, SyncError

from taylorshift_core import BackendError, attention, load_backend

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
DEVICE = "cuda:1"


def on_cpu(dtype: torch.dtype) -> dict[str, Any]:
    """Return the tokens as tensors of the CPU; the masks stay boolean."""
    return {
        name: torch.tensor(x) if x.dtype == np.bool_ else torch.tensor(x, dtype=dtype) for name, x in tokens().items()
    }


def exact(tensor: Any) -> Any:
    """Return a tensor as NumPy's, in float64 unless it is a mask."""
    value = tensor.value if isinstance(tensor, ShadowTensor) else tensor
    return value.numpy() if value.dtype == torch.bool else value.double().numpy()


@pytest.mark.shows(where="no GPU: cuda:1 shadowed on the CPU")
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_wait(call: Call, precision: str) -> None:
    given = on_cpu(DTYPES[precision])
    with ShadowCuda():
        x = {name: each.to(DEVICE) for name, each in given.items()}
        with ShadowCuda(forbid_syncs=True):
            results = call.run(x)
    expected = call.expected({name: exact(each) for name, each in given.items()})
    for result, (values, size) in zip(results, expected.values(), strict=True):
        assert type(result) is ShadowTensor
        assert str(result.device) == DEVICE
        assert_close(exact(result), values, size, torch.finfo(result.dtype).eps)


@pytest.mark.parametrize("name", ["key", "value", "key_mask", "scale"])
@pytest.mark.parametrize("place", ["cpu", "cuda:0"])
def test_tensors_in_two_places(place: str, name: str) -> None:
    given = {each: on_cpu(torch.float32)[each] for each in ("query", "key", "value", "key_mask", "scale")}
    with ShadowCuda():
        inputs = {each: x.to(place if each == name else DEVICE) for each, x in given.items()}
        with pytest.raises(BackendError, match="all arrays must be on one device"):
            attention(**inputs)


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
    given = on_cpu(torch.float32)
    with ShadowCuda():
        query, key, value = (given[name].to(DEVICE) for name in ("query", "key", "value"))
        with ShadowCuda(forbid_syncs=True), pytest.raises(error):
            attention(query, key, value)


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
