"""`torch.compile` without a break, `torch.export` with open lengths, and the operators that a call is in their programs."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from compare import assert_matches
from gradient_oracle import NAMES, gradients_oracle
from oracle import attention_oracle, causal
from problems import Problem, draw
from torch._dynamo.backends.common import aot_autograd
from torch.func import grad, vmap

from taylorshift_core import Decoder, State, attention, attention_weights, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Library

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # PyTorch's compiler uses it itself
WAYS = [("direct", False), ("direct", True), ("efficient", False), ("efficient", True)]
each_way = pytest.mark.parametrize(("form", "is_causal"), WAYS)


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a function compiled in one piece; by "aot_eager", which traces as all do, but leaves out the code generator."""
    return torch.compile(function, **{"fullgraph": True, "backend": "aot_eager"} | options)


def arrays_of(problem: Problem, dtype: str = "float32") -> list[torch.Tensor]:
    return [torch.tensor(x, dtype=getattr(torch, dtype)) for x in draw(problem)[0]]


def exact(array: torch.Tensor) -> Any:
    return array.detach().double().numpy()


@pytest.mark.shows(compile="torch.compile")
@each_way
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_outputs_and_gradients(library: Library, form: str, is_causal: bool, compiler: str) -> None:
    problem = Problem(7, 7, 4, 3, 4, 2, (2,), (2,), (2,))
    inputs = [x.requires_grad_() for x in arrays_of(problem)]
    scale = torch.tensor([0.5, -1.0, 1.5, 1.0], requires_grad=True)
    mask = torch.tensor(np.random.default_rng(4).random((2, 7)) < 0.7)
    cotangent = torch.tensor(np.random.default_rng(1).standard_normal((2, 4, 7, 3)), dtype=torch.float32)

    def call(query: Any, key: Any, value: Any, scale: Any) -> Any:
        return attention(query, key, value, scale=scale, key_mask=mask, form=form, is_causal=is_causal)

    output = compiled(call, backend=compiler)(*inputs, scale)
    output.backward(cotangent)
    options = {"key_mask": mask.numpy(), "allowed": causal(7, 7) if is_causal else None, "scale": exact(scale)}
    assert_matches(library, "float32", output, attention_oracle(*map(exact, inputs), **options), terms=problem.terms)
    expected = gradients_oracle(*map(exact, inputs), exact(cotangent), **options)
    for name, array in zip(NAMES, (*inputs, scale), strict=True):
        by, size = expected[name]
        assert_matches(library, "float32", array.grad, by, terms=4 * (problem.terms + 7) * 56, reference=size)


OPTIONS: dict[str, dict[str, Any]] = {
    "coefficients": {"coefficients": (0.125, 0.75, 3.0), "scale": -0.5},
    "not normalised": {"normalise": False, "normalise_output": True},
    "blocks": {"block_causal": 3, "prefix_length": 2},
    "dense mask": {"attn_mask": torch.ones(9, 9, dtype=torch.bool).triu()},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_reach_the_operator(name: str) -> None:
    inputs = arrays_of(Problem(9, 9, 3, 2, 4, 2), "float64")
    call = lambda *arrays: attention(*arrays, **OPTIONS[name])  # noqa: E731
    np.testing.assert_allclose(compiled(call)(*inputs).numpy(), call(*inputs).numpy(), atol=1e-14)
    assert (call(*inputs) - attention(*inputs)).abs().max() > 1e-3


def test_autocast_and_dtypes(library: Library, dtype: str) -> None:
    inputs = arrays_of(Problem(40, 40, 8, 8), dtype)
    expected = attention_oracle(*map(exact, inputs))
    assert_matches(library, dtype, compiled(attention)(*inputs), expected, terms=85)

    def call(*inputs: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return attention(*(x.float() for x in inputs))

    assert_matches(library, "float32", compiled(call)(*inputs), expected, terms=85)


@each_way
def test_lengths_change_without_compiling_again(library: Library, form: str, is_causal: bool) -> None:
    call = compiled(lambda *arrays: attention(*arrays, form=form, is_causal=is_causal), dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (50, 7, 400):
            problem = Problem(length, length, 4, 3, 4, 2, (2,), (2,), (2,))
            inputs = arrays_of(problem)
            expected = attention_oracle(*map(exact, inputs), allowed=causal(length, length) if is_causal else None)
            assert_matches(library, "float32", call(*inputs), expected, terms=problem.terms)


def test_a_program_does_not_grow_with_the_tokens() -> None:
    sizes = []

    def count(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    backend = aot_autograd(fw_compiler=count)
    for length in (10, 100_000):
        torch.compile(attention, fullgraph=True, dynamic=False, backend=backend)(
            *torch.randn(3, 1, length, 4), form="efficient"
        )
    assert sizes[0] == sizes[1] < 10


def test_states_go_in_and_come_out() -> None:
    query, key, value = arrays_of(Problem(12, 12, 3, 2), "float64")

    def call(state: State, query: Any, key: Any, value: Any) -> Any:
        output, after = attention(query, key, value, is_causal=True, state=state, return_state=True)
        merged = (after + summarise(key, value)).remove(key[:, :2], value[:, :2])
        return output, merged, merged.attend(query), attention_weights(query, key)

    before = summarise(key[:, :5], value[:, :5])
    found, expected = (function(before, query, key, value) for function in (compiled(call), call))
    assert isinstance(found[1], State)
    assert (found[1].head_dim, found[1].weighting) == (3, before.weighting)
    for one, other in zip(
        (found[0], found[1].sums, *found[2:]), (expected[0], expected[1].sums, *expected[2:]), strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-12)


def test_a_decoder_steps() -> None:
    tokens = arrays_of(Problem(3, 3, 3, 2), "float64")
    step = compiled(lambda decoder, *arrays: decoder.step(*arrays))
    outputs, decoder = [], Decoder()
    for i in range(3):
        output, decoder = step(decoder, *(x[:, i : i + 1] for x in tokens))
        outputs.append(output)
    np.testing.assert_allclose(torch.cat(outputs, 1).numpy(), attention(*tokens, is_causal=True).numpy(), atol=1e-14)


@pytest.mark.parametrize("form", ["direct", "efficient"])
def test_transforms_inside(form: str) -> None:
    inputs = arrays_of(Problem(5, 5, 3, 2, query_batch=(2,), key_batch=(2,), value_batch=(2,)), "float64")
    loss = lambda *arrays: attention(*arrays, form=form).sin().sum()  # noqa: E731
    for function in (vmap(lambda *arrays: attention(*arrays, form=form)), grad(loss), vmap(grad(loss))):
        np.testing.assert_allclose(compiled(function)(*inputs).numpy(), function(*inputs).numpy(), atol=1e-13)


class Layer(torch.nn.Module):
    """A projection and an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = torch.nn.Linear(4, 4)

    def forward(self, tokens: Any) -> Any:
        query = self.projection(tokens)
        return attention(query, query, tokens)


@pytest.mark.shows(compile="torch.export")
def test_export_with_open_batch_and_length(library: Library) -> None:
    """Saved, loaded, run at other sizes, and trained."""
    torch.manual_seed(0)
    layer, sizes = Layer(), {0: torch.export.Dim("batch"), 2: torch.export.Dim("length")}
    program = torch.export.export(layer, (torch.randn(2, 3, 10, 4),), dynamic_shapes=(sizes,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch, length in ((1, 1), (2, 10), (3, 500)):
        tokens = torch.randn(batch, 3, length, 4)
        query = exact(layer.projection(tokens))
        expected = attention_oracle(query, query, exact(tokens))
        assert_matches(library, "float32", loaded(tokens), expected, terms=length + 15)
    loaded(tokens).square().sum().backward()
    layer(tokens).square().sum().backward()
    own, of_program = layer.projection.weight.grad, dict(loaded.named_parameters())["projection.weight"].grad
    np.testing.assert_allclose(of_program.numpy(), own.numpy(), atol=1e-4 * float(own.abs().max()))


@pytest.mark.parametrize("keep", [False, True])
def test_the_operators_keep_their_promises(keep: bool) -> None:
    """Schema, fake tensors and gradients, by PyTorch's own checks."""
    query, key, value = (x.requires_grad_(keep) for x in arrays_of(Problem(6, 6, 3, 2)))
    program = torch.export.export(_Plain(), tuple(x.detach().requires_grad_(keep) for x in (query, key, value)))
    (node,) = (node for node in program.graph.nodes if "taylorshift" in str(node.target))
    settings = node.args[-1]
    operator = torch.ops.taylorshift.attend.default
    torch.library.opcheck(operator, (query, key, value, None, None, None, None, settings))


class _Plain(torch.nn.Module):
    def forward(self, query: Any, key: Any, value: Any) -> Any:
        return attention(query, key, value)


FIRST = """
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
from taylorshift_core import attention
import torch
x = torch.ones((1, 3, 2))
print(torch.compile(attention, fullgraph=True, backend="eager")(x, x, x).sum().item())
"""


def test_the_first_call_of_all_may_be_a_compiled_one() -> None:
    """The adapter is loaded while the compiler traces; nothing warns."""
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["6.0"], done.stderr
