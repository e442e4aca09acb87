"""PyTorch, on every device that it has."""

from __future__ import annotations

import tracemalloc
from contextlib import nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any

import array_api_compat.torch
import numpy as np
import torch

from taylorshift_backends._torch_compiler import in_one_piece, register_pytrees
from taylorshift_backends._torch_gradients import differentiable
from taylorshift_backends._torch_loops import fold_tiles, map_tiles, scan_tiles
from taylorshift_backends._torch_numpy import elsewhere, stand_in
from taylorshift_backends._torch_tiles import augment, feature_tile, matmul, squared_product
from taylorshift_core import Backend
from taylorshift_core.entries import wrap_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

Array = Any


def without_autocast(array: Array) -> AbstractContextManager[object]:
    """Return a context in which products are computed in the precision of their factors."""
    kind = array.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def concat(arrays: Sequence[Array], *, axis: int = 0) -> Array:
    """Return the arrays joined; ``torch.concat`` is not known to all of PyTorch's ways to map a function."""
    return torch.cat(list(arrays), dim=axis)


def wait(array: Array) -> Array:
    """Return a tensor when its device has computed it."""
    if array.device.type != "cpu":
        torch.accelerator.synchronize(array.device)
    return array


def peak_memory(function: Callable[[], Array]) -> tuple[Array, int]:
    """Call `function`; return its result and the most bytes that PyTorch and NumPy allocated meanwhile, on the CPU."""
    tracemalloc.start()  # what stands in for PyTorch allocates as NumPy does
    try:
        with torch.profiler.profile(profile_memory=True) as profile:
            result = function()
        others = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU:
            now += event.nbytes()
            most = max(most, now)
    return result, most + others


def from_numpy(array: Any, device: Any = None) -> Array:
    """Return a tensor of its own memory."""
    return torch.asarray(np.array(array), device=device)


def to_numpy(array: Array) -> Any:
    """Return a NumPy array; bfloat16, which NumPy lacks, as float32."""
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def devices() -> tuple[Any, ...]:
    """Return the CPU and what accelerators there are."""
    kind = torch.accelerator.current_accelerator()
    others = () if kind is None else (torch.device(kind.type, i) for i in range(torch.accelerator.device_count()))
    return torch.device("cpu"), *others


register_pytrees()
wrap_entries(in_one_piece)

namespace = ModuleType(array_api_compat.torch.__name__)  # the array API's, but for two functions
vars(namespace).update(vars(array_api_compat.torch), matmul=matmul, concat=concat)

BACKEND = Backend(
    name="torch",
    namespace=namespace,
    pack=lambda array: array.contiguous(),
    tile_bytes=4 << 20,
    batch_at_once=False,
    augment=augment,
    feature_tile=feature_tile,
    squared_product=squared_product,
    fold_tiles=fold_tiles,
    map_tiles=map_tiles,
    scan_tiles=scan_tiles,
    stand_in=stand_in,
    elsewhere=elsewhere,
    differentiable=differentiable,
    scope=without_autocast,
    wait=wait,
    peak_memory=peak_memory,
    from_numpy=from_numpy,
    to_numpy=to_numpy,
    devices=devices,
)
