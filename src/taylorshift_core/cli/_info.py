"""``taylorshift info``: the backends, which of them are here, and what to install for the others."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import taylorshift_core
from taylorshift_core import MissingLibraryError, backend_names, load_backend
from taylorshift_core.cli._answer import Answer
from taylorshift_core.cli._console import say, show_table
from taylorshift_core.cli._format import UNKNOWN

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from taylorshift_core.cli._parser import Parser


EXAMPLES = (
    ("taylorshift info", "what is here, and what to install for the rest"),
    ("taylorshift info --json", "the same for programs, and to attach to a question"),
)


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    about = "List the backends: version and devices of those installed, the install line of the others."
    return commands.add_parser("info", help="backends, versions, devices, what to install", description=about)


def run(_arguments: argparse.Namespace) -> Answer:
    """Look which backends are here."""
    distributions = metadata.packages_distributions()
    facts = {
        "version": taylorshift_core.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "backends": [_found(name, distributions.get(name, ())) for name in backend_names()],
    }
    return Answer(facts, _show)


def _show(facts: Mapping[str, Any]) -> None:
    python = f"Python {facts['python']} on {facts['system']} {facts['processor']}"
    columns = ("backend", "version", "devices", "to install")
    rows = [_row(**backend) for backend in facts["backends"]]
    show_table(f"taylorshift-core {facts['version']}, {python}", columns, rows, left=len(columns))
    say("Arrays of any other library that follows the Python array API work too, through what the standard offers.")


def _found(name: str, distributions: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "backend": name,
        "version": None,
        "devices": [],
        "install": f'pip install "taylorshift-core[{name}]"',
    }
    try:
        backend = load_backend(name)
    except MissingLibraryError:
        return found
    return found | {"version": _version(distributions), "devices": list(map(str, backend.devices())), "install": None}


def _row(backend: str, version: str | None, devices: Sequence[str], install: str | None) -> tuple[str, str, str, str]:
    if version is None:
        return backend, "not installed", UNKNOWN, install or UNKNOWN
    return backend, version, ", ".join(devices) or "none found", UNKNOWN


def _version(distributions: Sequence[str]) -> str:
    """Return the version of the first of the distributions that a library was installed by."""
    return metadata.version(distributions[0]) if distributions else "unknown"
