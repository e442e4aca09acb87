"""``taylorshift info``: the backends, which of them are here, and what to install for the others."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

import taylorshift_core
from taylorshift_core import MissingLibraryError, backend_names, load_backend
from taylorshift_core.cli._console import say, show_table
from taylorshift_core.cli._format import UNKNOWN

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from taylorshift_core.cli._parser import Parser


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    about = "List the backends: version and devices of those installed, the install line of the others."
    return commands.add_parser("info", help="backends, versions, devices, what to install", description=about)


def run(_arguments: argparse.Namespace) -> int:
    """Print the table."""
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    title = f"taylorshift-core {taylorshift_core.__version__}, {python}"
    columns = ("backend", "version", "devices", "to install")
    distributions = metadata.packages_distributions()
    rows = [_row(name, distributions.get(name, ())) for name in backend_names()]
    show_table(title, columns, rows, left=len(columns))
    say("Arrays of any other library that follows the Python array API work too, through what the standard offers.")
    return 0


def _row(name: str, distributions: Sequence[str]) -> tuple[str, str, str, str]:
    try:
        backend = load_backend(name)
    except MissingLibraryError:
        return name, "not installed", UNKNOWN, f'pip install "taylorshift-core[{name}]"'
    return name, _version(distributions), ", ".join(map(str, backend.devices())) or "none found", UNKNOWN


def _version(distributions: Sequence[str]) -> str:
    """Return the version of the first of the distributions that a library was installed by."""
    return metadata.version(distributions[0]) if distributions else "unknown"
