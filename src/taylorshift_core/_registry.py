"""From an array to its Backend: adapters are found by entry point, and loaded when their arrays are first seen."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from taylorshift_core._backend import Backend
from taylorshift_core._namespace import device_of, library_name, namespace_of
from taylorshift_core.errors import BackendError, MissingLibraryError, UnknownBackendError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Array = Any
GROUP = "taylorshift_core.backends"
_REFUSED = {"sparse": "its products of sparse and dense arrays do not follow the array API; call .todense() first"}


def backend_names() -> tuple[str, ...]:
    """Return the names of all registered adapters, whether their libraries are installed or not."""
    return tuple(sorted(_adapters()))


@cache
def load_backend(name: str) -> Backend:
    """Return the adapter of that name.

    Raises
    ------
    UnknownBackendError
        If no adapter of that name is registered.
    MissingLibraryError
        If the library that it adapts is not installed.
    """
    adapters = _adapters()
    if name not in adapters:
        msg = f"backend must be one of {', '.join(sorted(adapters))}; got {name!r}. An adapter registers in {GROUP!r}."
        raise UnknownBackendError(msg)
    try:
        backend = adapters[name].load()
    except ImportError as error:
        msg = (
            f'backend {name} needs a library that cannot be imported ({error}): pip install "taylorshift-core[{name}]"'
        )
        raise MissingLibraryError(msg) from error
    if not isinstance(backend, Backend):
        msg = f"entry point {name!r} of {GROUP!r} must be a Backend; got {type(backend).__name__} in {adapters[name].value}"
        raise BackendError(msg)
    return backend


def backend_of(**arrays: Array) -> Backend:
    """Return the Backend of the arrays, which are named as in the caller's signature.

    Raises
    ------
    BackendError
        If one of them is no array, or they are of several libraries or devices.
    """
    namespaces = {name: namespace_of(array, name) for name, array in arrays.items()}
    first, *others = namespaces
    for other in others:
        if namespaces[other] is not namespaces[first]:
            libraries = ", ".join(f"{name} of {library_name(xp)}" for name, xp in namespaces.items())
            msg = (
                f"all arrays must be of one library; got {libraries}. Convert them to one, for example by from_dlpack."
            )
            raise BackendError(msg)
    backend = _backend_for(namespaces[first])
    for name, array in arrays.items():
        reason = backend.refuse(array)
        if reason is not None:
            msg = f"{name} cannot be used: {reason}"
            raise BackendError(msg)
    _check_devices(arrays)
    return backend


def _check_devices(arrays: dict[str, Array]) -> None:
    known = [device for device in map(device_of, arrays.values()) if device is not None]
    if any(device != known[0] for device in known[1:]):
        places = ", ".join(f"{name} on {device_of(array)}" for name, array in arrays.items())
        msg = f"all arrays must be on one device; got {places}. Move them to one first."
        raise BackendError(msg)


@cache
def _backend_for(namespace: Any) -> Backend:
    name = library_name(namespace)
    if name in _REFUSED:
        msg = f"arrays of {name} cannot be used: {_REFUSED[name]}"
        raise BackendError(msg)
    if name in _adapters():
        return load_backend(name)
    return Backend(name=name, namespace=namespace)


@cache
def _adapters() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415  slow, and not needed to import the library

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in found and found[entry.name].value != entry.value:
            claims = ", ".join(_claim(each) for each in (found[entry.name], entry))
            msg = f"one backend, one adapter: {entry.name!r} is claimed by {claims}. Uninstall one of them."
            raise BackendError(msg)
        found[entry.name] = entry
    return found


def _claim(entry: EntryPoint) -> str:
    return f"{entry.value} of {entry.dist.name if entry.dist else 'an unnamed distribution'}"
