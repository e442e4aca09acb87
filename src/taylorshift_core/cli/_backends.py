"""The backends that a command measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taylorshift_core import MissingLibraryError, backend_names, load_backend
from taylorshift_core.cli._errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taylorshift_core import Backend


def find_backends(names: Sequence[str] | None) -> tuple[list[Backend], dict[str, str]]:
    """Return the backends to measure, and why others are absent; those asked for by name must be there."""
    found, absent = [], {}
    for name in dict.fromkeys(
        names or sorted(backend_names(), key=lambda name: name != "numpy")
    ):  # what all have, first
        try:
            backend = load_backend(name)
        except MissingLibraryError:
            if names:
                raise
            absent[name] = "not installed"
            continue
        if backend.devices():
            found.append(backend)
        elif names:
            msg = f"backend {name} finds no device on this machine; `taylorshift info` lists what is here"
            raise CommandError(msg)
        else:
            absent[name] = "no device found"
    if not found:
        msg = "no backend is installed; `taylorshift info` says what to install"
        raise CommandError(msg)
    return found, absent
