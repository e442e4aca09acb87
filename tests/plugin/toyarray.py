"""A toy array library: immutable arrays on a device of their own, with the array API, that do not become NumPy's by themselves."""

from __future__ import annotations

import operator
import sys
from functools import partial
from typing import Any

import numpy as np

_DTYPES = ("bool", "int64", "float32", "float64")
_HELD = object()


class Array:
    """Made by `asarray` and by the functions of this module."""

    __array_ufunc__ = None  # NumPy leaves operators to this class

    def __init__(self, held: Any, key: object, device: str) -> None:
        if key is not _HELD:
            msg = "arrays are made by asarray"
            raise TypeError(msg)
        self._held, self.device = held, device
        self.dtype, self.shape, self.ndim, self.size = held.dtype, held.shape, held.ndim, held.size

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return sys.modules[__name__]

    def __array__(self, *_: Any, **__: Any) -> Any:
        msg = "arrays of toyarray are brought to the host by to_host"
        raise TypeError(msg)

    def __bool__(self) -> bool:
        msg = "nobody needs to look at what is in an array"
        raise TypeError(msg)

    __float__ = __int__ = __index__ = __bool__

    def __getitem__(self, index: Any) -> Array:
        return Array(self._held[index], _HELD, self.device)


def _binary(function: Any) -> Any:
    def method(self: Array, other: Any) -> Any:
        return _call(function, self, other) if isinstance(other, Array | int | float) else NotImplemented

    return method


def _reflected(function: Any) -> Any:
    return _binary(lambda one, other: function(other, one))


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Array, f"__{_name}__", _binary(getattr(operator, _name)))
    setattr(Array, f"__r{_name}__", _reflected(getattr(operator, _name)))
for _name in ("gt", "ge", "lt", "le", "eq", "ne", "and_", "or_"):
    setattr(Array, f"__{_name.strip('_')}__", _binary(getattr(operator, _name)))
Array.__neg__ = lambda self: _call(operator.neg, self)  # type: ignore[attr-defined]
Array.__invert__ = lambda self: _call(operator.invert, self)  # type: ignore[attr-defined]


def asarray(array: Any, *, device: str = "toy:0") -> Array:
    """Take an array of NumPy to a device."""
    return Array(np.array(array), _HELD, device)


def to_host(array: Array) -> Any:
    """Return an array as NumPy's."""
    return array._held.copy()


def _call(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call a function of NumPy on what the arrays hold; all must be on one device."""
    found: list[Array] = []

    def bare(thing: Any) -> Any:
        if isinstance(thing, list | tuple):
            return type(thing)(bare(each) for each in thing)
        found.extend([thing] if isinstance(thing, Array) else [])
        return thing._held if isinstance(thing, Array) else thing

    device = keywords.pop("device", None)
    bared = [bare(each) for each in arguments], {name: bare(each) for name, each in keywords.items()}
    devices = {each.device for each in found} | ({device} if device else set())
    if len(devices) != 1:
        msg = f"one device, please; got {sorted(devices)}"
        raise ValueError(msg)
    if any(isinstance(each, np.ndarray) for each in arguments):
        msg = "arrays of NumPy are no arrays of toyarray"
        raise TypeError(msg)
    with np.errstate(all="ignore"):
        return Array(np.asarray(function(*bared[0], **bared[1])), _HELD, devices.pop())


def isdtype(dtype: Any, kind: Any) -> bool:
    """Tell whether a dtype is of a kind."""
    return bool(np.isdtype(dtype, kind))


def finfo(dtype: Any) -> Any:
    """Return the limits of a floating-point dtype."""
    return np.finfo(dtype)


def __getattr__(name: str) -> Any:
    if name in _DTYPES:
        return np.dtype(name)
    if name.startswith("_") or name in {"float16", "ndarray"}:
        msg = f"toyarray has no {name}"
        raise AttributeError(msg)
    found = getattr(np, name)
    return partial(_call, found) if callable(found) else found
