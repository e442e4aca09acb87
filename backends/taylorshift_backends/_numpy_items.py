"""What a step hands to the crew: operands as matrices, options, and as items the heads or parts of them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_threads import crew, n_threads

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any
_WORTH_A_THREAD = 400_000  # multiplications: below it, a thread is not waited for
SHORTEST_PART = 256  # tokens of an item that are worth its beginning, if a thread has nothing to do otherwise
SHORTEST_SUM = 512  # tokens of one that takes or gives a state
_ITEMS = 4  # of a job for each thread, where heads are few: a thread may come late
_LONG = 8  # shortest parts in one of so many: each begins with a state to take, or zeros to write
_WHOLE = 48  # tokens: parts end behind whole blocks of all kernels
_BOOL = np.dtype(np.bool_)
_EVERYTHING = np.empty((1, 0), np.bool_)
# The numbers in the operand of options.
NORMALISE, BETA, GAMMA, MEAN_SIZE_ONE, KEEP, PARTS = range(6)


def threads_for(work: int) -> int:
    """Return how many threads so many multiplications are worth."""
    return 1 if work < 2 * _WORTH_A_THREAD else min(n_threads(), work // _WORTH_A_THREAD)


def parts_for(heads: int, length: int, threads: int, shortest: int) -> int:
    """Return in how many parts the tokens of each head are taken, so that all threads have as much work."""
    if threads == 1 or heads >= _ITEMS * threads:
        return 1
    fair = threads // math.gcd(heads, threads)
    times = min(_ITEMS * threads // (max(heads, 1) * fair), length // (_LONG * shortest * fair))
    return max(1, min(fair * max(1, times), length // shortest))


def do(
    job: Any, items: int, threads: int, leading: tuple[int, ...], operands: tuple[Array, ...], options: Array,
    *results: Array,
) -> None:  # fmt: skip
    """Have a job done for matrices of operands whose leading axes broadcast, with options, to results."""
    dtype, others = results[0].dtype, (options, *results)
    found, shares = zip(*[_matrices(each, leading, dtype) for each in operands], strict=True)
    crew().do(job(dtype), items, threads, (*found, *others), (*shares, *[1] * len(others)))


def _matrices(array: Array, leading: tuple[int, ...], dtype: Any) -> tuple[Array, int]:
    """Return an array as (matrices, rows, columns), contiguous, and how many heads in a row share a matrix."""
    own = array.shape[:-2]
    share = 1 if own == leading else _shared(own, leading)
    if not share:
        array, own, share = np.broadcast_to(array, (*leading, *array.shape[-2:])), leading, 1
    found = array if len(own) == 1 else array.reshape((math.prod(own), *array.shape[-2:]))
    if found.dtype not in (dtype, _BOOL) or not found.flags.c_contiguous:
        found = np.ascontiguousarray(found, _BOOL if found.dtype == _BOOL else dtype)
    return found, share


@lru_cache(maxsize=1024)
def _shared(own: tuple[int, ...], leading: tuple[int, ...]) -> int:
    """Return how many heads in a row share a matrix of leading axes `own`, 0 where they do not lie in a row."""
    full = (1,) * (len(leading) - len(own)) + own
    last = next((i for i in reversed(range(len(full))) if full[i] != 1), -1) + 1
    first = next((i for i in range(last) if full[i] != 1), last)
    return math.prod(leading[last:]) if full[first:last] == leading[first:last] else 0


def kept_of(mask: Array | None) -> Array:
    """Return which keys are attended, (..., 1, tokens), or no columns for all of them."""
    return _EVERYTHING if mask is None else np.swapaxes(mask, -1, -2)


def n_columns_of(run: Run, value_dim: int) -> int:
    """Return how many columns outputs have: what gradients need is kept behind them."""
    return value_dim + run.keep + (run.keep and run.mean_size_one)


def options_of(run: Run, parts: int) -> Array:
    """Return the operand of options."""
    weighting = run.weighting
    numbers = weighting.normalise, weighting.beta, weighting.gamma, run.mean_size_one, run.keep, parts
    return np.asarray(numbers, np.float64).reshape((1, 1, -1))


@compiled
def part_of_triangle_at(item: int, parts: int, length: int) -> tuple[int, int, int]:
    """Return the same where a token meets those up to its own: parts that make about as many scores."""
    head, part, blocks = item // parts, item % parts, -(-length // _WHOLE)
    first, last = blocks * math.sqrt(part / parts), blocks * math.sqrt((part + 1) / parts)
    return head, min(round(first) * _WHOLE, length), min(round(last) * _WHOLE, length)


@compiled
def part_at(item: int, parts: int, length: int) -> tuple[int, int, int]:
    """Return the head of an item, and the first token of its part and the one behind the last."""
    head, part, blocks = item // parts, item % parts, -(-length // _WHOLE)
    return head, min(blocks * part // parts * _WHOLE, length), min(blocks * (part + 1) // parts * _WHOLE, length)
