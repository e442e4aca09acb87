"""PyTorch's own differentiation of `attention`: backwards, forwards, twice, batched, and in memory linear in the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from compare import assert_matches
from definition import attention_defined
from gradient_oracle import NAMES, directions, gradients_oracle, tangent_oracle
from oracle import causal
from problems import Problem, draw
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

from taylorshift_core import State, attention, load_backend, summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Library

WAYS = [("direct", False), ("direct", True), ("efficient", False), ("efficient", True)]
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # PyTorch's forward mode uses it itself
TWICE: dict[str, Callable[..., Any]] = {
    "hessian": hessian,
    "backwards twice": lambda f: jacrev(jacrev(f)),
    "backwards of forwards": lambda f: jacrev(jacfwd(f)),
    "forwards twice": lambda f: jacfwd(jacfwd(f)),
}
each_way = pytest.mark.parametrize(("form", "is_causal"), WAYS)


def tensors(problem: Problem, dtype: str = "float64", *, requires_grad: bool = False) -> list[torch.Tensor]:
    made = [torch.tensor(x, dtype=getattr(torch, dtype)) for x in draw(problem)[0]]
    return [x.requires_grad_(requires_grad) for x in made]


def exact(thing: Any) -> Any:
    return thing.detach().double().numpy() if isinstance(thing, torch.Tensor) else thing


@pytest.mark.shows(gradients="torch.autograd")
@each_way
@pytest.mark.parametrize("recomputed", [None, False, True])
def test_backward(library: Library, dtype: str, form: str, is_causal: bool, recomputed: bool | None) -> None:
    """All operands, also through both kinds of `torch.utils.checkpoint`."""
    problem = Problem(7, 7, 4, 3, 4, 2, (2,), (2,), (2,))
    inputs = tensors(problem, dtype, requires_grad=True)
    scale = torch.tensor([0.5, -1.0, 1.5, 1.0], dtype=inputs[0].dtype, requires_grad=True)
    mask = torch.tensor(np.random.default_rng(4).random((2, 7)) < 0.7)

    def call(query: Any, key: Any, value: Any, scale: Any) -> Any:
        return attention(query, key, value, scale=scale, key_mask=mask, form=form, is_causal=is_causal)

    output = call(*inputs, scale) if recomputed is None else checkpoint(call, *inputs, scale, use_reentrant=recomputed)
    cotangent = torch.tensor(np.random.default_rng(1).standard_normal(output.shape), dtype=output.dtype)
    output.backward(cotangent)
    options = {"key_mask": mask.numpy(), "allowed": causal(7, 7) if is_causal else None}
    expected = gradients_oracle(*map(exact, inputs), exact(cotangent), scale=exact(scale), **options)
    for name, array in zip(NAMES, (*inputs, scale), strict=True):
        by, size = expected[name]
        assert_matches(library, dtype, array.grad, by, terms=4 * (problem.terms + 7) * 56, reference=size)


@each_way
def test_gradients_and_gradients_of_gradients(form: str, is_causal: bool) -> None:
    inputs = tensors(Problem(4, 4, 3, 2, 2, 1), requires_grad=True)
    scale = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, True, False, True])

    def call(query: Any, key: Any, value: Any, scale: Any) -> Any:
        return attention(query, key, value, scale=scale, key_mask=mask, form=form, is_causal=is_causal)

    torch.autograd.gradcheck(call, (*inputs, scale), check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(
        call, (*inputs, scale), check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
    )


@each_way
def test_gradients_through_a_state(form: str, is_causal: bool) -> None:
    """Into the state that is given, out of the state that is returned, and through `summarise` and `State.attend`."""
    inputs = tensors(Problem(4, 4, 3, 2), requires_grad=True)

    def call(query: Any, key: Any, value: Any) -> Any:
        past = summarise(key[:, :1], value[:, :1])
        options = {"form": form, "is_causal": is_causal, "state": past, "return_state": True}
        output, state = attention(query, key[:, 1:], value[:, 1:], **options)
        return output, state.sums, state.attend(query[:, :2])

    torch.autograd.gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True)


@each_way
def test_many_cotangents_at_once(library: Library, dtype: str, form: str, is_causal: bool) -> None:
    """`grad(is_grads_batched=True)` of grouped heads, `vmap` of `grad`, and `jacobian(vectorize=True)`, made of the first."""
    inputs = tensors(Problem(5, 5, 3, 2, 4, 2, (2,), (2,), (2,)), dtype, requires_grad=True)
    options = {"form": form, "is_causal": is_causal}
    output = attention(*inputs, **options, normalise_output=True)
    cotangents = torch.randn((3, *output.shape), dtype=output.dtype)
    found = torch.autograd.grad(output, inputs, cotangents, is_grads_batched=True, retain_graph=True)
    pulled = vmap(lambda by: torch.autograd.grad(output, inputs, by, retain_graph=True))(cotangents)
    settings = {"normalise_output": True, "allowed": causal(5, 5) if is_causal else None}
    for i, cotangent in enumerate(cotangents):
        expected = gradients_oracle(*map(exact, inputs), exact(cotangent), **settings)
        for name, *both in zip(NAMES, found, pulled, strict=False):
            by, size = expected[name]
            for gradients in both:
                assert_matches(library, dtype, gradients[i], by, terms=4 * (20 + 7) * 56, reference=size)
    few = [x.detach()[0, 0] for x in inputs]
    jacobians = [
        torch.autograd.functional.jacobian(lambda *arrays: attention(*arrays, **options), tuple(few), vectorize=each)
        for each in (True, False)
    ]
    for at_once, one_by_one in zip(*jacobians, strict=True):
        torch.testing.assert_close(at_once, one_by_one)


@pytest.mark.shows(gradients="torch.func", compile="torch.vmap")
@each_way
def test_transforms(library: Library, form: str, is_causal: bool) -> None:
    """`grad`, `vmap` of it, it of `vmap`, and `jvp`."""
    problem = Problem(6, 6, 3, 2, 4, 2, (3,), (3,), (3,))
    inputs = tensors(problem)
    cotangent = np.random.default_rng(1).standard_normal((3, 4, 6, 2))
    allowed = causal(6, 6) if is_causal else None
    expected = gradients_oracle(*map(exact, inputs), cotangent, allowed=allowed)

    def loss(query: Any, key: Any, value: Any, by: Any) -> Any:
        return (by * attention(query, key, value, form=form, is_causal=is_causal)).sum()

    by = torch.tensor(cotangent)
    places = (0, 1, 2)
    found = {
        "grad": grad(loss, places)(*inputs, by),
        "vmap of grad": vmap(grad(loss, places))(*inputs, by),
        "grad of vmap": grad(lambda *arrays: vmap(loss)(*arrays).sum(), places)(*inputs, by),
    }
    leaves = [x.clone().requires_grad_() for x in inputs]
    vmap(loss, in_dims=(0, 0, 0, 0))(*leaves, by).sum().backward()
    found["backward of vmap"] = [x.grad for x in leaves]
    for gradients in found.values():
        for name, gradient in zip(NAMES, gradients, strict=False):
            assert_matches(library, "float64", gradient, expected[name][0], terms=2000, reference=expected[name][1])
    moves = directions(tuple(map(exact, inputs)), seed=2)
    call = lambda *arrays: attention(*arrays, form=form, is_causal=is_causal)  # noqa: E731
    output, tangent = jvp(call, tuple(inputs), tuple(map(torch.tensor, moves)))
    wanted = tangent_oracle((*map(exact, inputs), None), (*moves, None), allowed=allowed)
    np.testing.assert_allclose(tangent.numpy(), wanted, atol=1e-9 * np.max(np.abs(wanted)))
    np.testing.assert_allclose(output.numpy(), call(*inputs).numpy(), atol=1e-14)


@each_way
def test_one_axis_mapped_and_another_shared(library: Library, form: str, is_causal: bool) -> None:
    """Queries of several problems over the keys of one, without gradients."""
    query, key, value = tensors(Problem(6, 6, 3, 2, query_batch=(3,), key_batch=(1,), value_batch=(1,)))
    call = lambda query: attention(query, key[0], value[0], form=form, is_causal=is_causal)  # noqa: E731
    expected = attention_defined(query, key, value, causal=is_causal).numpy()
    with torch.no_grad():
        assert_matches(library, "float64", vmap(call)(query), expected, terms=30)
    turned = vmap(call, in_dims=2, out_dims=1)(query.permute(1, 2, 0, 3))
    assert_matches(library, "float64", turned.permute(1, 0, 2, 3), expected, terms=30)


@each_way
@pytest.mark.parametrize("order", TWICE)
def test_second_derivatives(form: str, is_causal: bool, order: str) -> None:
    """Against those that PyTorch finds of the definition."""
    query, key, value = (x[0] for x in tensors(Problem(4, 4, 3, 2)))
    twice = TWICE[order]
    for i in range(3):

        def along(x: Any, function: Callable[..., Any], i: int = i) -> Any:
            arrays = [query, key, value]
            arrays[i] = x
            return torch.sin(function(*arrays)).sum()

        defined = twice(lambda x: along(x, lambda *a: attention_defined(*a, causal=is_causal)))((query, key, value)[i])
        found = twice(lambda x: along(x, lambda *a: attention(*a, form=form, is_causal=is_causal)))(
            (query, key, value)[i]
        )
        np.testing.assert_allclose(found.numpy(), defined.numpy(), atol=1e-13)


@each_way
def test_autocast_stays_out_of_the_sums(library: Library, form: str, is_causal: bool) -> None:
    """Forwards and backwards: in bfloat16 the error would be ten thousand times as large."""
    inputs = tensors(Problem(40, 40, 8, 8), "float32", requires_grad=True)
    cotangent = torch.ones((2, 40, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (inputs[0] @ inputs[0].mT).dtype == torch.bfloat16
        output = attention(*inputs, form=form, is_causal=is_causal)
        output.backward(cotangent)
    allowed = causal(40, 40) if is_causal else None
    expected = attention_defined(*(x.detach().double() for x in inputs), causal=is_causal).numpy()
    assert_matches(library, "float32", output, expected, terms=85)
    gradients = gradients_oracle(*map(exact, inputs), exact(cotangent), allowed=allowed)
    for name, array in zip(NAMES, inputs, strict=False):
        assert_matches(library, "float32", array.grad, gradients[name][0], terms=500, reference=gradients[name][1])


@pytest.mark.parametrize(
    ("form", "is_causal", "length"), [("direct", False, 2048), ("efficient", False, 4096), ("efficient", True, 8192)]
)
def test_training_holds_nothing_for_each_pair_or_feature(form: str, is_causal: bool, length: int) -> None:
    """From lengths on at which a tile is full."""
    head_dim, peaks = 16, []
    for tokens in (length, 2 * length):
        inputs = [x.requires_grad_() for x in torch.randn(3, 1, tokens, head_dim).unbind()]
        step = lambda: attention(*inputs, form=form, is_causal=is_causal).sum().backward()  # noqa: B023, E731
        step()
        peaks.append(load_backend("torch").peak_memory(step)[1])
    numbers = (peaks[1] - peaks[0]) / length / 4
    print(f"{form} {is_causal}: {numbers:.0f} numbers a token beside a fixed {peaks[0] / 1e6:.1f} MB")
    assert 2 * head_dim <= numbers <= 16 * head_dim


@each_way
def test_meta_tensors_have_shapes_and_no_numbers(form: str, is_causal: bool) -> None:
    """A look at a number (float, bool, item), which would make a device wait, is an error on them."""
    query = torch.empty((2, 4, 1 << 13, 16), device="meta", requires_grad=True)
    key, value = torch.empty((2, 2, 1 << 13, 16), device="meta"), torch.empty((2, 2, 1 << 13, 8), device="meta")
    mask = torch.empty((2, 1 << 13), device="meta", dtype=torch.bool)
    options = {"key_mask": mask, "form": form, "is_causal": is_causal, "normalise_output": True}
    output, state = attention(query, key, value, return_state=True, scale=torch.empty(4, device="meta"), **options)
    output.sum().backward()
    assert isinstance(state, State)
    for made, shape in ((output, (2, 4, 1 << 13, 8)), (state.sums, (2, 2, 153, 9)), (query.grad, query.shape)):
        assert (made.shape, made.dtype, made.device.type) == (shape, torch.float32, "meta")
