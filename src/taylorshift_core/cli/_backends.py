"""The backends that a command measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taylorshift_core import MissingLibraryError, backend_names, load_backend
from taylorshift_core.cli._console import say
from taylorshift_core.cli._errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taylorshift_core import Backend


def find_backends(names: Sequence[str] | None, dtype: str | None = None) -> tuple[list[Backend], dict[str, str]]:
    """Return the backends to measure, and why others are absent; those asked for by name must be there."""
    found, absent = [], {}
    first_numpy = sorted(backend_names(), key=lambda name: name != "numpy")  # what all have
    for name in dict.fromkeys(names or first_numpy):
        try:
            backend = load_backend(name)
        except MissingLibraryError:
            if names:
                raise
            absent[name] = "not installed"
            continue
        lacking = _lacking(backend, dtype)
        if lacking is None:
            found.append(backend)
        elif names:
            msg = f"backend {name}: {lacking} on this machine; `taylorshift info` lists what is here"
            raise CommandError(msg)
        else:
            absent[name] = lacking
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
        msg = f"there is no backend to measure ({reasons}); `taylorshift info` says what to install"
        raise CommandError(msg)
    return found, absent


def _lacking(backend: Backend, dtype: str | None) -> str | None:
    """Return what a backend lacks to be measured, None where there is all."""
    if not backend.devices():
        return "no device found"
    return None if dtype is None or has_dtype(backend, dtype) else f"no {dtype}"


def has_dtype(backend: Backend, dtype: str) -> bool:
    """Tell whether arrays of a backend come out in a dtype, as they do not in float64 on some devices."""
    try:
        array = backend.from_numpy(np.zeros(1, dtype))
        return bool(array.dtype == getattr(backend.namespace, dtype))
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False


def absences(absent: Mapping[str, str]) -> list[dict[str, str]]:
    """Return which backends were not measured and why, for programs."""
    return [{"backend": name, "reason": reason} for name, reason in absent.items()]


def say_absent(absent: Sequence[Mapping[str, str]]) -> None:
    """Print which backends were not measured and why, from these facts."""
    if absent:
        reasons = dict.fromkeys(each["reason"] for each in absent)
        groups = (
            f"{', '.join(each['backend'] for each in absent if each['reason'] == reason)} ({reason})"
            for reason in reasons
        )
        say(f"Not measured: {', '.join(groups)}. `taylorshift info` says what to install.")
