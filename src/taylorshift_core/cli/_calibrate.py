"""``taylorshift calibrate``: measure this machine, so that ``form="auto"`` chooses by its speeds."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import _calibration, explain
from taylorshift_core._plan import forget_prices
from taylorshift_core.cli._answer import Answer
from taylorshift_core.cli._backends import find_backends, has_dtype
from taylorshift_core.cli._console import progress, say, show_table
from taylorshift_core.cli._errors import CommandError
from taylorshift_core.cli._format import UNKNOWN
from taylorshift_core.cli._output import replacing
from taylorshift_core.cli._parser import Parser, positive
from taylorshift_core.cli._speeds import CASES, Speeds, measure_speeds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from taylorshift_core import Backend
    from taylorshift_core._calibration import Table

DTYPES = ("float32", "float64")
_HEAD_DIMS = (16, 32, 64)
EXAMPLES = (
    ("taylorshift calibrate", "every backend installed, in about 45 seconds"),
    ("taylorshift calibrate --backend numpy --seconds 120", "one backend alone, with more time"),
    ("taylorshift calibrate --output prices.json --json", "into a file to look at; what is used stays as it is"),
)
_ABOUT = """Measure both forms on the backends installed, and keep their speeds for this machine, where form="auto" finds
them. Without it, speeds measured on another machine decide.

The time is shared among backends and dtypes; one that is too slow for its share keeps the speeds it had. Give it
more with --backend NAME --seconds N: what the file holds of other backends stays. Nothing else should be running."""


def add_parser(commands: argparse._SubParsersAction[Parser]) -> Parser:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "calibrate", help='measure this machine, for the choice of form="auto"', description=_ABOUT
    )
    parser.add_argument("--backend", action="append", metavar="NAME", help="repeatable (default: all installed)")
    parser.add_argument("--seconds", type=positive, default=45, help="to measure in (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=positive, default=5, help="timed runs, three where they are slow (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"another file than the one that is used: {_calibration.FILE} in the user's cache folder",
    )
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Measure, and keep the prices."""
    path = arguments.output or _calibration.cache_file()
    if path is None:
        msg = (
            f"platformdirs is needed to find the user's cache folder: pip install platformdirs, "
            f"or name a folder in the environment variable {_calibration.VARIABLE}"
        )
        raise CommandError(msg)
    _check_writable(path)
    backends, _ = find_backends(arguments.backend)
    pairs = [(backend, dtype) for backend in backends for dtype in DTYPES if has_dtype(backend, dtype)]
    before = [_crossovers(*pair) for pair in pairs]
    measured = _measure(pairs, arguments.seconds, arguments.repeats)
    table = _kept(path) | {
        speeds.key: prices for speeds in measured if speeds.key is not None and (prices := speeds.prices()) is not None
    }
    write_prices(path, table)
    forget_prices()
    facts = {
        "measured": [
            {
                "backend": backend.name,
                "dtype": dtype,
                "problems": speeds.count,
                "relative_deviation": _deviation(speeds),
            }
            | {"crossovers": _changes(old, _crossovers(backend, dtype))}
            for (backend, dtype), speeds, old in zip(pairs, measured, before, strict=True)
        ],
        "file": str(path),
        "used": path == _calibration.cache_file(),
    }
    return Answer(facts, _show)


def _show(facts: Mapping[str, Any]) -> None:
    columns = ("backend", "dtype", "problems", "deviation", *(f"crossover, head_dim {d}" for d in _HEAD_DIMS))
    show_table("Speeds measured", columns, [_row(**each) for each in facts["measured"]], left=2)
    say("Deviation: of predicted from measured times, typically. Crossover: tokens of one head, before and now.")
    say(f"Kept in {facts['file']}" + ("" if facts["used"] else ", which is not where they are looked up"))


def _row(
    backend: str,
    dtype: str,
    problems: int,
    relative_deviation: float | None,
    crossovers: Sequence[Mapping[str, int | None]],
) -> tuple[str, ...]:
    changes = (f"{each['before_tokens'] or UNKNOWN} → {each['now_tokens'] or UNKNOWN}" for each in crossovers)
    if relative_deviation is None:
        return backend, dtype, f"{problems}, too few", UNKNOWN, *changes
    return backend, dtype, str(problems), f"{100 * relative_deviation:.0f} %", *changes


def write_prices(path: Path, table: Table) -> None:
    """Put prices into a file, at once or not at all: who reads meanwhile sees the old file or the new one."""
    prices: dict[str, Any] = {}
    for (backend, device, dtype), forms in sorted(table.items()):
        of_device = prices.setdefault(backend, {}).setdefault(device, {})
        of_device[dtype] = {form: asdict(forms[form]) for form in sorted(forms)}
    content = {"format": _calibration.FORMAT, "version": _calibration.VERSION, "machine": _calibration.machine()}
    with replacing(path) as part:
        part.write_text(json.dumps(content | {"prices": prices}, indent=1) + "\n", encoding="utf-8")


def _check_writable(path: Path) -> None:
    """Raise OSError before any measurement unless a file can be written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        msg = f"{path} is a folder, not a file to write to"
        raise CommandError(msg)
    with tempfile.NamedTemporaryFile(dir=path.parent):
        pass


def _kept(path: Path) -> Table:
    """Return the prices that are in the file already; a file that is no good is replaced."""
    try:
        return _calibration.read(path)
    except (OSError, _calibration.PricesError):
        return {}


def _measure(pairs: Sequence[tuple[Backend, str]], seconds: float, repeats: int) -> list[Speeds]:
    """Return what was measured of each backend in each dtype; what one leaves of its share goes to those behind it."""
    measured = []
    end = time.perf_counter() + seconds
    with progress(steady=True) as bar:
        task = bar.add_task("measuring", total=len(pairs) * len(CASES))
        for i, (backend, dtype) in enumerate(pairs):
            bar.update(task, description=f"{backend.name} {dtype}")
            now = time.perf_counter()
            until = now + (end - now) / (len(pairs) - i)
            advance = lambda: bar.update(task, advance=1, refresh=True)  # noqa: E731
            measured.append(measure_speeds(backend, dtype, CASES, repeats, until, advance))
    return measured


def _crossovers(backend: Backend, dtype: str) -> list[int | None]:
    return [explain(*[backend.from_numpy(np.zeros((1, 64, d), dtype))] * 3).crossover for d in _HEAD_DIMS]


def _changes(before: Sequence[int | None], now: Sequence[int | None]) -> list[dict[str, int | None]]:
    triples = zip(_HEAD_DIMS, before, now, strict=True)
    return [{"head_dim": d, "before_tokens": old, "now_tokens": new} for d, old, new in triples]


def _deviation(speeds: Speeds) -> float | None:
    """Return how well the prices that follow predict what was measured; None where it was too little for any."""
    prices = speeds.prices()
    return None if prices is None else speeds.deviation(prices)
