"""Which library an array belongs to: the only module that knows array_api_compat."""

from __future__ import annotations

from typing import Any, TypeGuard

import array_api_compat

from taylorshift_core.errors import BackendError

Array = Any
_WRAPPER = "array_api_compat."
_CURES = {"pandas": "its to_numpy()", "polars": "its to_numpy()", "pyarrow": "its to_numpy()", "scipy": "its toarray()"}


_namespaces: dict[type, Any] = {}  # by the type of arrays: asking takes as long as a matrix product of a few tokens


def namespace_of(array: Array, name: str) -> Any:
    """Return the array-API namespace of an array; `name` is what to call it in an error."""
    if type(array) in _namespaces:
        return _namespaces[type(array)]
    if not has_namespace(array):
        msg = (
            f"{name} must be an array of a library that speaks the Python array API (NumPy, PyTorch, CuPy, JAX, ...), or "
            f"speak DLPack; got {_kind(array)}. Convert it first, for example with {_cure(array)}."
        )
        raise BackendError(msg)
    return _namespaces.setdefault(type(array), array_api_compat.array_namespace(array))


def has_namespace(thing: object) -> bool:
    """Tell whether something is an array of a library with an array namespace."""
    found: bool = array_api_compat.is_array_api_obj(thing)
    return found


def library_name(namespace: Any) -> str:
    """Return the import name of the library behind a namespace: "numpy", "torch", "jax", ..."""
    name: str = namespace.__name__
    return name.removeprefix(_WRAPPER).split(".", maxsplit=1)[0]


_attributes: set[type] = set()  # types of arrays whose device is just what their attribute says


def device_of(array: Array) -> Any:
    """Return the device of an array, or None where its library has no such notion, or the array is spread over several."""
    if type(array) in _attributes:
        return array.device
    if array_api_compat.is_numpy_array(array) or array_api_compat.is_torch_array(array):
        _attributes.add(type(array))
    try:
        device = array_api_compat.device(array)
    except AttributeError:
        return None
    return None if len(getattr(device, "device_set", ())) > 1 else device  # JAX: a sharding stands for its devices


def _cure(thing: object) -> str:
    return _CURES.get(type(thing).__module__.partition(".")[0], "numpy.asarray")


def sizes_of(array: Array) -> tuple[int | None, ...]:
    """Return the shape of an array; sizes that a lazy library does not know yet, which Dask gives as NaN, are None."""
    shape = array.shape
    if are_numbers(shape):
        return tuple(shape)
    return tuple(None if size is None or size != size else size for size in shape)  # noqa: PLR0124  NaN


def are_numbers(shape: Any) -> TypeGuard[tuple[int, ...]]:
    """Tell whether a shape is a tuple of integers, as most are: then there is nothing to find out about any of them."""
    return isinstance(shape, tuple) and set(map(type, shape)) <= {int}


def device_kind(device: object) -> str:
    """Return "gpu" or "cpu" for a device of any library; one that has no name for itself is a CPU."""
    try:
        name = str(device).lower()
    except ValueError:  # dpnp: a part of a device
        return "cpu"
    return "gpu" if any(word in name for word in ("cuda", "gpu", "mps", "rocm", "xpu")) else "cpu"


def _kind(thing: object) -> str:
    kind = type(thing)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
