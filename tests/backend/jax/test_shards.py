"""Sequences and heads spread over two devices, which are one processor twice (see VARIABLES in noxfile.py)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import Problem, draw

from taylorshift_core import attention

if TYPE_CHECKING:
    from conftest import Library

BETWEEN = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.fixture
def mesh(library: Library) -> Any:
    assert len(jax.devices()) == 2, "set XLA_FLAGS as VARIABLES in noxfile.py does"
    return jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))


@pytest.fixture
def tokens() -> list[Any]:
    """Two heads of 600 tokens."""
    return [jnp.asarray(x) for x in draw(Problem(600, 600, 8, 8))[0]]


def communication(function: Any, *arrays: Any) -> dict[str, int]:
    """Return how often the compiled function sends what between devices."""
    text = jax.jit(function).lower(*arrays).compile().as_text()
    found = {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in BETWEEN}
    return {kind: count for kind, count in found.items() if count}


def loss_of(function: Any) -> Any:
    return jax.jit(jax.grad(lambda *arrays: jnp.sum(jnp.sin(function(*arrays))), (0, 1, 2)))


@pytest.mark.parametrize("form", ["direct", "efficient"])
def test_a_sequence_over_devices(mesh: Any, tokens: list[Any], form: str) -> None:
    """Under jit and without, and with a mask that is cut another way."""
    attend = partial(attention, form=form)
    there = [jax.device_put(x, NamedSharding(mesh, P(None, "devices"))) for x in tokens]
    mask = jax.device_put(jnp.arange(600) < 500, NamedSharding(mesh, P("devices")))
    expected = attend(*tokens, key_mask=jnp.arange(600) < 500)
    for output in (attend(*there, key_mask=mask), jax.jit(attend)(*there, key_mask=mask)):
        assert len(output.sharding.device_set) == 2
        np.testing.assert_allclose(output, expected, atol=1e-13)
    for by, wanted in zip(loss_of(attend)(*there), loss_of(attend)(*tokens), strict=True):
        np.testing.assert_allclose(by, wanted, atol=1e-12)


def test_states_of_shards_add_up_in_one_reduction(mesh: Any, tokens: list[Any]) -> None:
    """The way that docs/jax.md describes: no token leaves its device, in either direction of the gradient."""
    text = (Path(__file__).parents[3] / "docs" / "jax.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    (block,) = (block.split("```")[0] for block in text.split("```python\n") if "def attend" in block)
    exec(block, names)
    attend, spec = names["attend"], names["spec"]
    there = [jax.device_put(x, NamedSharding(mesh, spec)) for x in tokens]
    whole = partial(attention, form="efficient")
    np.testing.assert_allclose(jax.jit(attend)(*there), whole(*tokens), atol=1e-13)
    assert communication(attend, *there) == {"all-reduce": 1}
    for by, wanted in zip(loss_of(attend)(*there), loss_of(whole)(*tokens), strict=True):
        np.testing.assert_allclose(by, wanted, atol=1e-12)
    assert set(communication(loss_of(attend), *there)) == {"all-reduce"}


@pytest.mark.parametrize(("form", "is_causal"), [("efficient", True), ("direct", False)])
def test_heads_over_devices(mesh: Any, tokens: list[Any], form: str, is_causal: bool) -> None:
    """Inside shard_map, with a scale that all devices share: its gradient is summed over them."""
    batches = [jnp.stack([x, -2 * x]) for x in tokens]
    scale = jnp.asarray([0.7, 1.3])

    def attend(query: Any, key: Any, value: Any, scale: Any) -> Any:
        return attention(query, key, value, scale=scale, form=form, is_causal=is_causal)

    over = P("devices")
    spread = jax.shard_map(attend, mesh=mesh, in_specs=(over, over, over, P()), out_specs=over)
    gradient = lambda f: jax.jit(jax.grad(lambda *arrays: jnp.sum(jnp.sin(f(*arrays))), (0, 1, 2, 3)))  # noqa: E731
    np.testing.assert_allclose(jax.jit(spread)(*batches, scale), attend(*batches, scale), atol=1e-13)
    assert communication(spread, *batches, scale) == {}
    for by, wanted in zip(gradient(spread)(*batches, scale), gradient(attend)(*batches, scale), strict=True):
        np.testing.assert_allclose(by, wanted, atol=1e-11)
    moved = jax.jit(lambda f=spread: jax.jvp(f, (*batches, scale), (*batches, scale)))()[1]
    np.testing.assert_allclose(moved, jax.jvp(attend, (*batches, scale), (*batches, scale))[1], atol=1e-12)
