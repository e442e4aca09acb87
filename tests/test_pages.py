"""What the pages say beside their examples: public names, command lines, files and sessions that must be there."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

import taylorshift_core
from taylorshift_core.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
_FILE = re.compile(r"(?<![\w./])(?:backends|benchmarks|docs|examples|src|tests)/[\w/]+\.(?:json|md|py)\b")


def _lines(page: str) -> list[str]:
    """Return the lines of the blocks of commands on a page, without what a # says."""
    blocks = re.findall(r"^```(?:console|bash)\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    return [line.partition(" #")[0] for block in blocks for line in block.splitlines()]


def test_the_reference_has_every_public_name() -> None:
    named = set(re.findall(r"\.\. auto\w+:: (\w+)$", PAGES["api.md"], re.MULTILINE))
    errors = {name for name in taylorshift_core.__all__ if name.endswith("Error")}
    assert named == set(taylorshift_core.__all__) - errors - {"__version__"} | set(
        import_module("taylorshift_core.testing").__all__
    )
    assert all(hasattr(import_module("taylorshift_core.errors"), name) for name in errors)
    assert "automodule:: taylorshift_core.errors" in PAGES["api.md"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page: str) -> None:
    """``taylorshift ...`` is read by its parser; what runs without a file is run by the tests of the command line."""
    parser = import_module("taylorshift_core.cli._parser")
    commands = parser.build({name: import_module(f"taylorshift_core.cli._{name}") for name in COMMANDS})
    for line in _lines(page):
        for command in re.split(r"&&|\|", line):
            program, *words = shlex.split(command) or [""]
            if program == "taylorshift" and "COMMAND" not in words:
                with suppress(SystemExit):  # after --help and the like; what is wrong is another exception
                    commands.parse_args(parser.with_command(words))


@pytest.mark.parametrize("page", PAGES)
def test_files_and_sessions_are_there(page: str) -> None:
    for name in _FILE.findall(PAGES[page]):
        assert "NAME" in name or (ROOT / name).exists(), name
    sessions = set(re.findall(r'^def (\w+)\(session|^@nox\.session\(name="([\w-]+)"', _noxfile(), re.MULTILINE))
    known = {name for pair in sessions for name in pair if name}
    for line in _lines(page):
        for named in re.findall(r" -s ([^-]+)", line) if "nox" in line else ():
            assert {each.partition("(")[0] for each in shlex.split(named)} <= known, line


def _noxfile() -> str:
    return (ROOT / "noxfile.py").read_text(encoding="utf-8")
