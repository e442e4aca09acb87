"""``taylorshift report``: the paper's analysis, measured on this machine, as one HTML file."""

from __future__ import annotations

import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taylorshift_core._calibration import cache_file
from taylorshift_core.cli._answer import Answer
from taylorshift_core.cli._backends import find_backends
from taylorshift_core.cli._console import progress, say
from taylorshift_core.cli._errors import CommandError
from taylorshift_core.cli._measure import FORMS
from taylorshift_core.cli._output import check_output, replacing
from taylorshift_core.cli._parser import Parser, positive
from taylorshift_core.cli._picture import check_matplotlib
from taylorshift_core.cli.figures import NAMES
from taylorshift_core.cli.figures.effort import FULL, QUICK

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.effort import Effort
    from taylorshift_core.cli.figures.figure import Measured

EXAMPLES = (
    ("taylorshift report --quick", "a first look, opened in the browser"),
    ("taylorshift report --only weight --only maps", "some of the figures"),
    ("taylorshift report --quick --output report.html --no-open", "a file to send to somebody"),
)
_ABOUT = """Measure the figures of the paper on this machine, and write them as one HTML file that needs no other.

The weight function, attention maps, crossovers counted and measured, time and memory against length, heads, rounding
errors, sizes of intermediate results, the roofline, decoding, every library installed, and training. It takes less than five minutes,
with --quick less than one. What is compiled the first time is compiled before; what does not fit into --seconds is left out, and
the figure says so."""


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    parser = commands.add_parser("report", help="the paper's figures, measured on this machine", description=_ABOUT)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements, in under a minute")
    parser.add_argument(
        "--only", action="append", choices=NAMES, metavar="NAME", help=f"repeatable: {', '.join(NAMES)} (default: all)"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        help=f"for all measurements (default: {FULL.seconds:.0f}, or {QUICK.seconds:.0f} with --quick)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", help="default: report.html in the user's cache folder, opened"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing output")
    parser.add_argument("--no-open", action="store_true", help="do not open it in the browser")
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Measure, write the page, and open it."""
    path = _output(arguments)
    check_matplotlib("the report")
    found = _write(path, arguments.only or NAMES, _effort(arguments), quick=arguments.quick)
    opened = not arguments.no_open and webbrowser.open(path.resolve().as_uri())
    if not arguments.no_open and not opened:
        sys.stderr.write("taylorshift: no browser was found to open the report in\n")
    figures = [
        {"figure": each.figure.name, "finding": each.finding, "measured": each.done, "planned": each.planned}
        for each in found
    ]
    return Answer({"report": str(path), "opened": opened, "figures": figures}, _show)


def _show(facts: Mapping[str, Any]) -> None:
    say(f"Report: {facts['report']}")


def _output(arguments: argparse.Namespace) -> Path:
    if arguments.output is not None:
        path: Path = arguments.output
        check_output(path, (".html", ".htm"), force=arguments.force)
        return path
    beside = cache_file()
    if beside is None:
        msg = "platformdirs is needed to find the user's cache folder: name a file with --output"
        raise CommandError(msg)
    beside.parent.mkdir(parents=True, exist_ok=True)
    return beside.with_name("report.html")


def _effort(arguments: argparse.Namespace) -> Effort:
    effort = QUICK if arguments.quick else FULL
    return effort if arguments.seconds is None else replace(effort, seconds=arguments.seconds)


def _bench(effort: Effort, names: Sequence[str]) -> Bench:
    """Return what the installed libraries can measure; they are loaded for the figure that shows them."""
    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.contestants import ours, softmax_in_numpy

    backends, _ = find_backends(None if "libraries" in names else ["numpy"])
    everyone = [ours(backend.name, form) for backend in backends for form in FORMS]
    contestants = [ours("numpy", "efficient"), ours("numpy", "direct"), softmax_in_numpy()]
    return Bench(effort, contestants, [*everyone, contestants[-1]])


def _write(path: Path, names: Sequence[str], effort: Effort, *, quick: bool) -> list[Measured]:
    from taylorshift_core.cli.figures import all_figures
    from taylorshift_core.cli.figures.page import page
    from taylorshift_core.cli.figures.survey import count_units, survey

    figures = [figure for figure in all_figures() if figure.name in names]
    bench = _bench(effort, names)
    with progress(steady=True) as bar:
        task = bar.add_task("measuring", total=count_units(figures, bench) + 1)

        def advance(name: str) -> None:
            bar.update(task, advance=1, description=name, refresh=True)

        found = survey(figures, bench, advance)
        command = f"taylorshift report{' --quick' if quick else ''} --only NAME"
        text = page(found, command)
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        advance("drawn")
    return found
