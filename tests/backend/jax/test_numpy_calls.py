"""Programs on the CPU that call NumPy: which do, with what result, and that nothing waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from jax import export
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from taylorshift_backends import _jax_numpy
from taylorshift_core import attention, attention_vjp, explain, load_backend

if TYPE_CHECKING:
    from conftest import Library

TARGET = "python_cpu_callback"
FORMS = ("direct", "efficient")


def tokens(dtype: str = "float32", length: int = 100, leading: tuple[int, ...] = (2, 4)) -> list[Any]:
    rng = np.random.default_rng(length)
    return [jnp.asarray(rng.standard_normal((*leading, length, 16)), dtype) for _ in range(3)]


def gradients(*arrays: Any, **options: Any) -> Any:
    """Return the gradients of half the squared length of the output."""
    return jax.grad(lambda *given: jnp.sum(attention(*given, **options) ** 2) / 2, (0, 1, 2))(*arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("jitted", [False, True])
def test_it_is_what_numpy_gives_to_the_bit(
    library: Library, calls: list[str], form: str, dtype: str, is_causal: bool, jitted: bool
) -> None:
    inputs, options = tokens(dtype), {"form": form, "is_causal": is_causal}
    arrays = [np.asarray(each) for each in inputs]
    assert explain(*inputs, form=form).backend is load_backend("numpy")
    call = partial(attention, **options)
    found = (jax.jit(call) if jitted else call)(*inputs)
    assert found.dtype == dtype
    expected, pullback = attention_vjp(*arrays, **options)
    np.testing.assert_array_equal(found, attention(*arrays, **options))
    assert calls == ["attend"]
    if form == "efficient":
        for by, wanted in zip(gradients(*inputs, **options), pullback(expected), strict=False):
            np.testing.assert_array_equal(by, wanted)
        assert calls[1:] == ["attend_keeping", "vjp"]


def _lowered(function: Any, *arrays: Any) -> str:
    text: str = jax.jit(function).lower(*arrays).as_text()
    return text


@pytest.mark.parametrize(
    ("form", "what", "length", "called"),
    [
        ("efficient", attention, 4096, True),
        ("efficient", attention, 64, False),
        ("efficient", gradients, 4096, True),
        ("direct", attention, 4096, True),
        ("direct", attention, 512, False),
        ("direct", gradients, 512, False),
    ],
)
def test_what_is_worth_a_call(library: Library, form: str, what: Any, length: int, called: bool) -> None:
    text = _lowered(partial(what, form=form), *tokens(length=length, leading=(4,)))
    assert (TARGET in text) is called


def test_tangents_stay_in_xla(library: Library, calls: list[str]) -> None:
    """Those of the efficient form are slower in NumPy."""
    inputs = tokens()
    jax.jvp(partial(attention, form="efficient"), inputs, inputs)
    assert calls == ["attend_keeping"]


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_stays_in_xla(library: Library, half: str) -> None:
    assert explain(*tokens(half)).backend is load_backend("jax")


def test_without_compiled_steps_programs_are_xlas_own(library: Library) -> None:
    """As without numba, and with TAYLORSHIFT_COMPILED=0: NumPy is no faster then."""
    script = (
        "import jax, taylorshift_core as ts; x = jax.numpy.ones((4, 4096, 16), 'float32');"
        "print(ts.explain(x, x, x).backend.name, 'python_cpu_callback' in jax.jit(ts.attention).lower(x, x, x).as_text())"
    )
    for compiled, expected in (("0", "jax False"), ("1", "numpy True")):
        assert _output_of(script, TAYLORSHIFT_COMPILED=compiled) == expected


def test_an_exported_program_calls_nothing(library: Library, calls: list[str]) -> None:
    """It may run where this library is not."""
    inputs = tokens()
    program = export.export(jax.jit(partial(attention, form="efficient")))(*inputs)
    assert TARGET not in program.mlir_module()
    again = export.deserialize(program.serialize())
    np.testing.assert_allclose(again.call(*inputs), attention(*inputs, form="efficient"), atol=1e-6)
    assert len(calls) == 1


def test_what_the_compiler_spreads_is_not_gathered(library: Library, calls: list[str]) -> None:
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))
    inputs = tokens("float64")
    there = [jax.device_put(each, NamedSharding(mesh, P("devices"))) for each in inputs]
    output = jax.jit(attention)(*there)
    assert calls == []
    assert len(output.sharding.device_set) == 2
    np.testing.assert_allclose(output, attention(*inputs), atol=1e-13)


def test_each_device_of_a_map_calls(library: Library, calls: list[str]) -> None:
    """Inside `jax.shard_map` each device has arrays of its own; the scale is the same on both."""
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))
    inputs, scale, over = tokens("float64"), jnp.asarray([0.5, 1.0, 1.5, 2.0]), P("devices")
    attend = lambda query, key, value, scale: attention(query, key, value, scale=scale, form="efficient")  # noqa: E731
    spread = jax.shard_map(attend, mesh=mesh, in_specs=(over, over, over, P()), out_specs=over)
    loss = lambda function: jax.jit(jax.grad(lambda *given: jnp.sum(jnp.sin(function(*given))), (0, 1, 2, 3)))  # noqa: E731
    found = jax.block_until_ready((jax.jit(spread)(*inputs, scale), *loss(spread)(*inputs, scale)))
    assert len(calls) == 2 * 3
    for mine, whole in zip(found, (attend(*inputs, scale), *loss(attend)(*inputs, scale)), strict=True):
        np.testing.assert_allclose(mine, whole, atol=1e-12)


def test_a_batch_is_one_call_after_the_other(library: Library, calls: list[str]) -> None:
    (query, key, value), attend = tokens("float64"), partial(attention, form="efficient")
    key, value = key[0, :2], jnp.moveaxis(value, 1, 0)
    found = jax.jit(jax.vmap(attend, (1, None, 0), 1))(query, key, value)
    assert len(calls) == len(value)
    expected = jnp.stack([attend(query[:, i], key, value[i]) for i in range(len(value))], axis=1)
    np.testing.assert_array_equal(found, expected)


def test_memory_that_is_given_away(library: Library, calls: list[str]) -> None:
    inputs = tokens()
    expected = attention(*(np.asarray(each) for each in inputs), form="efficient")
    step = jax.jit(lambda query, key, value: attention(query, key, value, form="efficient"), donate_argnums=0)
    np.testing.assert_array_equal(step(*inputs), expected)
    assert inputs[0].is_deleted()


def test_an_error_in_numpy_is_one_of_the_program(
    library: Library, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        msg = "no room"
        raise MemoryError(msg)

    monkeypatch.setattr(_jax_numpy._Call, "in_numpy", no_room)
    with pytest.raises(jax.errors.JaxRuntimeError, match="MemoryError: no room"):
        jax.block_until_ready(attention(*tokens(), form="efficient"))


def test_many_programs_at_once(library: Library, calls: list[str]) -> None:
    """From several threads, each with several calls under way, in programs long enough to be run behind the caller."""
    inputs, matrix = tokens(), jnp.ones((300, 300), "float32")
    expected = attention(*(np.asarray(each) for each in inputs), form="efficient")

    @jax.jit
    def program(*given: Any) -> Any:
        first, second = (attention(*given, scale=scale, form="efficient") for scale in (1.0, 2.0))
        return first + 0 * second + 0 * jnp.sum(matrix @ matrix @ matrix)

    def work(_: int) -> list[Any]:
        return [np.asarray(each) for each in [program(*inputs) for _ in range(10)]]

    with ThreadPoolExecutor(8) as pool:
        results = [each for some in pool.map(work, range(8)) for each in some]
    assert len(calls) == 2 * len(results) == 2 * 80
    for result in results:
        np.testing.assert_array_equal(result, expected)


START = """
import os, sys, warnings
import jax, numpy as np
from taylorshift_core import attention
warnings.simplefilter("ignore")
arrays = [jax.numpy.asarray(np.random.default_rng(i).standard_normal((4, 4096, 16)), "float32") for i in range(3)]
matrix = jax.numpy.ones((500, 500), "float32")
program = jax.jit(lambda *given: attention(*given, form="efficient") + 0 * jax.numpy.sum(matrix @ matrix @ matrix))
"""


def _output_of(script: str, **variables: str) -> str:
    """Return what a process prints last; one that hangs is an error, and so is one that fails."""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_process_ends_while_calls_are_under_way(library: Library) -> None:
    assert _output_of(START + "program(*arrays)\nfor _ in range(20): program(*arrays)\nprint('end')") == "end"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_calls(library: Library) -> None:
    """Alone on the processor, as attention is run without being asked to run behind the caller."""
    script = """
program = jax.jit(lambda *given: attention(*given, form="efficient"))
before = np.asarray(program(*arrays))
child = os.fork()
if child == 0:
    os._exit(int(not np.array_equal(before, np.asarray(program(*arrays)))))
print(os.waitpid(child, 0)[1])
"""
    assert _output_of(START + script) == "0"
