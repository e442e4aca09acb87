"""``taylorshift``: both forms on a real text, on every backend installed: time, memory, error, and which is chosen."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taylorshift_core import crossover_length, explain
from taylorshift_core.cli import _picture
from taylorshift_core.cli._answer import Answer
from taylorshift_core.cli._backends import absences, find_backends, say_absent
from taylorshift_core.cli._console import progress, say, show_table
from taylorshift_core.cli._format import duration, memory
from taylorshift_core.cli._measure import FORMS, measure
from taylorshift_core.cli._output import check_output
from taylorshift_core.cli._parser import Parser, at_least, positive
from taylorshift_core.cli._plans import facts_of, say_choices
from taylorshift_core.cli._reference import definition
from taylorshift_core.cli._text import project, read_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

EXAMPLES = (
    ("taylorshift --tokens 1000 --backend numpy", "the first 1000 bytes, on one backend"),
    ("taylorshift demo --tokens 500 --heads 2 --head-dim 16 --backend numpy --json", "other sizes, for programs"),
    ("taylorshift --tokens 500 --backend numpy --save-plot picture.png", "with a picture of what attends to what"),
)
_ABOUT = """Attend to a real text in both forms on every backend installed, and print what that takes.

Each byte of the text is a token: a random vector of heads * head_dim entries, to which sines and cosines of its
position are added. Every head sees random projections of these, one for queries and keys and one for values; --seed
draws them all. Time is the median of several runs, after a first one that does not count; memory is the most that is
held beyond input and output, watched in a run that is not timed; the error is the largest difference from the
definition in float64 on the same float32 input, relative to the largest output."""


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "demo", help="both forms on a real text (what runs without a command)", description=_ABOUT
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="any file (default: Python's language reference)")
    parser.add_argument(
        "--tokens", type=positive, default=4096, help="bytes taken from its start (default: %(default)s)"
    )
    parser.add_argument("--heads", type=positive, default=8, help="default: %(default)s")
    parser.add_argument("--head-dim", type=positive, default=32, help="default: %(default)s")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the projections (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=positive, default=5, help="timed runs, three where they are slow (default: %(default)s)"
    )
    parser.add_argument("--backend", action="append", metavar="NAME", help="repeatable (default: all installed)")
    parser.add_argument(
        "--save-plot", type=Path, metavar="FILE.png", help="draw the attention map and time over length"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing picture")
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Measure, and draw the picture."""
    if arguments.save_plot is not None:
        check_output(arguments.save_plot, _picture.SUFFIXES, force=arguments.force)
        _picture.check_matplotlib("--save-plot")
    backends, absent = find_backends(arguments.backend)
    text = read_text(arguments.text, arguments.tokens)
    arrays = project(text.content, arguments.heads, arguments.head_dim, arguments.seed)
    repeats, drawn = arguments.repeats, arguments.save_plot is not None
    n_drawn = _picture.n_steps(len(text.content), repeats) if drawn else 0
    with progress(steady=True) as bar:
        n_steps = arguments.heads + len(backends) * len(FORMS) * (repeats + 1) + n_drawn
        task = bar.add_task("measuring", total=n_steps)
        advance = partial(bar.update, task, advance=1, refresh=True)
        reference = definition(*arrays, advance)
        measured = [measure(each, arrays, form, reference, repeats, advance) for each in backends for form in FORMS]
        times = _picture.measure_times(arrays, backends[0], repeats, advance) if drawn else None
    if times is not None:
        _picture.save(arguments.save_plot, text, arrays, times)
    plans = {backend.name: explain(*map(backend.from_numpy, arrays)) for backend in backends}
    facts = {
        "text": text.source,
        "tokens": len(text.content),
        "heads": arguments.heads,
        "head_dim": arguments.head_dim,
        "dtype": "float32",
        "crossover_tokens": crossover_length(arguments.head_dim),
        "measurements": [
            each.facts | {"relative_error": each.error, "chosen": plans[each.backend].form == each.form}
            for each in measured
        ],
        "auto_plans": [facts_of(plan) for plan in plans.values()],
        "absent": absences(absent),
        "picture": None if times is None else str(arguments.save_plot),
    }
    return Answer(facts, _show)


def _show(facts: Mapping[str, Any]) -> None:
    show_table(
        "{tokens} bytes of {text}: {heads} heads, head_dim {head_dim}, {dtype}".format_map(facts),
        ("backend", "form", "chosen", "time (median)", "range", "peak temporary memory", "largest error"),
        [_row(**each) for each in facts["measurements"]],
        left=3,
    )
    say("Memory is beyond input and output; errors are relative to the largest output of the definition in float64.")
    say_choices(facts["auto_plans"])
    say(
        f"At head_dim {facts['head_dim']} the efficient form takes fewer operations from {facts['crossover_tokens']} tokens."
    )
    say_absent(facts["absent"])
    if facts["picture"] is not None:
        say(f"Picture: {facts['picture']}")


def _row(
    backend: str,
    form: str,
    *,
    chosen: bool,
    runs_seconds: Sequence[float],
    median_seconds: float,
    temporary_bytes: int | None,
    relative_error: float,
) -> tuple[str, ...]:
    return (
        backend,
        form,
        "yes" if chosen else "no",
        duration(median_seconds),
        duration(min(runs_seconds), max(runs_seconds)),
        memory(temporary_bytes),
        f"{relative_error:.1e}",
    )
