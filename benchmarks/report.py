"""The paper's analysis with its peers beside it: ``python benchmarks/report.py [--only NAME] [--quick] [--publish]``.

Writes .benchmarks/report.html, and keeps the numbers in .benchmarks/report.json, so that --only NAME measures one figure and
shows the others as they were. With --publish, the numbers go to benchmarks/results/report.json, and the page of the
documentation is made: docs/analysis.md and its pictures. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_decode import torch_cache
from bench_peak import beyond_inputs_and_output

from taylorshift_core import attention
from taylorshift_core.cli._console import progress
from taylorshift_core.cli.figures import NAMES, all_figures
from taylorshift_core.cli.figures.bench import Bench
from taylorshift_core.cli.figures.contestants import softmax_in_numpy
from taylorshift_core.cli.figures.decoders import DECODERS
from taylorshift_core.cli.figures.effort import FULL, QUICK
from taylorshift_core.cli.figures.figure import Measured
from taylorshift_core.cli.figures.page import alternative, caption, page
from taylorshift_core.cli.figures.render import png
from taylorshift_core.cli.figures.survey import count_units, survey
from taylorshift_core.cli.figures.theme import DARK, LIGHT
from taylorshift_core.cli.figures.trainers import TRAINERS
from taylorshift_core.cli.figures.turns import PAUSE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core.cli.figures.effort import Effort

ROOT = Path(__file__).parents[1]
FOLDER, RESULTS, DOCS = ROOT / ".benchmarks", ROOT / "benchmarks" / "results", ROOT / "docs"
PICTURES = Path("figures", "measured")  # inside DOCS
KEPT = "report.json"
COMMAND = "python benchmarks/report.py --only NAME"
SECONDS = 500  # peers take longer than we do
CURVES = ("numpy efficient", "numpy direct", "torch efficient", "torch SDPA", "published efficient (torch)")
_ABOUT = """The figures of the paper (Nauen, Palacio, Dengel, [TaylorShift](https://arxiv.org/abs/2403.02920), 2024) and
some more, measured on one machine, with peers beside them. Titles are made of the numbers measured.
`taylorshift report` measures them on yours; this page is made by"""
REMEMBERED = ("numpy efficient", "numpy direct", "torch SDPA", "published efficient (torch)")


def _with_gradient(function: Callable[..., Any], arrays: Sequence[Any]) -> Callable[[], Any]:
    """Return a forward and a backward pass of a function of PyTorch tensors; the value stands in for the gradient."""
    import torch

    inputs = [torch.from_numpy(array)[None].requires_grad_() for array in arrays]
    return lambda: torch.autograd.grad(function(*inputs), inputs, inputs[2].detach())


def bench(effort: Effort) -> Bench:
    """Return what measures: all backends, and the peers that are installed."""
    if str(ROOT / "tests") not in sys.path:  # where pytest finds the oracle by itself
        sys.path.append(str(ROOT / "tests"))
    from contestants import contestants, published, torch_sdpa

    everyone = (*contestants(), softmax_in_numpy())
    here = {each.name: each for each in everyone}
    trainers, decoders = dict(TRAINERS), dict(DECODERS)
    if "torch SDPA" in here:
        decoders["softmax, cache (PyTorch)"] = torch_cache
        trainers["torch SDPA"] = partial(_with_gradient, torch_sdpa)
        trainers["torch efficient"] = partial(_with_gradient, partial(attention, form="efficient"))
        trainers["published efficient (torch)"] = partial(_with_gradient, published)
    curves = [here[name] for name in CURVES if name in here]
    return Bench(effort, curves, everyone, beyond_inputs_and_output, REMEMBERED, decoders, trainers, PAUSE)


def measure(names: Sequence[str], effort: Effort) -> list[Measured]:
    """Return the figures of these names, measured now."""
    figures, by = [figure for figure in all_figures() if figure.name in names], bench(effort)
    with progress(steady=True) as bar:
        task = bar.add_task("measuring", total=count_units(figures, by))
        return survey(figures, by, lambda name: bar.update(task, advance=1, description=name, refresh=True))


def write_numbers(path: Path, found: Sequence[Measured]) -> None:
    """Put the numbers of figures into a file."""
    parts = ("rows", "done", "planned", "about", "when")
    numbers = {each.figure.name: {part: getattr(each, part) for part in parts} for each in found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(numbers) + "\n", encoding="utf-8")


def read_numbers(*paths: Path) -> list[Measured]:
    """Return what the first of the files that exists holds, in the order of the report."""
    path = next((path for path in paths if path.exists()), None)
    numbers = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    return [Measured(figure, **numbers[figure.name]) for figure in all_figures() if figure.name in numbers]


def publish(found: Sequence[Measured], docs: Path) -> None:
    """Write the page of the documentation and its pictures, for a light and a dark ground."""
    (docs / PICTURES).mkdir(parents=True, exist_ok=True)
    for each in found:
        for theme in (LIGHT, DARK):
            path = docs / PICTURES / f"{each.figure.name}-{theme.name}.png"
            png(path, each, theme, "\n".join(caption(each, COMMAND)))
    (docs / "analysis.md").write_text(markdown(found), encoding="utf-8")


def markdown(found: Sequence[Measured]) -> str:
    """Return the page of the documentation."""
    parts = [
        "# The paper's analysis, measured",
        _ABOUT,
        "```console\npython benchmarks/report.py --publish\n```",
    ]
    for each in found:
        parts += [
            f"(figure-{each.figure.name})=",
            f"## {each.finding}",
            *(_image(each, theme.name) for theme in (LIGHT, DARK)),
        ]
        *lines, again = caption(each, COMMAND)
        words, _, typed = again.partition(": ")
        parts += [each.figure.about, "  \n".join([*lines, f"{words}: `{typed}`"])]
    return "\n\n".join(parts) + "\n"


def _image(measured: Measured, ground: str) -> str:
    path = (PICTURES / f"{measured.figure.name}-{ground}.png").as_posix()
    text = alternative(measured).partition(". The numbers")[0]
    return f"```{{image}} {path}\n:alt: {text}\n:class: only-{ground}\n```"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for all figures (default: %(default)s)")
    parser.add_argument("--draw", action="store_true", help="measure nothing: draw what was measured before")
    parser.add_argument("--publish", action="store_true", help="write docs/analysis.md and its pictures as well")
    arguments = parser.parse_args()
    effort = replace(QUICK if arguments.quick else FULL, seconds=arguments.seconds)
    before = read_numbers(FOLDER / KEPT, RESULTS / KEPT) if arguments.draw or arguments.only else []
    new = [] if arguments.draw else measure(arguments.only or NAMES, effort)
    by_name = {each.figure.name: each for each in (*before, *new)}
    found = [by_name[name] for name in NAMES if name in by_name]
    write_numbers(FOLDER / KEPT, found)
    (FOLDER / "report.html").write_text(page(found, COMMAND), encoding="utf-8")
    if arguments.publish:
        write_numbers(RESULTS / KEPT, found)
        publish(found, DOCS)
    for each in found:
        print(f"{each.figure.name}: {each.finding}")


if __name__ == "__main__":
    main()
