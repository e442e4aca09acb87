"""``taylorshift crossover``: from which length on the efficient form takes less work, and less memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core import crossover_length, crossover_memory
from taylorshift_core.cli._answer import Answer
from taylorshift_core.cli._console import say, show_table
from taylorshift_core.cli._parser import Parser, positive

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

EXAMPLES = (
    ("taylorshift crossover", "for the usual sizes of a head"),
    ("taylorshift crossover --head-dim 48 --value-dim 96", "for one size, with longer values"),
)
_HEAD_DIMS = (8, 16, 32, 64, 128)
_ABOUT = """Print the first lengths at which the efficient form takes fewer operations (N0) and holds fewer entries (N1)
than the direct form, with the features of the paper (all head_dim**2 products) and with the symmetric ones of this
library (each product once). N1 counts every feature as stored, as the paper does; this library stores a tile of them."""


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "crossover", help="the lengths N0 and N1 where the efficient form wins", description=_ABOUT
    )
    parser.add_argument("--head-dim", type=positive, action="append", metavar="D", help="repeatable; default 8 to 128")
    parser.add_argument("--value-dim", type=positive, metavar="E", help="default: as head_dim")
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Compute the lengths."""
    rows = [_row(head_dim, arguments.value_dim or head_dim) for head_dim in arguments.head_dim or _HEAD_DIMS]
    return Answer({"crossovers": rows}, _show)


def _show(facts: Mapping[str, Any]) -> None:
    show_table(
        "Lengths in tokens from which the efficient form wins",
        ("head_dim", "value_dim", "N0 published", "N1 published", "N0 symmetric", "N1 symmetric"),
        [[str(number) for number in row.values()] for row in facts["crossovers"]],
        left=0,
    )
    say("N0: fewer operations. N1: fewer entries in memory, every feature stored.")


def _row(head_dim: int, value_dim: int) -> dict[str, int]:
    lengths = {
        f"{fewer}_{features}_tokens": count(head_dim, value_dim=value_dim, features=features)
        for features in ("published", "symmetric")
        for fewer, count in (("fewer_operations", crossover_length), ("fewer_entries", crossover_memory))
    }
    return {"head_dim": head_dim, "value_dim": value_dim} | lengths
