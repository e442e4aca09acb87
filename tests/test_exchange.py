"""Arrays of libraries without an array namespace: those that speak DLPack are taken, the others named and refused."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from taylorshift_core import (
    BackendError,
    Decoder,
    MissingLibraryError,
    SlidingWindow,
    attention,
    attention_jvp,
    attention_packed,
    attention_vjp,
    attention_weights,
    explain,
    load_backend,
    summarise,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Tensor:
    """An array of a library that speaks DLPack and nothing else."""

    def __init__(self, content: np.ndarray, device: int = 1) -> None:
        self.content, self.device_type = content, device

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.content.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device_type, 0


class CudaArray:
    """An array that says where it lies on a GPU, as numba's do."""

    def __init__(self, content: np.ndarray) -> None:
        self.content = content

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.content.shape, "typestr": "<f8", "data": (0, True), "version": 3}


X = np.random.default_rng(0).standard_normal((2, 5, 3))
MASK = np.asarray([True, True, False, True, True])
CALLS: dict[str, Callable[..., Any]] = {
    "attention": lambda x, mask, scale: attention(x, x, x, key_mask=mask, scale=scale),
    "attention_weights": lambda x, mask, scale: attention_weights(x, x, key_mask=mask, scale=scale),
    "attention_packed": lambda x, mask, scale: attention_packed(
        x, x, x, cu_seqlens_q=(0, 2, 5), key_mask=mask, scale=scale
    ),
    "explain": lambda x, mask, scale: explain(x, x, x, key_mask=mask, scale=scale).form,
    "summarise": lambda x, mask, _: summarise(x, x, key_mask=mask).sums,
    "add": lambda x, mask, _: summarise(X, X).add(x, x, key_mask=mask).sums,
    "remove": lambda x, mask, _: summarise(X, X).remove(x, x, key_mask=mask).sums,
    "read": lambda x, _, scale: summarise(X, X).read(x, scale=scale),
    "attend": lambda x, _, scale: summarise(X, X).attend(x, scale=scale),
    "attention_vjp": lambda x, mask, scale: attention_vjp(x, x, x, key_mask=mask, scale=scale)[1](x).key,
    "attention_jvp": lambda x, mask, scale: attention_jvp((x, x, x), (x, None, x), key_mask=mask, scale=scale)[1],
    "Decoder": lambda x, _, scale: Decoder().step(x, x, x, scale=scale)[0],
    "SlidingWindow": lambda x, _, scale: SlidingWindow(3).step(x, x, x, scale=scale)[0],
}


@pytest.mark.parametrize("name", CALLS)
def test_what_speaks_dlpack_is_taken_through_numpy(name: str) -> None:
    scale = np.asarray([0.5, 2.0])
    expected = CALLS[name](X, MASK, scale)
    actual = CALLS[name](Tensor(X), Tensor(MASK), Tensor(scale))
    assert type(actual) is type(expected)
    np.testing.assert_array_equal(actual, expected)


def test_it_mixes_with_the_library_it_is_taken_through() -> None:
    np.testing.assert_array_equal(attention(Tensor(X), X, Tensor(X)), attention(X, X, X))
    strict = load_backend("array_api_strict").from_numpy(X)
    with pytest.raises(BackendError, match=r"one library; got query of numpy, key of array_api_strict"):
        attention(Tensor(X), strict, strict)


@pytest.mark.parametrize("device", [2, 10, 13])
@pytest.mark.parametrize("installed", ["cupy", "torch"])
def test_what_lies_on_a_gpu_is_taken_through_cupy_or_torch(
    device: int, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real libraries are seen to take it where they are tested; here NumPy stands in for them."""
    asked = _stand_in(monkeypatch, installed)
    given = Tensor(X, device)
    assert type(attention(given, given, given)) is np.ndarray
    assert set(asked) == ({"cupy"} if installed == "cupy" else {"cupy", "torch"})
    there = CudaArray(X)
    np.testing.assert_array_equal(attention(there, there, there), attention(X, X, X))


def _stand_in(monkeypatch: pytest.MonkeyPatch, installed: str) -> list[str]:
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        if name != installed:
            raise MissingLibraryError(name)
        return SimpleNamespace(
            namespace=SimpleNamespace(
                __name__=name,
                from_dlpack=lambda x: np.from_dlpack(Tensor(x.content)),
                asarray=lambda x: x.content,
            )
        )

    monkeypatch.setattr("taylorshift_core._exchange.load_backend", load)
    return asked


@pytest.mark.parametrize(("device", "wanted"), [(2, "cupy or torch"), (14, "dpnp"), (8, "its own library")])
def test_devices_of_no_library_here(device: int, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, "none of them")
    with pytest.raises(BackendError, match=rf"got .*Tensor on DLPack device type {device}\. Install {wanted}"):
        attention(*[Tensor(X, device)] * 3)


def test_what_numpy_cannot_take_is_named() -> None:
    class Half(Tensor):
        def __dlpack__(self, **_: Any) -> Any:
            msg = "no such dtype"
            raise BufferError(msg)

    with pytest.raises(BackendError, match=r"numpy takes; got .*Half: no such dtype\. Convert it"):
        attention(*[Half(X)] * 3)


def test_an_error_of_an_array_stays_what_it_is() -> None:
    with pytest.raises(BackendError, match=r"query must be an array .*; got list\. Convert it first") as caught:
        attention([[1.0]], Tensor(X), Tensor(X))
    assert "DLPack" in str(caught.value)


@pytest.mark.parametrize(
    ("thing", "got"),
    [
        (array.array("d", [1.0, 2.0]), r"got array\.array\. .*numpy\.asarray"),
        (memoryview(X), r"got memoryview\. .*numpy\.asarray"),
        ([[1.0]], r"got list\. .*numpy\.asarray"),
        (type("DataFrame", (), {"__module__": "pandas.core.frame"})(), r"got pandas.*DataFrame\. .*its to_numpy\(\)"),
        (type("csr_array", (), {"__module__": "scipy.sparse._csr"})(), r"got scipy.*csr_array\. .*its toarray\(\)"),
    ],
)
def test_what_is_no_array_is_named(thing: Any, got: str) -> None:
    with pytest.raises(BackendError, match=got):
        attention(thing, X, X)
    with pytest.raises(BackendError, match=got):
        attention(X, X, X, key_mask=thing)
