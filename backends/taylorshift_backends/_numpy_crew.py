"""Threads that do compiled work without the interpreter: handed over in a microsecond, where a pool in Python takes a hundred.

A job is compiled code, called by its address with the operands and the number of an item: a head, or a part of one. Who
hands a job out writes it on the board, does items itself, and waits for those that others have begun. A worker looks at
the board for a while after each job, then sleeps until the bell rings. One job is on the board at a time: another caller
meanwhile does his own alone, and so does who is not given more than one thread.

Where PyTorch is in the process, its threads are asked before the workers, see `_numpy_team`.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import literal_unroll

from taylorshift_backends._numpy_atomics import (
    add,
    array_at,
    call,
    call_in_team,
    load,
    relax,
    store,
    swap,
)
from taylorshift_backends._numpy_jit import called_by_address, compiled

if TYPE_CHECKING:
    from taylorshift_backends._numpy_team import Team

Array = Any
# Places on the board, each on a cache line of its own.
_TURN, _INSIDE, _NEXT, _TAKEN, _JOB, _ITEMS, _MOST, _STOP, _OPERANDS, _ENTERED, _ASLEEP = range(0, 88, 8)
_WORDS = 5  # of an operand: address, matrices, rows, columns, and heads in a row that share a matrix
_MOST_OPERANDS = 16
_WATCH = 0.0 if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" else 1e-3  # seconds, before a worker sleeps
_TRIALS, _TRIAL = 5, 100  # of the time that a moment takes: so many, of so many moments


@compiled
def operand(operands: Array, i: int, head: int, kind: Any) -> Array:
    """Return the matrix of an operand that belongs to a head."""
    at = i * _WORDS
    n, rows, columns, share = operands[at + 1], operands[at + 2], operands[at + 3], operands[at + 4]
    return array_at(operands[at], (n, rows, columns), kind)[head // share % n]


@compiled
def operands_at(address: int) -> Array:
    """Return what `operand` looks up, as a job is given it."""
    return array_at(address, (_MOST_OPERANDS * _WORDS,), np.int64)


@compiled
def _list(arrays: Any, shares: Any, operands: Array) -> None:
    place = 0
    for each in literal_unroll(arrays):
        operands[place] = each.ctypes.data
        operands[place + 1], operands[place + 2], operands[place + 3] = each.shape
        place += _WORDS
    for i in range(len(shares)):
        operands[i * _WORDS + 4] = shares[i]


@compiled
def _alone(job: int, items: int, arrays: Any, shares: Any) -> None:
    """Do all items of a job."""
    operands = np.empty(_MOST_OPERANDS * _WORDS, np.int64)
    _list(arrays, shares, operands)
    for item in range(items):
        call(job, operands.ctypes.data, item)


@compiled
def _write(board: Array, operands: Array, job: int, items: int, most: int, arrays: Any, shares: Any) -> bool:
    """Write a job on the board, unless another one is there."""
    if not swap(board, _TAKEN, 0, 1):
        return False
    _list(arrays, shares, operands)
    board[_OPERANDS] = operands.ctypes.data
    board[_JOB], board[_ITEMS], board[_MOST] = job, items, most
    store(board, _ENTERED, 0)
    store(board, _NEXT, 0)
    return True


@compiled
def _hand_out(board: Array, operands: Array, job: int, items: int, most: int, arrays: Any, shares: Any) -> bool:
    """Write a job on the board and show it to so many workers, unless another one is there."""
    if not _write(board, operands, job, items, most, arrays, shares):
        return False
    add(board, _TURN, 1)  # odd: there is a job
    return True


@compiled
def _do_in_team(
    board: Array, operands: Array, parallel: int, enter: int, job: int, items: int, most: int, arrays: Any, shares: Any
) -> bool:
    """Have a job done by so many threads of a team, unless another one is on the board."""
    if not _write(board, operands, job, items, most, arrays, shares):
        return False
    call_in_team(parallel, enter, board.ctypes.data)
    store(board, _TAKEN, 0)
    return True


@compiled
def _do_items(board: Array) -> None:
    while True:
        item = add(board, _NEXT, 1)
        if item >= board[_ITEMS]:
            return
        call(board[_JOB], board[_OPERANDS], item)


@called_by_address
def _enter(board: int) -> None:
    """Do items of a job, as one of the threads of a team: all of them come, and those that are too many leave."""
    here = array_at(board, (_ASLEEP,), np.int64)
    if add(here, _ENTERED, 1) < here[_MOST]:
        _do_items(here)


@compiled
def _finish(board: Array) -> None:
    """Do what is left, take the job off the board, and wait for who is still at it."""
    _do_items(board)
    add(board, _TURN, 1)
    while load(board, _INSIDE) > 0:
        relax()
    store(board, _TAKEN, 0)


@compiled
def _serve(board: Array, worker: int, moments: int) -> None:
    """Do items of jobs on the board, until there was none for so many moments."""
    seen, idle, asleep = 0, 0, _ASLEEP + 8 * worker
    while load(board, _STOP) == 0:
        turn = load(board, _TURN)
        if turn % 2 and turn != seen and worker < board[_MOST]:
            add(board, _INSIDE, 1)
            if load(board, _TURN) == turn:  # who finishes waits for those inside
                _do_items(board)
            add(board, _INSIDE, -1)
            seen, idle = turn, 0
        elif idle < moments:
            relax()
            idle += 1
        else:  # asleep: and only then a last look, so that a job is either seen here or its bell is heard
            store(board, asleep, 1)
            turn = load(board, _TURN)
            if turn % 2 == 0 or turn == seen or not swap(board, asleep, 1, 0):
                return
            idle = 0


@compiled
def _pass(moments: int) -> None:
    for _ in range(moments):
        relax()


def moments_of(seconds: float) -> int:
    """Return how many moments a worker passes in so many seconds, at least 1.

    The shortest trial counts: the first loads the code, or compiles it, and others may have had the processor in any. No
    moment is shorter than a nanosecond, but the clock may not have moved.
    """
    shortest = min(_seconds_of_trial() for _ in range(_TRIALS))
    return 1 + int(_TRIAL * seconds / max(shortest, 1e-9 * _TRIAL))


def _seconds_of_trial() -> float:
    start = time.perf_counter()
    _pass(_TRIAL)
    return time.perf_counter() - start


class Crew:
    """As many workers as were ever asked for, each a thread that starts at the first need; or a team, if it is as large."""

    def __init__(self) -> None:
        self.team: Team | None = None
        self.lock = threading.Lock()
        self.most = os.cpu_count() or 1  # threads; to ask for it each time takes as long as a small product
        self.board = np.zeros(_ASLEEP + 8 * self.most, np.int64)
        self.operands = np.zeros(_MOST_OPERANDS * _WORDS, np.int64)
        self.threads: list[threading.Thread] = []
        self.bells: list[threading.Semaphore] = []
        self.moments = 0

    def do(self, job: int, items: int, threads: int, arrays: tuple[Array, ...], shares: tuple[int, ...]) -> None:
        """Do all items of a job, on so many threads; arrays have three axes and are contiguous."""
        workers, memory = min(threads, items, self.most) - 1, (self.board, self.operands)
        if workers > 0 and self.team is not None and self.team.size() > workers:
            team = self.team.parallel, _enter.address
            if _do_in_team(*memory, *team, job, items, workers + 1, arrays, shares):
                return
        elif workers > 0 and _hand_out(*memory, job, items, workers, arrays, shares):
            try:
                self._wake(workers)
            finally:
                _finish(self.board)
            return
        _alone(job, items, arrays, shares)

    def asleep(self) -> list[bool]:
        """Tell of each worker whether it waits for its bell."""
        return [bool(self.board[_ASLEEP + 8 * worker]) for worker in range(len(self.threads))]

    def stop(self) -> None:
        """Let all workers end."""
        self.board[_STOP] = 1
        for bell in self.bells:
            bell.release()

    def _wake(self, workers: int) -> None:
        if len(self.threads) < workers:
            with self.lock, suppress(RuntimeError):  # the system may have no more threads to give
                while len(self.threads) < workers:
                    self._start(len(self.threads))
        for worker, asleep in enumerate(self.asleep()[:workers]):
            if asleep:
                self.board[_ASLEEP + 8 * worker] = 0
                self.bells[worker].release()

    def _start(self, worker: int) -> None:
        self.moments = self.moments or moments_of(_WATCH)
        bell = threading.Semaphore(0)
        thread = threading.Thread(target=self._work, args=(worker, bell), name=f"taylorshift-{worker}", daemon=True)
        thread.start()
        self.bells.append(bell)
        self.threads.append(thread)

    def _work(self, worker: int, bell: threading.Semaphore) -> None:
        while not self.board[_STOP]:
            _serve(self.board, worker, self.moments)
            bell.acquire()
            self.board[_ASLEEP + 8 * worker] = 0  # it may have been rung for twice
