"""What is written to the terminal: tables, lines and progress; the only module that knows rich."""

# ruff: noqa: TID253  rich is an extra: `main` imports this module last of all, and says what to install

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WIDE = 240  # columns of a pipe or a file, where nothing may be cut off


class _Output(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Leave the answer to `main`; rich would exit with 1."""
        raise BrokenPipeError


def _console(stream: TextIO) -> Console:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a Windows code page does not know every sign
    return _Output(file=stream, highlight=False, markup=False, width=None if stream.isatty() else _WIDE)


def say(text: str) -> None:
    """Write a line to standard output; a terminal wraps it, a pipe gets it whole."""
    _console(sys.stdout).print(text, soft_wrap=not sys.stdout.isatty())


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """Write a table whose first `left` columns are words and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right")
    for row in rows:
        table.add_row(*row)
    console = _console(sys.stdout)
    if sys.stdout.isatty():
        console.print(table)
        return
    with console.capture() as lines:
        console.print(table)
    for line in lines.get().splitlines():
        say(line.rstrip())


def progress(*, steady: bool = False) -> Progress:
    """Return a progress bar on standard error, gone when done, and absent where that is no terminal.

    With `steady` it is drawn only when it advances, so that no other thread runs beside what is being timed.
    """
    console = _console(sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *columns,
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
        auto_refresh=not steady,
        redirect_stdout=False,  # what is printed meanwhile belongs to standard output
        redirect_stderr=False,
    )
