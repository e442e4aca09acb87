"""``taylorshift``: both forms on a real text, on every backend installed: time, memory, error, and which is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from taylorshift_core import crossover_length, explain
from taylorshift_core.cli import _picture
from taylorshift_core.cli._backends import find_backends
from taylorshift_core.cli._console import progress, say, show_table
from taylorshift_core.cli._format import duration, memory
from taylorshift_core.cli._measure import FORMS, Measurement, measure
from taylorshift_core.cli._output import check_output
from taylorshift_core.cli._parser import Parser, at_least, positive
from taylorshift_core.cli._reference import definition
from taylorshift_core.cli._text import Text, project, read_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    import numpy as np

    from taylorshift_core import Backend

    Array = np.ndarray[Any, Any]

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


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and draw the picture."""
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

        def advance() -> None:
            bar.update(task, advance=1, refresh=True)

        reference = definition(*arrays, advance)
        measured = [measure(each, arrays, form, reference, repeats, advance) for each in backends for form in FORMS]
        times = _picture.measure_times(arrays, backends[0], repeats, advance) if drawn else None
    _print(text, arrays, backends, measured, absent)
    if times is not None:
        _picture.save(arguments.save_plot, text, arrays, times)
        say(f"Picture: {arguments.save_plot}")
    return 0


def _print(
    text: Text,
    arrays: Sequence[Array],
    backends: Sequence[Backend],
    measured: Sequence[Measurement],
    absent: Mapping[str, str],
) -> None:
    heads, length, head_dim = arrays[0].shape
    plans = {backend.name: explain(*map(backend.from_numpy, arrays)) for backend in backends}
    show_table(
        f"{length} bytes of {text.source}: {heads} heads, head_dim {head_dim}, float32",
        ("backend", "form", "chosen", "time (median)", "range", "peak temporary memory", "largest error"),
        [_row(each, chosen=plans[each.backend].form == each.form) for each in measured],
        left=3,
    )
    say("Memory is beyond input and output; errors are relative to the largest output of the definition in float64.")
    for choice in dict.fromkeys((plan.form, plan.reason) for plan in plans.values()):
        where = ", ".join(name for name, plan in plans.items() if (plan.form, plan.reason) == choice)
        say(f'On {where} form="auto" takes the {choice[0]} form: {choice[1]}.')
    say(f"At head_dim {head_dim} the efficient form takes fewer operations from {crossover_length(head_dim)} tokens.")
    if absent:
        groups = {reason: [name for name in absent if absent[name] == reason] for reason in absent.values()}
        names = ", ".join(f"{', '.join(group)} ({reason})" for reason, group in groups.items())
        say(f"Not measured: {names}. `taylorshift info` says what to install.")


def _row(measured: Measurement, *, chosen: bool) -> tuple[str, ...]:
    return (
        measured.backend,
        measured.form,
        "yes" if chosen else "no",
        duration(measured.median),
        duration(min(measured.seconds), max(measured.seconds)),
        memory(measured.temporary),
        f"{measured.error:.1e}",
    )
