"""Tensors on the CPU that NumPy computes: which, with what result, on how many threads; and PyTorch's own operators beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from compare import assert_matches
from definition import attention_defined
from threadpoolctl import threadpool_limits

from taylorshift_backends import _numpy_loops, _numpy_tiles, _torch_numpy
from taylorshift_core import attention, attention_vjp, explain, load_backend
from taylorshift_core.cli._speeds import CASES, measure_speeds
from taylorshift_core.testing import check_backend

if TYPE_CHECKING:
    from conftest import Library

FORMS = ("direct", "efficient")


def tokens(dtype: torch.dtype = torch.float32, length: int = 300) -> list[Any]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn((2, 4, length, 16), generator=generator, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_causal", [False, True])
def test_it_is_what_numpy_gives_to_the_bit(form: str, kind: torch.dtype, is_causal: bool) -> None:
    inputs = tokens(kind)
    arrays = [tensor.numpy() for tensor in inputs]
    plan = explain(*inputs, form=form)
    assert plan.backend is load_backend("numpy")
    options: dict[str, Any] = {"form": form, "is_causal": is_causal}
    assert torch.equal(attention(*inputs, **options), torch.from_numpy(attention(*arrays, **options)))
    (output, pullback), (expected, numpy_pullback) = (attention_vjp(*each, **options) for each in (inputs, arrays))
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    attention(*leaves, **options).backward(output)
    for leaf, by_hand, by_numpy in zip(leaves, pullback(output), numpy_pullback(expected), strict=False):
        assert torch.equal(by_hand, torch.from_numpy(by_numpy.copy()))
        assert torch.equal(leaf.grad, by_hand)


def test_its_speeds_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_itself = load_backend("torch")

    def elsewhere(*given: Any) -> Any:
        raise AssertionError(given)

    monkeypatch.setattr(_torch_numpy, "_mapped", elsewhere)
    speeds = measure_speeds(torch_itself, "float32", CASES[1:2], 1, math.inf, lambda: None)
    plan = explain(*(torch.from_numpy(array) for array in CASES[1].draw("float32")[0]), form="efficient")
    assert speeds.key == ("torch", "cpu", "float32")
    assert speeds.pairs["efficient"][0][0] == plan.on(torch_itself).work != plan.work


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_stays_in_pytorch(kind: torch.dtype) -> None:
    assert explain(*tokens(kind)).backend is load_backend("torch")


def test_transforms_stay_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_numpy(*_: object) -> None:
        msg = "a tensor inside a transform has no memory to look at"
        raise AssertionError(msg)

    monkeypatch.setattr(_torch_numpy, "_view", no_numpy)
    query, key, value = tokens(length=40)
    mapped = torch.func.vmap(lambda each: attention(each, key[0], value[0]))(query)
    monkeypatch.undo()
    torch.testing.assert_close(mapped, attention(query, key[:1].expand_as(query), value[:1].expand_as(query)))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_as_many_as_pytorch_may_have(
    monkeypatch: pytest.MonkeyPatch, library: Library, threads: int
) -> None:
    """Also where BLAS may have two; the session itself gives each process one."""
    monkeypatch.setattr(_numpy_tiles, "COMPILED", False)  # as in this session, also where numba is installed
    seen: list[int] = []
    original = _numpy_loops.n_threads
    monkeypatch.setattr(_numpy_loops, "n_threads", lambda: seen.append(original()) or seen[-1])
    inputs, before = tokens(length=2000), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(2, user_api="blas"):
            found = attention(*inputs)
    finally:
        torch.set_num_threads(before)
    assert max(seen) == threads
    assert_matches(library, "float32", found, attention_defined(*(x.double() for x in inputs)).numpy(), terms=2000)


def test_pytorch_alone_passes_the_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA runs: without the one who stands in, nothing but PyTorch's operators is left."""
    monkeypatch.setattr(_torch_numpy, "_SIDE_BY_SIDE", False)
    assert explain(*tokens()).backend is load_backend("torch")
    check_backend(load_backend("torch"), dtypes=("float64", "float32"))
