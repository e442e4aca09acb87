"""Time, memory and error of one form on one backend."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import attention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core import Backend

    Array = np.ndarray[Any, Any]

FORMS = ("direct", "efficient")
_FEW = 64  # tokens: enough for every product to be met
_FEWEST, _ENOUGH = 3, 2.0  # runs, and seconds after which no more are needed
_NUMPY_INSIDE = ("array_api_strict",)  # tracemalloc sees the arrays of these libraries


@dataclass(frozen=True)
class Measurement:
    """What was measured; `temporary` in bytes beyond input and output, `error` relative to the largest output.

    Both are None where they are not known.
    """

    backend: str
    form: str
    seconds: Sequence[float]
    temporary: int | None
    error: float | None

    @property
    def median(self) -> float:
        """The median time of a run."""
        return statistics.median(self.seconds)

    @property
    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "backend": self.backend,
            "form": self.form,
            "runs_seconds": list(self.seconds),
            "median_seconds": self.median,
            "temporary_bytes": self.temporary,
        }


def draw(shapes: Sequence[Sequence[int]], dtype: str) -> tuple[Array, Array, Array]:
    """Return query, key and value of some shapes, of standard normal numbers that are the same each time."""
    rng = np.random.default_rng(0)
    wide = np.promote_types(dtype, np.float32)  # narrower ones are not drawn
    query, key, value = (rng.standard_normal(shape, wide).astype(dtype, copy=False) for shape in shapes)
    return query, key, value


def runner(backend: Backend, arrays: Sequence[Array], **options: Any) -> Callable[[], Any]:
    """Return a function without arguments that attends on a backend and waits for the result."""
    query, key, value = (backend.from_numpy(array) for array in arrays)
    options = {name: backend.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    return lambda: backend.wait(attention(query, key, value, **options))


def measure(
    backend: Backend,
    arrays: Sequence[Array],
    form: str,
    reference: Array | None,
    repeats: int,
    advance: Callable[[], None],
    **options: Any,
) -> Measurement:
    """Return the error, the memory and then, in runs of their own, the time of one form on one backend.

    There is no error where there is no reference to hold the result against.

    Memory is watched in the first run, before anything of its size is kept for the next one, and that run is not timed:
    watching takes time, and so does what a library compiles when it first sees a problem. What is compiled for any size
    is compiled before, by a call with a few tokens: it holds much memory, which is none of the call's. JAX compiles what is
    watched for that alone, so that one more run comes before those that are timed.
    """
    runner(backend, [array[..., :_FEW, :] for array in arrays], form=form, **options)()
    run = runner(backend, arrays, form=form, **options)
    result, temporary = watch(backend, run)
    run()
    error = None if reference is None else float(np.max(np.abs(result - reference)) / np.max(np.abs(reference)))
    advance()
    return Measurement(backend.name, form, time_runs(run, repeats, advance), temporary, error)


def time_runs(run: Callable[[], Any], repeats: int, advance: Callable[[], None]) -> list[float]:
    """Return the seconds that each run took; a slow one is repeated less often, but three times at least."""
    seconds: list[float] = []
    for n_done in range(repeats):
        if n_done < _FEWEST or sum(seconds) < _ENOUGH:
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        advance()
    return seconds


def watch(backend: Backend, run: Callable[[], Any]) -> tuple[Array, int | None]:
    """Return a result in NumPy and the most bytes that were held beyond it, None where nobody can tell."""
    if backend.peak_memory is not None:
        result, peak = backend.peak_memory(run)
    elif backend.name in _NUMPY_INSIDE:
        result, peak = _traced(run)
    else:
        return np.asarray(backend.to_numpy(run())), None
    array = np.asarray(backend.to_numpy(result))
    return array, max(0, peak - array.nbytes)


def _traced(run: Callable[[], Any]) -> tuple[Any, int]:
    tracemalloc.start()
    try:
        result = run()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
