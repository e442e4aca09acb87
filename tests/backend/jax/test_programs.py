"""The programs that calls are compiled to: as long for any sequence, in memory linear in it, and compiled once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from compare import assert_matches
from jax import export
from jax import numpy as jnp
from oracle import attention_oracle, causal
from problems import Problem, draw

from taylorshift_core import Decoder, attention, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Library

HEAD_DIM = 32
WAYS = [("efficient", False), ("efficient", True), ("direct", False), ("direct", True)]
each_way = pytest.mark.parametrize(("form", "is_causal"), WAYS)


def _lowered(function: Callable[..., Any], head_dim: int, length: int) -> Any:
    tokens = jax.ShapeDtypeStruct((1, length, head_dim), jnp.float32)
    return jax.jit(function).lower(tokens, tokens, tokens)


def _functions(form: str, *, is_causal: bool) -> dict[str, Callable[..., Any]]:
    def attend(query: Any, key: Any, value: Any) -> Any:
        return attention(query, key, value, form=form, is_causal=is_causal)

    def loss(*arrays: Any) -> Any:
        return jnp.sum(attend(*arrays) ** 2)

    return {"output": attend, "gradient": jax.grad(loss, (0, 1, 2))}


@each_way
@pytest.mark.parametrize("what", ["output", "gradient"])
@pytest.mark.usefixtures("in_xla")
def test_programs_do_not_grow_with_the_length(library: Library, form: str, is_causal: bool, what: str) -> None:
    function = _functions(form, is_causal=is_causal)[what]
    short, long = (len(_lowered(function, 16, length).as_text().splitlines()) for length in (10_000, 80_000))
    assert long <= 1.02 * short  # a last tile that is as long as the others saves a few lines


@pytest.mark.parametrize(("form", "is_causal"), [*WAYS, ("state", False)])
@pytest.mark.usefixtures("in_xla")
def test_memory_of_gradients_grows_with_the_tokens_alone(library: Library, form: str, is_causal: bool) -> None:
    """As compiled; features of all tokens would be 561 numbers each, and scores of all pairs as many as there are tokens.

    The gradient through a state that is made and read is JAX's own.
    """
    through_state = jax.grad(lambda q, k, v: jnp.sum(summarise(k, v).attend(q) ** 2), (0, 1, 2))
    function = through_state if form == "state" else _functions(form, is_causal=is_causal)["gradient"]
    lengths = 8_192, 16_384
    sizes = [_lowered(function, HEAD_DIM, length).compile().memory_analysis().temp_size_in_bytes for length in lengths]
    numbers = (sizes[1] - sizes[0]) / (lengths[1] - lengths[0]) / 4
    print(f"{form} {is_causal}: {numbers:.0f} numbers a token beside {sizes[0] / 1e6:.1f} MB at {lengths[0]}")
    # What is given, kept and returned, and laid out anew for loops; the direct form has prepared keys and values too, and
    # where it is causal booleans of all keys by a tile of 256 queries, as made and as turned for the loop.
    booleans = 2 * 256 / 4 if form == "direct" and is_causal else 0
    assert numbers <= {"efficient": 12, "state": 12, "direct": 20}[form] * HEAD_DIM + booleans


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """A list that grows by one entry for each program that is compiled."""
    programs: list[str] = []
    listener = lambda event, _seconds, **_: programs.append(event) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    yield programs
    jax.monitoring.unregister_event_duration_listener(listener)


CALLS: dict[str, Callable[..., Any]] = {
    "attention": lambda q, k, v: attention(q, k, v, form="efficient"),
    "causal": lambda q, k, v: attention(q, k, v, is_causal=True),
    "a scale": lambda q, k, v: attention(q, k, v, scale=0.7),
    "gradient": lambda q, k, v: jax.grad(lambda q: jnp.sum(attention(q, k, v)))(q),
    "a state": lambda q, k, v: summarise(k, v).attend(q),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_without_jit_is_compiled_once(library: Library, compiled: list[str], call: str) -> None:
    """With arrays of the same shapes the second call finds all its programs, and there are few."""
    tokens = [[library.to_array(x, "float32") for x in draw(Problem(11, 11, 6, 6), seed)[0]] for seed in (0, 1)]
    CALLS[call](*tokens[0])
    before = len(compiled)
    CALLS[call](*tokens[1])
    assert len(compiled) == before
    another = [library.to_array(x, "float32") for x in draw(Problem(12, 12, 6, 6))[0]]
    before = len(compiled)
    CALLS[call](*another)
    assert 1 <= len(compiled) - before <= 12


@each_way
def test_lengths_may_be_symbols(library: Library, form: str, is_causal: bool) -> None:
    """One exported program for any batch and any lengths: none, one tile and a part, exact tiles."""
    batch, queries, keys = export.symbolic_shape("batch, queries, keys")
    keys = queries if is_causal else keys
    kind = lambda length: jax.ShapeDtypeStruct((batch, 2, length, 3), jnp.float64)  # noqa: E731
    function = jax.jit(lambda q, k, v: attention(q, k, v, form=form, is_causal=is_causal))
    program = export.export(function)(kind(queries), kind(keys), kind(keys))
    for lengths in ((1, 1), (5, 5), (700, 700), *([] if is_causal else [(3, 2000)])):
        arrays = draw(Problem(*lengths, 3, 3, query_batch=(2,), key_batch=(2,), value_batch=(2,)))[0]
        allowed = causal(*lengths) if is_causal else None
        actual = program.call(*(jnp.asarray(x) for x in arrays))
        reference = float(np.max(np.abs(arrays[2])))
        assert_matches(
            library,
            "float64",
            actual,
            attention_oracle(*arrays, allowed=allowed),
            terms=10 + lengths[1],
            reference=reference,
        )


def test_an_unknown_length_means_the_efficient_form(library: Library) -> None:
    (length,) = export.symbolic_shape("length")
    tokens = jax.ShapeDtypeStruct((1, length, 3), jnp.float32)
    programs = [
        export.export(jax.jit(partial(attention, form=form)))(tokens, tokens, tokens) for form in ("auto", "efficient")
    ]
    auto, efficient = (program.mlir_module().count("stablehlo.") for program in programs)
    assert auto == efficient > 0


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
@each_way
def test_numbers_come_and_go_in_their_precision(library: Library, name: str, form: str, is_causal: bool) -> None:
    """Also where JAX has no float64: nothing asks for it, and nothing becomes it."""
    allowed = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 2e-6}[name]
    arrays = draw(Problem(300, 300, 16, 16))[0]
    inputs = [library.to_array(x, name) for x in arrays]
    expected = attention_oracle(*(library.exact(x) for x in inputs), allowed=causal(300, 300) if is_causal else None)
    with jax.enable_x64(False):
        actual = library.run(attention, *inputs, form=form, is_causal=is_causal)
        gradient = jax.jit(jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, form=form))))(*inputs)
    assert actual.dtype == gradient.dtype == inputs[0].dtype
    error = np.max(np.abs(library.exact(actual) - expected)) / np.max(np.abs(expected))
    print(f"{form} {is_causal} {name}: error {error:.1e}, allowed {allowed:.0e}")
    assert error <= allowed


def test_decoding_in_a_scan(library: Library) -> None:
    """A decoder that keeps no tokens unfolded is a carry; its outputs are those of causal attention."""
    from taylorshift_core import State

    arrays = draw(Problem(9, 9, 3, 2, 4, 2))[0]
    tokens = [jnp.moveaxis(library.to_array(x, "float64"), -2, 0)[..., None, :] for x in arrays]
    past = State.zeros(tokens[1], head_dim=3, value_dim=2, leading=(2,))

    def step(decoder: Decoder, token: Any) -> tuple[Decoder, Any]:
        output, decoder = decoder.step(*token)
        return decoder, output

    decoder, outputs = jax.lax.scan(step, Decoder(past, tail=1), tuple(tokens))
    assert float(decoder.state.token_count[0]) == 9
    actual = jnp.moveaxis(outputs[..., 0, :], 0, -2)
    reference = float(np.max(np.abs(arrays[2])))
    assert_matches(
        library, "float64", actual, attention_oracle(*arrays, allowed=causal(9, 9)), terms=19, reference=reference
    )


def test_states_go_in_and_out_of_compiled_functions(library: Library) -> None:
    """And a window, whose next kind is known only when it is called; a batch of states under vmap."""
    from taylorshift_core import SlidingWindow

    query, key, value = (library.to_array(x, "float64") for x in draw(Problem(4, 4))[0])
    state = jax.jit(summarise)(key, value)
    read = jax.jit(lambda state, query: state.attend(query))
    expected = attention(query, key, value, form="efficient")
    np.testing.assert_allclose(read(state, query), expected, atol=1e-14)
    many = jax.vmap(summarise)(jnp.stack([key, -key]), jnp.stack([value, value]))
    np.testing.assert_allclose(jax.vmap(read, (0, None))(many, query)[0], expected, atol=1e-14)
    step = jax.jit(lambda window, *tokens: window.step(*tokens))
    window, parts = SlidingWindow(3, chunk=2), []
    for i in range(4):
        output, window = step(window, *(x[:, i : i + 1] for x in (query, key, value)))
        parts.append(output)
    whole, _ = SlidingWindow(3, chunk=2).step(query, key, value)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=-2), whole, atol=1e-14)
