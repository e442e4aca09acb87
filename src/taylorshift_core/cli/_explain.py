"""``taylorshift explain``: which form a problem is computed in, why, and what that takes; nothing of its size is made."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from taylorshift_core._plan import FORMS
from taylorshift_core.cli._answer import Answer
from taylorshift_core.cli._asked import add_options, asked_by, title
from taylorshift_core.cli._backends import find_backends
from taylorshift_core.cli._console import say
from taylorshift_core.cli._plans import facts_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from taylorshift_core import Plan
    from taylorshift_core.cli._parser import Parser

EXAMPLES = (
    ("taylorshift explain --query 8x4096x64", "the plan of attention among 4096 tokens, 8 heads of 64 entries"),
    ("taylorshift explain --query 32x1x128 --key 8x100000x128", "a token that is decoded, 4 query heads to a key head"),
    ("taylorshift explain --query 2x8x500x32 --causal --objective memory --json", "a causal batch of 2, for programs"),
)
_ABOUT = """Print the plan that taylorshift_core.attention would follow: the form and why, predicted time, operations and
memory, tiles, crossover, rounding error. Only sizes are looked at, so any that you can think of may be asked for.

Times are predicted from speeds measured on this machine where `taylorshift calibrate` has run, else on another one.
`taylorshift bench` measures the same problem."""


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    parser = commands.add_parser("explain", help="the plan of a problem, from its sizes alone", description=_ABOUT)
    add_options(parser)
    parser.add_argument("--backend", metavar="NAME", default="numpy", help="default: %(default)s")
    parser.add_argument("--form", choices=("auto", *FORMS), default="auto", help="default: the better one")
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Plan."""
    asked = asked_by(arguments)
    (backend,), _ = find_backends([arguments.backend], asked.dtype)
    plan = asked.plan(backend, arguments.form)
    other = plan.of_form(FORMS[plan.form == FORMS[0]])
    facts = asked.facts | {"plan": facts_of(plan), "other_plan": facts_of(other)}
    return Answer(facts, partial(_show, plan))


def _show(plan: Plan, facts: Mapping[str, Any]) -> None:
    say(f"{title(facts)}, on {plan.backend.name} ({plan.device})")
    say(str(plan))
