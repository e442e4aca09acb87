"""Compiled work on the threads of OpenMP: every item once, as many threads as are asked for, and none after a fork."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sklearn.utils._openmp_helpers  # brings a runtime of OpenMP
from count_items import ITEMS, done
from threadpoolctl import ThreadpoolController, threadpool_limits

from taylorshift_backends import _numpy_crew, _numpy_team, _numpy_threads
from taylorshift_backends._numpy_crew import Crew, operand, operands_at
from taylorshift_backends._numpy_jit import job
from taylorshift_backends._numpy_team import find_team
from taylorshift_core import attention

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="OpenMP has this door on Linux only")
THREADS = 4


@job
def _count_those_inside(kind: Any) -> Any:
    """Write how many do an item at this moment, when as many as are wanted have come, or after a long while."""

    def count_those_inside(address: int, item: int) -> None:
        given = operands_at(address)
        here, wanted = operand(given, 0, 0, kind)[0], operand(given, 1, 0, kind)[0, 0]
        _numpy_crew.add(here, 0, 1)
        _numpy_crew.add(here, 1, 1)
        for _ in range(100_000):
            if _numpy_crew.load(here, 1) >= wanted:
                break
            _numpy_crew.relax()
        for _ in range(1000):  # others, if there are any, have time to come
            _numpy_crew.relax()
        operand(given, 2, item, kind)[0, 0] = _numpy_crew.load(here, 0)
        _numpy_crew.add(here, 0, -1)

    return count_those_inside


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """A crew with a team of THREADS, whatever the machine has."""
    monkeypatch.setattr(os, "cpu_count", lambda: THREADS)
    with threadpool_limits(THREADS, user_api="openmp"):
        crew = Crew()
        crew.team = find_team("sklearn")
        yield crew
        crew.stop()


@pytest.mark.parametrize("threads", [1, 2, THREADS, 9])
def test_every_item_is_done_once(crew: Crew, threads: int) -> None:
    for _ in range(200):
        np.testing.assert_array_equal(done(crew, threads), 1)
    assert not crew.threads


@pytest.mark.parametrize("threads", [2, 3, THREADS])
def test_so_many_threads_come_as_are_asked_for(crew: Crew, threads: int) -> None:
    done(crew, threads)  # an earlier job leaves nothing on the board
    here, wanted = np.zeros((1, 1, 2), np.int64), np.full((1, 1, 1), threads)
    inside = np.zeros((3 * THREADS, 1, 1), np.int64)
    crew.do(_count_those_inside(here.dtype), len(inside), threads, (here, wanted, inside), (1, 1, 1))
    assert inside.max() == threads
    assert not crew.threads


def test_several_callers_at_once(crew: Crew) -> None:
    found: list[np.ndarray] = []

    def call() -> None:
        found.extend(done(crew, THREADS) for _ in range(50))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    np.testing.assert_array_equal(found, np.ones((200, ITEMS)))


def test_a_team_that_is_too_small_is_not_asked(crew: Crew) -> None:
    with threadpool_limits(1, user_api="openmp"):
        np.testing.assert_array_equal(done(crew, 2), 1)
    assert len(crew.threads) == 1


def test_the_team_is_there_when_its_owner_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that imports PyTorch late, too."""
    monkeypatch.setattr(_numpy_threads, "_pool", _numpy_threads._Pool())
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert _numpy_threads.crew().team is None
    monkeypatch.setitem(sys.modules, "torch", sklearn)
    assert _numpy_threads.crew().team is not None


def test_the_runtime_beside_its_owner_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that which was loaded first."""
    (own,) = ThreadpoolController().select(prefix="libgomp", user_api="openmp").lib_controllers[:1]
    first = SimpleNamespace(
        filepath="/elsewhere/libgomp.so", dynlib=SimpleNamespace(GOMP_parallel=1), get_num_threads=int
    )
    both = SimpleNamespace(lib_controllers=[first, own])
    monkeypatch.setattr(_numpy_team, "ThreadpoolController", lambda: SimpleNamespace(select=lambda **_: both))
    owner = SimpleNamespace(__file__=str(Path(own.filepath).with_name("owner.py")))
    monkeypatch.setitem(sys.modules, "owner", owner)
    found = find_team("owner")
    assert found is not None
    assert found.size == own.get_num_threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of OpenMP did not come along, and its runtime would wait for them: the child starts its own."""
    monkeypatch.delitem(_numpy_threads._pool.__dict__, "team", raising=False)
    monkeypatch.setitem(sys.modules, "torch", sklearn)  # which may stand for it: it has such a runtime
    x = np.random.default_rng(0).standard_normal((4, 2500, 16), dtype=np.float32)
    expected = attention(x, x, x, form="efficient")
    assert _numpy_threads.crew().team is not None
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends it, if it waits
        os._exit(0 if np.array_equal(attention(x, x, x, form="efficient"), expected) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
