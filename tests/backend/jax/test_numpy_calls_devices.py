"""Programs for several devices, or for other machines: which of them call NumPy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from called import TARGET, attend, by_numpy, gradients, tokens
from jax import export
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from taylorshift_core import attention, explain, load_backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Library

OVER = P("devices")


def mesh_of(*kinds: AxisType) -> Any:
    """Return a mesh of two devices along its first axis."""
    sizes, names = (2, *(1 for _ in kinds[1:])), ("devices", "more")[: len(kinds)]
    return jax.make_mesh(sizes, names, axis_types=kinds)


def test_an_exported_program_calls_nothing(library: Library, calls: list[str]) -> None:
    """It may run where this library is not."""
    inputs = tokens()
    program = export.export(jax.jit(attend))(*inputs)
    assert TARGET not in program.mlir_module()
    np.testing.assert_allclose(program.call(*inputs), attend(*inputs), atol=1e-6)
    assert len(calls) == 1


def test_an_exported_program_of_any_size_calls_nothing(library: Library, calls: list[str]) -> None:
    batch, length = export.symbolic_shape("batch, length")
    kind, inputs = jax.ShapeDtypeStruct((batch, 4, length, 16), jnp.float64), tokens("float64")
    for function in (attend, partial(gradients, form="efficient")):
        program = export.export(jax.jit(function))(kind, kind, kind)
        assert TARGET not in program.mlir_module()
        for mine, ours in zip(jax.tree.leaves(program.call(*inputs)), jax.tree.leaves(function(*inputs)), strict=True):
            np.testing.assert_allclose(mine, ours, atol=1e-13)
    assert calls == ["attend", "attend_keeping", "vjp"]


@pytest.mark.parametrize("platforms", [("cuda",), ("cpu", "cuda")])
def test_a_program_for_other_devices_calls_nothing(
    library: Library, calls: list[str], platforms: tuple[str, ...]
) -> None:
    program = jax.jit(attend).trace(*tokens()).lower(lowering_platforms=platforms)
    assert TARGET not in program.as_text()


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [OVER, P()])
def test_what_is_on_several_devices_is_not_gathered(
    library: Library, calls: list[str], kind: AxisType, spec: P
) -> None:
    """Spread over them, or the same on each; by the compiler, or as the types of the arrays say."""
    mesh, inputs = mesh_of(kind), tokens("float64")
    with jax.set_mesh(mesh):
        there = [jax.device_put(each, NamedSharding(mesh, spec)) for each in inputs]
        assert explain(*there).backend is load_backend("jax")
        found = jax.jit(attend)(*there), *jax.jit(partial(gradients, form="efficient"))(*there)
    assert calls == []
    assert all(len(each.sharding.device_set) == 2 for each in found)
    for mine, alone in zip(found, (by_numpy(*inputs), *gradients(*inputs, form="efficient")), strict=True):
        np.testing.assert_allclose(mine, alone, atol=1e-12)


def test_each_device_calls_for_its_own_part(library: Library, calls: list[str]) -> None:
    """Inside `jax.shard_map`, where the scale is the same on both."""
    inputs, scale = tokens("float64"), jnp.asarray([0.5, 1.0, 1.5, 2.0])
    scaled = lambda query, key, value, scale: attend(query, key, value, scale=scale)  # noqa: E731
    specs = {"in_specs": (OVER, OVER, OVER, P()), "out_specs": OVER}
    spread = jax.shard_map(scaled, mesh=mesh_of(AxisType.Auto), **specs)
    found = jax.block_until_ready((jax.jit(spread)(*inputs, scale), *_gradients(spread)(*inputs, scale)))
    assert len(calls) == 2 * 3
    for mine, whole in zip(found, (scaled(*inputs, scale), *_gradients(scaled)(*inputs, scale)), strict=True):
        np.testing.assert_allclose(mine, whole, atol=1e-12)


def _gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(jax.grad(lambda *given: jnp.sum(jnp.sin(function(*given))), (0, 1, 2, 3)))


def test_a_mesh_of_which_the_compiler_has_an_axis(library: Library, calls: list[str]) -> None:
    """What `jax.shard_map` leaves to it may be spread: no call."""
    mesh, inputs = mesh_of(AxisType.Auto, AxisType.Auto), tokens()
    part = jax.jit(jax.shard_map(attend, mesh=mesh, in_specs=OVER, out_specs=OVER, axis_names={"devices"}))
    np.testing.assert_allclose(part(*inputs), by_numpy(*inputs), atol=1e-6)
    assert calls == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_device_of_a_pmap_calls(library: Library, calls: list[str]) -> None:
    inputs = tokens()
    np.testing.assert_array_equal(jax.pmap(attend)(*inputs), by_numpy(*inputs))
    assert calls == 2 * ["attend"]


def test_the_second_device_calls_as_the_first(library: Library, calls: list[str]) -> None:
    inputs = [jax.device_put(each, jax.devices()[1]) for each in tokens()]
    found = [attend(*inputs), jax.jit(attend)(*inputs)]
    for each in found:
        assert each.devices() == {jax.devices()[1]}
        np.testing.assert_array_equal(each, by_numpy(*inputs))
    assert calls == 2 * ["attend"]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_program_is_planned_for_where_it_will_run(
    library: Library, calls: list[str], monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """A tracer has no device: it is taken to be where programs run by default."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    plans = []
    jax.make_jaxpr(lambda *given: plans.append(explain(*given)) or attention(*given))(*tokens())
    assert plans[0].backend is load_backend("numpy" if platform == "cpu" else "jax")
