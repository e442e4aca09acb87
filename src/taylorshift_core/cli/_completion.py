"""``taylorshift --print-completion SHELL``: what a shell needs to know to complete the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from taylorshift_core import backend_names
from taylorshift_core.cli._errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTION = "--print-completion"
SHELLS = ("bash", "zsh", "fish")


class PrintCompletion(argparse.Action):
    """An option that prints the completion of its parser for the shell named, and ends the program."""

    def __call__(
        self, parser: argparse.ArgumentParser, _namespace: object, values: object, _option: str | None = None
    ) -> NoReturn:
        """Print and exit."""
        try:
            import shtab
        except ImportError as error:
            msg = f'{OPTION} needs shtab; install it with: pip install "taylorshift-core[cli]"'
            raise CommandError(msg) from error
        for action in _actions(parser):
            if action.type is Path:
                action.complete = shtab.FILE
            elif "--backend" in action.option_strings:
                action.choices = backend_names()
        sys.stdout.write(shtab.complete(parser, str(values)))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """Yield the arguments of a parser and of the commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
