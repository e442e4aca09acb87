"""The command line: ``taylorshift`` alone is the demonstration.

A command is one module of this package that offers ``add_parser(commands)``, ``run(arguments) -> Answer`` and
``EXAMPLES``, pairs of a command line and what it is good for; its name stands in `COMMANDS`, with an underscore before
it as its file.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING

from taylorshift_core.cli._errors import CommandError
from taylorshift_core.errors import TaylorShiftError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("demo", "attend", "explain", "bench", "crossover", "calibrate", "report", "info")
WRONG_INPUT, INTERRUPTED, READER_GONE = 2, 130, 141  # the last two as a shell reports SIGINT and SIGPIPE

__all__ = ["COMMANDS", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Parameters
    ----------
    argv
        The words after ``taylorshift``; by default those of this process.

    Returns
    -------
    int
        0; 2 for wrong use or bad input, said in one line on standard error; 130 after Ctrl-C; 141 when the reader
        of the output went away.
    """
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return READER_GONE
    except (CommandError, TaylorShiftError, OSError, MemoryError) as error:
        sys.stderr.write(f"taylorshift: {_in_one_line(error)}\n")
        return WRONG_INPUT
    return 0


def _run(words: list[str]) -> None:
    try:
        parser = import_module("taylorshift_core.cli._parser")
        commands = {name: import_module(f"taylorshift_core.cli._{name}") for name in COMMANDS}
    except ModuleNotFoundError as error:
        if (error.name or "").split(".", maxsplit=1)[0] != "rich":
            raise
        msg = 'the command line needs rich; install it with: pip install "taylorshift-core[cli]"'
        raise CommandError(msg) from error
    arguments = parser.build(commands).parse_args(parser.with_command(words))
    with redirect_stdout(sys.stderr):  # what a library prints is no part of the answer
        answer = arguments.run(arguments)
    answer.write(as_json=arguments.json)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or "not enough memory"


def _abandon_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush finds no broken pipe either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
