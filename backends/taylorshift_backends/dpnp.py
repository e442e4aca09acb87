"""dpnp: NumPy's functions on Intel devices through SYCL; work is queued, and nothing here waits for it."""

from __future__ import annotations

from typing import Any

import dpctl
import dpnp

from taylorshift_core import Backend

Array = Any


def from_numpy(array: Any, device: Any = None) -> Array:
    """Copy a NumPy array to a device, by default the first."""
    return dpnp.asarray(array, device=device)


def wait(array: Array) -> Array:
    """Return `array` when its queue has done all its work."""
    array.sycl_queue.wait()
    return array


BACKEND = Backend(
    name="dpnp",
    namespace=dpnp,
    tile_bytes=16 << 20,  # each call is a launch: fewer and larger ones
    wait=wait,
    from_numpy=from_numpy,
    to_numpy=dpnp.asnumpy,
    devices=lambda: tuple(device.filter_string for device in dpctl.get_devices()),
)
