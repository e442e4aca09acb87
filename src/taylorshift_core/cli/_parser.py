"""The parser of the command line: one subparser a command, errors in one line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

import taylorshift_core
from taylorshift_core.cli._completion import OPTION, SHELLS, PrintCompletion
from taylorshift_core.cli._errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

_ABOUT = """TaylorShift attention on any array library.

`taylorshift` without a command runs the demonstration: `taylorshift --tokens 8192` is `taylorshift demo --tokens 8192`,
and `taylorshift demo --help` lists its options."""
_OF_ALL = {"-h", "--help", "--version", OPTION}  # options that belong to no command
_EXAMPLES = (
    ("taylorshift --tokens 1000 --backend numpy", "both forms on a real text: time, memory, error"),
    ("taylorshift explain --query 8x4096x64", "which form a problem of your size is computed in, and why"),
    ("taylorshift bench --help", "each command says what it does, with examples"),
    ("taylorshift --print-completion bash", "after `eval` of that, the Tab key completes commands and options"),
)
_CODES = "Exit codes: 0; 2 for wrong use or bad input, said in one line on standard error; 130 after Ctrl-C."


class _Paragraphs(argparse.HelpFormatter):
    """Help as wide as the terminal, with the blank lines between paragraphs kept, and paragraphs of indented lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(each if "\n  " in each else fill(each, width, indent) for each in text.split("\n\n"))


class Parser(argparse.ArgumentParser):
    """A parser that raises `CommandError` where argparse would print its usage and exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Paragraphs, **options)

    def error(self, message: str) -> NoReturn:
        """Raise the error that argparse found, and say where help is."""
        msg = f"{message} (see: {self.prog} --help)"
        raise CommandError(msg)


def build(commands: Mapping[str, ModuleType]) -> Parser:
    """Return the parser of all commands; each sets ``run`` to its own function."""
    parser = Parser(prog="taylorshift", description=_ABOUT, epilog=f"{_CODES}\n\n{_listed(_EXAMPLES)}")
    parser.add_argument("--version", action="version", version=f"taylorshift-core {taylorshift_core.__version__}")
    parser.add_argument(
        OPTION, choices=SHELLS, action=PrintCompletion, help="print what makes a shell complete this command line"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for module in commands.values():
        command = module.add_parser(subparsers)
        command.add_argument("--json", action="store_true", help="print one JSON object instead, for programs")
        command.epilog = _listed(module.EXAMPLES)
        command.set_defaults(run=module.run)
    return parser


def _listed(examples: Sequence[tuple[str, str]]) -> str:
    """Return the end of a help text: command lines, and what each is good for."""
    return "\n".join(["examples:", *(f"  {line}\n      {purpose}" for line, purpose in examples)])


def with_command(words: list[str]) -> list[str]:
    """Return the words with the command that is meant: ``demo`` where none is named."""
    if words and (words[0].partition("=")[0] in _OF_ALL or not words[0].startswith("-")):
        return words
    return ["demo", *words]


def at_least(minimum: int) -> Callable[[str], int]:
    """Return the type of an option that takes a whole number from `minimum` upward."""

    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            msg = f"must be a whole number from {minimum} upward, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return whole_number


positive = at_least(1)
