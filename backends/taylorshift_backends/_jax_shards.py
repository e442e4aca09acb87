"""What JAX tells apart inside `jax.shard_map`: arrays that vary over the devices, and arrays that are the same on all."""

from __future__ import annotations

from typing import Any

import jax


def vary_alike(arrays: Any) -> Any:
    """Return a pytree of arrays, all varying over the axes of a mesh that any of them varies over.

    A carry of zeros then takes what is summed into it, and what is the same on all devices has a gradient that is
    summed over them.
    """
    kinds = [_varying(each) for each in jax.tree.leaves(arrays)]
    axes: frozenset[str] = frozenset().union(*kinds)
    if all(kind == axes for kind in kinds):
        return arrays
    return jax.tree.map(lambda each: jax.lax.pcast(each, tuple(axes - _varying(each)), to="varying"), arrays)


def _varying(array: Any) -> frozenset[str]:
    return jax.typeof(array).manual_axis_type.varying
