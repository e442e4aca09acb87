"""A "cuda" device for PyTorch that computes on the CPU: real values, torch's rules about devices, no waiting.

Inside ``ShadowCuda()`` a tensor with ``device="cuda:1"`` is a wrapper around a tensor of the CPU. The CPU-only build of
torch is enough. There is no autograd through wrappers, and there are no streams and kernels.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten
_COPYING = (aten._to_copy.default, aten.copy_.default)
# Their first argument decides; indices may lie on the CPU.
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
_VALUE_DECIDES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class DeviceMismatchError(RuntimeError):
    """Tensors of different devices meet in one operation."""


class SyncError(RuntimeError):
    """The host would wait for the device."""


class ShadowTensor(torch.Tensor):  # type: ignore[misc]  # to mypy torch is Any
    """Says that it lies on a cuda device; its values are those of `value`, on the CPU."""

    value: torch.Tensor

    @staticmethod
    def __new__(cls, value: torch.Tensor, device: torch.device) -> Self:
        shadow: Self = torch.Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=device,
        )
        shadow.value = value
        return shadow

    def __repr__(self) -> str:
        return f"ShadowTensor({self.value}, device='{self.device}')"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        msg = f"{function}: a shadow tensor is used outside ShadowCuda()"
        raise RuntimeError(msg)


class ShadowCuda(TorchDispatchMode):  # type: ignore[misc]
    """Context in which "cuda" tensors can be made and used; blocks nest.

    Parameters
    ----------
    forbid_syncs
        Raise SyncError where the host would wait for the device; else such operations are listed in `syncs`.
    """

    def __init__(self, *, forbid_syncs: bool = False) -> None:
        super().__init__()
        self.forbid_syncs = forbid_syncs
        self.syncs: list[str] = []

    def __enter__(self) -> Self:
        _prepare_torch()
        self._init_before = torch.cuda._lazy_init
        torch.cuda._lazy_init = lambda: None
        self._setting_before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") starts on the CPU
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        torch._C._set_only_lift_cpu_tensors(self._setting_before)
        torch.cuda._lazy_init = self._init_before  # torch.compile asks whether it raises
        super().__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check the devices, compute on the CPU, and wrap what lies on a cuda device."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        asked = kwargs.get("device")
        device = _result_device(function, args, tensors, asked)
        shadows = [tensor for tensor in tensors if isinstance(tensor, ShadowTensor)]
        if not shadows and device.type == "cpu":
            return function(*args, **kwargs)
        if function not in _COPYING:
            _check_devices(function, tensors[:1] if function in _INDEXING else tensors, shadows)
        if _waits(function, args, tensors, device):
            self._note(str(function))
        if asked is not None:
            kwargs = kwargs | {"device": torch.device("cpu")}
        result = function(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
        return result if device.type == "cpu" else tree_map(lambda leaf: _wrap(leaf, device), result)

    def _note(self, what: str) -> None:
        if self.forbid_syncs:
            msg = f"{what} makes the host wait for the device"
            raise SyncError(msg)
        self.syncs.append(what)


def _result_device(function: Any, args: Any, tensors: Sequence[torch.Tensor], asked: Any) -> torch.device:
    if asked is not None:
        named = torch.device(asked)
        return torch.device("cuda", named.index or 0) if named.type == "cuda" else named
    if function is aten.copy_.default:
        found: torch.device = args[0].device
        return found
    devices = [tensor.device for tensor in tensors if isinstance(tensor, ShadowTensor)]
    return devices[0] if devices else torch.device("cpu")


def _check_devices(function: Any, tensors: Sequence[torch.Tensor], shadows: Sequence[torch.Tensor]) -> None:
    scalars = [tensor for tensor in tensors if tensor.dim() == 0 and tensor.device.type == "cpu"]  # legal in torch
    devices = {str(tensor.device) for tensor in (*tensors, *shadows) if not any(tensor is each for each in scalars)}
    if len(devices) > 1:
        msg = f"{function}: expected all tensors to be on the same device, but found {sorted(devices)}"
        raise DeviceMismatchError(msg)


def _waits(function: Any, args: Any, tensors: Sequence[torch.Tensor], device: torch.device) -> bool:
    """Tell whether the host waits: for a value, for a shape that depends on values, or for a copy to the other side."""
    if function in _COPYING:
        return any(tensor.device.type != device.type for tensor in tensors)
    if function is aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return bool(_VALUE_DECIDES.intersection(function.tags))


def _wrap(leaf: Any, device: torch.device) -> Any:
    return ShadowTensor(leaf, device) if isinstance(leaf, torch.Tensor) else leaf


def _unwrap(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, ShadowTensor) else leaf


def _prepare_torch() -> None:
    """Let torch take tensors of cuda devices without any CUDA: it needs to be told how to change the device (not at all).

    On a build with CUDA but without a GPU torch installs such a guard by itself, in the place of one that reports no
    devices. A CPU-only build has none to be replaced; here that of the lazy backend stands in.
    """
    cuda, lazy = 1, 17  # of c10::DeviceType
    c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (lazy + 1)).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    if not guards[cuda]:
        guards[cuda] = guards[lazy]
        torch._C._ensureCUDADeviceGuardSet()
