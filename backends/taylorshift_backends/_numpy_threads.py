"""Our own threads for NumPy, with BLAS held to one thread each meanwhile.

As many threads as BLAS was going to use, so OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and threadpool_limits are honoured.
Calls may come from several threads at once, from inside a job (which then runs where it is) and after a fork. Without
threadpoolctl there is no way to hold BLAS, and jobs run one after the other.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

try:
    from threadpoolctl import ThreadpoolController
except ImportError:
    ThreadpoolController = None

from taylorshift_backends._numpy_team import find_team
from taylorshift_core.loops import most_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from taylorshift_backends._numpy_crew import Crew
    from taylorshift_backends._numpy_team import Team

_inside = contextvars.ContextVar("inside a job", default=False)


class _Blas:
    """The number of threads of BLAS, held at one while any call of ours is at work."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.before: list[int] = []
        found = ThreadpoolController().select(user_api="blas").lib_controllers if ThreadpoolController else []
        self.libraries = list(found)

    def n_threads(self) -> int:
        """Return how many threads BLAS would use on its own."""
        with self.lock:
            now: list[int] = self.before if self.holders else [each.get_num_threads() for each in self.libraries]
        return max(1, min(now, default=1))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold BLAS at one thread; the last to leave puts back what the first found."""
        with self.lock:
            if self.holders == 0:
                self.before = [library.get_num_threads() for library in self.libraries]
                self._set([1] * len(self.libraries))
            self.holders += 1
        try:
            yield
        finally:
            with self.lock:
                self.holders -= 1
                if self.holders == 0:
                    self._set(self.before)

    def _set(self, numbers: Sequence[int]) -> None:
        for library, number in zip(self.libraries, numbers, strict=True):
            library.set_num_threads(number)


class _Pool:
    """Threads that are started at the first need, and again after a fork."""

    def __init__(self, *, forked: bool = False) -> None:
        self.forked = forked
        self.lock = threading.Lock()
        self.executor: ThreadPoolExecutor | None = None

    @cached_property
    def blas(self) -> _Blas:
        """The libraries of BLAS; looked for at the first need, when all are loaded."""
        return _Blas()

    @cached_property
    def crew(self) -> Crew:
        """The threads of compiled steps."""
        from taylorshift_backends._numpy_crew import Crew  # noqa: PLC0415  numba takes half a second to import

        crew = Crew()
        atexit.register(crew.stop)
        return crew

    @cached_property
    def team(self) -> Team | None:
        """The threads of PyTorch, if it has any: those of OpenMP are not there after a fork, and would be waited for."""
        return None if self.forked else find_team("torch")

    def submit(self, function: Callable[..., None], *arguments: Any) -> Any:
        with self.lock:
            if self.executor is None:
                self.executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="taylorshift")
            return self.executor.submit(function, *arguments)


_pool = _Pool()


def _start_afresh() -> None:
    """Forget threads and locks that did not come along into a forked process."""
    blas = _pool.__dict__.pop("blas", None)
    for name in ("crew", "team"):
        _pool.__dict__.pop(name, None)
    held = blas.before if blas and blas.holders else []
    _pool.__init__(forked=True)  # type: ignore[misc]  # in place: other modules hold no part of it
    if held:
        _pool.blas._set(held)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


def crew() -> Crew:
    """Return the threads of compiled steps; they have PyTorch's at hand as soon as it is imported."""
    found = _pool.crew
    if "torch" in sys.modules:
        found.team = _pool.team
    return found


def one_thread_each() -> AbstractContextManager[None]:
    """Return a context in which a product of BLAS stays on its thread, as in a job: small ones are slower shared out."""
    return _pool.blas.held()


def n_threads() -> int:
    """Return how many jobs run side by side: 1 inside a job."""
    if _inside.get():
        return 1
    most, own = most_threads.get(), _pool.blas.n_threads()
    return own if most is None else min(most, own)


def run_jobs(job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], threads: int) -> list[Any]:
    """Return ``job(*each)`` of all arguments, in their order; the first error is raised when all threads have stopped."""
    threads = min(threads, len(arguments))
    if threads < 2:
        return [job(*each) for each in arguments]
    results: list[Any] = [None] * len(arguments)
    waiting = deque(range(len(arguments)))

    def work() -> None:
        _inside.set(True)
        while waiting:
            try:
                i = waiting.popleft()
            except IndexError:
                return
            results[i] = job(*arguments[i])

    with _pool.blas.held():
        others = [_pool.submit(contextvars.copy_context().run, work) for _ in range(threads - 1)]
        try:
            contextvars.copy_context().run(work)
        finally:
            waiting.clear()
            errors = [other.exception() for other in others]
    for error in filter(None, errors):
        raise error
    return results
