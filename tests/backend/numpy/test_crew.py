"""Threads of compiled steps: every item done once, whoever calls, whoever sleeps, and after a fork."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_attention
from count_items import ITEMS, done
from problems import Problem

from taylorshift_backends import _numpy_crew, _numpy_steps
from taylorshift_backends._numpy_crew import Crew, operand, operands_at
from taylorshift_backends._numpy_jit import job
from taylorshift_core import attention

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Library


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """A crew of its own, for as many threads as are asked for."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    crew = Crew()
    yield crew
    crew.stop()


@pytest.mark.parametrize("threads", [1, 2, 4, 9])
def test_every_item_is_done_once(crew: Crew, threads: int) -> None:
    for _ in range(500):
        np.testing.assert_array_equal(done(crew, threads), 1)


def test_workers_that_sleep_are_woken(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_numpy_crew, "_WATCH", 0.0)
    seen = set()
    for _ in range(50):
        np.testing.assert_array_equal(done(crew, 3), 1)
        time.sleep(0.002)
        seen.add(tuple(crew.asleep()))
    assert (True, True) in seen


def test_how_long_a_worker_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment is as long as it takes undisturbed: not as the first, which compiles, nor as while others have the processor."""
    now, passed, interruptions = 0.0, 0, iter([1.0, 0.25, 0.0, 0.25, 0.25])

    def pass_on(moments: int) -> None:
        nonlocal now, passed
        now += moments * 2.0**-20 + next(interruptions)
        passed += moments

    monkeypatch.setattr(_numpy_crew, "_pass", pass_on)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert _numpy_crew.moments_of(2.0**-10) == 1 + 2**10
    assert passed * 2.0**-20 < 2.0**-10


def test_a_clock_that_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse one may not have, between two looks: then a moment counts as a nanosecond."""
    monkeypatch.setattr(time, "perf_counter", lambda: 5.0)
    assert _numpy_crew.moments_of(1e-3) == 1 + 10**6


def test_several_callers_at_once(crew: Crew) -> None:
    found: list[np.ndarray] = []

    def call() -> None:
        found.extend(done(crew, 3) for _ in range(200))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    np.testing.assert_array_equal(found, np.ones((800, ITEMS)))


def test_the_caller_is_helped(crew: Crew) -> None:
    """An item waits for one on another thread: alone it would wait for ever."""
    meeting = np.zeros((2, 1, 8), np.int64)
    crew.do(_meet_another(meeting.dtype), 2, 2, (meeting,), (2,))
    assert meeting[0, 0, 0] == 2


@job
def _meet_another(kind: Any) -> Any:
    def meet_another(address: int, item: int) -> None:
        place = operand(operands_at(address), 0, item, kind)[0]
        _numpy_crew.add(place, 0, 1)
        while _numpy_crew.load(place, 0) < 2:
            _numpy_crew.relax()

    return meet_another


def test_threads_end(crew: Crew) -> None:
    done(crew, 3)
    mine = [each for each in threading.enumerate() if each in crew.threads]
    assert len(mine) == 2
    crew.stop()
    for each in mine:
        each.join(timeout=10)
    assert not any(each.is_alive() for each in mine)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_a_fork() -> None:
    """The child has none of the threads, and starts its own."""
    x = np.random.default_rng(0).standard_normal((4, 2500, 16), dtype=np.float32)
    expected = attention(x, x, x, form="efficient")
    child = os.fork()
    if child == 0:
        same = np.array_equal(attention(x, x, x, form="efficient"), expected)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("form", ["direct", "efficient"])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (6, 2)])
def test_parts_of_heads(
    library: Library, monkeypatch: pytest.MonkeyPatch, heads: int, kv_heads: int, threads: int, form: str
) -> None:
    """However many threads there are, and however a head is parted among them."""
    for name in ("SHORTEST_PART", "SHORTEST_SUM"):
        monkeypatch.setattr(_numpy_steps, name, 32)
    monkeypatch.setattr(_numpy_steps, "threads_for", lambda _work: threads)
    problem = Problem(1000, 1203, 8, 5, heads=heads, kv_heads=kv_heads, key_mask="batch, heads", normalise_output=True)
    assert_attention(library, "float64", problem, form)


@pytest.mark.parametrize("length", [2000, 4096, 20_000, 100_000])
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 7])
def test_threads_have_as_much_work(heads: int, threads: int, length: int) -> None:
    """Each thread takes the next item when it has done one: none is left with more than a tenth above the mean."""
    parts = _numpy_steps.parts_for(heads, length, threads, _numpy_steps.SHORTEST_SUM)
    taken, seen = [0] * threads, 0
    for item in range(heads * parts):
        head, begin, end = _numpy_steps.part_at(item, parts, length)
        assert head * length + begin == seen
        seen = head * length + end
        taken[taken.index(min(taken))] += end - begin
    assert seen == heads * length
    assert max(taken) <= 1.1 * seen / threads
