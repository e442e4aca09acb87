"""``taylorshift bench``: both forms of one problem on the backends installed, beside what was predicted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from taylorshift_core.cli._answer import Answer
from taylorshift_core.cli._asked import add_options, asked_by, title
from taylorshift_core.cli._backends import absences, find_backends, say_absent
from taylorshift_core.cli._console import progress, say, show_table
from taylorshift_core.cli._format import duration, memory
from taylorshift_core.cli._measure import FORMS, draw, measure
from taylorshift_core.cli._parser import positive
from taylorshift_core.cli._plans import facts_of, say_choices

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from taylorshift_core.cli._parser import Parser

EXAMPLES = (
    ("taylorshift bench --query 4x512x32", "both forms on every backend installed"),
    ("taylorshift bench --query 4x512x32 --backend numpy --causal --json", "one backend, causal, for programs"),
    ("taylorshift bench --query 2x4096x16 --backend numpy --form efficient", "one form, where the other takes long"),
)
_ABOUT = """Measure one problem, of random numbers: both forms, on every backend installed, beside what is predicted.

Time is the median of several runs, after a first one that does not count; memory is the most that is held beyond input
and output, watched in a run that is not timed. Predictions are those of `taylorshift explain`; where they are far off,
`taylorshift calibrate` measures this machine. Nothing else should be running."""


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    parser = commands.add_parser("bench", help="time and memory of one problem, measured", description=_ABOUT)
    add_options(parser)
    parser.add_argument("--backend", action="append", metavar="NAME", help="repeatable (default: all installed)")
    parser.add_argument("--form", choices=FORMS, help="default: both")
    parser.add_argument(
        "--repeats", type=positive, default=9, help="timed runs, three where they are slow (default: %(default)s)"
    )
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Measure."""
    asked = asked_by(arguments)
    backends, absent = find_backends(arguments.backend, asked.dtype)
    auto = {backend.name: asked.plan(backend) for backend in backends}
    pairs = [(backend, form) for backend in backends for form in ((arguments.form,) if arguments.form else FORMS)]
    plans = [asked.plan(backend, form) for backend, form in pairs]
    arrays = draw(asked.shapes, asked.dtype)
    measured = []
    with progress(steady=True) as bar:
        task = bar.add_task("measuring", total=len(pairs) * (arguments.repeats + 1))
        advance = partial(bar.update, task, advance=1, refresh=True)
        for backend, form in pairs:
            bar.update(task, description=f"{backend.name} {form}", refresh=True)
            measured.append(measure(backend, arrays, form, None, arguments.repeats, advance, **asked.options))
    facts: dict[str, Any] = {
        "measurements": [
            each.facts | {"chosen": auto[each.backend].form == each.form, "plan": facts_of(plan)}
            for each, plan in zip(measured, plans, strict=True)
        ],
        "auto_plans": [facts_of(plan) for plan in auto.values()],
        "absent": absences(absent),
    }
    return Answer(asked.facts | facts, _show)


def _show(facts: Mapping[str, Any]) -> None:
    columns = ("backend", "form", "chosen", "time (median)", "range", "predicted", "peak temporary memory", "predicted")
    show_table(title(facts), columns, [_row(**each) for each in facts["measurements"]], left=3)
    say("Memory is beyond input and output.")
    say_choices(facts["auto_plans"])
    say_absent(facts["absent"])


def _row(
    backend: str,
    form: str,
    *,
    chosen: bool,
    runs_seconds: Sequence[float],
    median_seconds: float,
    temporary_bytes: int | None,
    plan: Mapping[str, Any],
) -> tuple[str, ...]:
    return (
        backend,
        form,
        "yes" if chosen else "no",
        duration(median_seconds),
        duration(min(runs_seconds), max(runs_seconds)),
        duration(plan["predicted_seconds"]),
        memory(temporary_bytes),
        memory(plan["temporary_bytes"]),
    )
