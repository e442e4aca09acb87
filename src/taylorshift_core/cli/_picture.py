"""The picture of the demonstration: what is measured for it, and the file it goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import attention_weights, crossover_length
from taylorshift_core.cli._errors import CommandError
from taylorshift_core.cli._measure import FORMS, runner, time_runs
from taylorshift_core.cli._output import replacing
from taylorshift_core.cli._plots import Times, draw, stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from taylorshift_core import Backend
    from taylorshift_core.cli._text import Text

    Array = np.ndarray[Any, Any]

SUFFIXES = (".png", ".svg", ".pdf")
_SHORTEST, _POINTS = 128, 6  # of the curve of time against length
_HEAD = 0


def check_matplotlib(wanted: str) -> None:
    """Raise unless pictures can be drawn, for what is `wanted`; asked before any work."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        msg = f'{wanted} needs matplotlib; install it with: pip install "taylorshift-core[cli]"'
        raise CommandError(msg) from error


def n_steps(length: int, repeats: int) -> int:
    """Return how many runs are timed for a picture."""
    return len(_lengths(length)) * len(FORMS) * repeats


def save(path: Path, text: Text, arrays: Sequence[Array], times: Times) -> None:
    """Draw the attention map of a stretch of the text, and the times beside it."""
    where = stretch(text.content)
    query, key = (array[_HEAD, where] for array in arrays[:2])
    with replacing(path) as part:
        figure = draw(attention_weights(query, key), text.content[where], times)
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=150)


def measure_times(arrays: Sequence[Array], backend: Backend, repeats: int, advance: Callable[[], None]) -> Times:
    """Time both forms at several lengths on a backend."""
    lengths = _lengths(arrays[0].shape[1])
    seconds: dict[str, list[list[float]]] = {form: [] for form in FORMS}
    for length in lengths:
        for form in FORMS:
            run = runner(backend, [array[:, :length] for array in arrays], form=form)
            run()  # compiles where a library compiles
            seconds[form].append(time_runs(run, repeats, advance))
    return Times(backend.name, lengths, seconds, crossover_length(arrays[0].shape[-1]))


def _lengths(length: int) -> list[int]:
    first = min(_SHORTEST, max(1, length // 32))
    return sorted({round(each) for each in np.geomspace(first, length, _POINTS)})
