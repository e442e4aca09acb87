"""JAX: loops as scans, each call compiled once for all arrays of one kind, gradients of all orders and in all modes."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import numpy as jnp

from taylorshift_backends._jax_gradients import differentiable
from taylorshift_backends._jax_loops import fold_tiles, map_tiles, scan_tiles
from taylorshift_backends._jax_numpy import elsewhere, stand_in, worth_a_call
from taylorshift_core import Backend
from taylorshift_core.pytrees import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any

for each in CLASSES:
    jax.tree_util.register_pytree_node_class(each)


def peak_memory(function: Callable[[], Array]) -> tuple[Array, int]:
    """Call `function`, compiled; return its result and the bytes that its program holds beside its inputs, as compiled.

    What NumPy allocates where the program calls it is measured.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)()
    program = jax.jit(lambda *arrays: jax.core.eval_jaxpr(traced.jaxpr, arrays)).lower(*traced.consts).compile()
    memory = program.memory_analysis()
    tracemalloc.start()
    try:
        found = jax.block_until_ready(program(*traced.consts))
        called = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    results = jax.tree.unflatten(jax.tree.structure(shapes), found)
    return results, memory.temp_size_in_bytes + memory.output_size_in_bytes + called


BACKEND = Backend(
    name="jax",
    namespace=jnp,
    traced=True,
    fold_tiles=fold_tiles,
    map_tiles=map_tiles,
    scan_tiles=scan_tiles,
    stand_in=stand_in,
    worth_a_call=worth_a_call,
    elsewhere=elsewhere,
    differentiable=differentiable,
    wait=jax.block_until_ready,
    peak_memory=peak_memory,
    to_numpy=np.asarray,
    devices=lambda: tuple(jax.devices()),
)
