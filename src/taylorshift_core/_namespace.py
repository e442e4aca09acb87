"""Which library an array belongs to: the only module that knows array_api_compat."""

from __future__ import annotations

from typing import Any

import array_api_compat

from taylorshift_core.errors import BackendError

Array = Any
_WRAPPER = "array_api_compat."


def namespace_of(array: Array, name: str) -> Any:
    """Return the array-API namespace of an array; `name` is what to call it in an error."""
    if not array_api_compat.is_array_api_obj(array):
        msg = (
            f"{name} must be an array of a library that speaks the Python array API (NumPy, PyTorch, CuPy, JAX, ...); "
            f"got {_kind(array)}. Convert it first, for example with numpy.asarray."
        )
        raise BackendError(msg)
    return array_api_compat.array_namespace(array)


def library_name(namespace: Any) -> str:
    """Return the import name of the library behind a namespace: "numpy", "torch", "jax", ..."""
    name: str = namespace.__name__
    return name.removeprefix(_WRAPPER).split(".", maxsplit=1)[0]


def device_of(array: Array) -> Any:
    """Return the device of an array, or None where its library has no such notion."""
    try:
        return array_api_compat.device(array)
    except AttributeError:
        return None


def sizes_of(array: Array) -> tuple[int | None, ...]:
    """Return the shape of an array; sizes that a lazy library does not know yet, which Dask gives as NaN, are None."""
    return tuple(None if size is None or size != size else size for size in array.shape)  # noqa: PLR0124  NaN


def _kind(thing: object) -> str:
    kind = type(thing)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
