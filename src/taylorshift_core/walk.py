"""Causal attention as one walk along a sequence: which keys meet a query by scores, and which through a state.

To sum a key to the state, or to read the state for a query, costs as many multiplications as some number of scores with
their values, `scores_of_a_state`. So the first queries meet the keys before them by scores, until a state is the
cheaper; and the last keys are not summed any more, since too few queries are left to read them. Up to about three and a
half times that number of tokens, all are met by scores, in either form.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

from taylorshift_core.features import n_features

_DEARER_BACK = 2.3  # the gradients of a state than as many of scores: about 3.3, 2.4 and 2.2 at the same
_DEARER = 1.07  # a multiplication of the state than one of a score: measured at head_dim 16, 32 and 64


def scores_of_a_state(width: int, columns: int) -> float:
    """Return how many scores cost what one token costs that is summed, or that reads: `columns` count that of ones."""
    return _DEARER * n_features(width) * columns / (width + columns)


def chunk_of_gradients(length: int, width: int, columns: int, tile: int, *, past: bool) -> int:
    """Return the tokens of a chunk, in gradients of all chunks at once: all tokens, where states cost more than scores.

    It has so many that its scores cost about a third of its state. That number is proportional to the size of a state
    over that of a token, so the states of all chunks take about as much memory as all tokens.
    """
    equal = scores_of_a_state(width, columns)
    chunk = max(tile // 2, round(1.5 * equal / tile) * tile)
    if not past and length <= 2 * _DEARER_BACK * equal + chunk:
        return length
    even = (length // n for n in range(max(1, length // (2 * chunk)), 2 * length // chunk + 1) if length % n == 0)
    return min(even, key=lambda each: abs(math.log(each / chunk)), default=min(chunk, length))


class Walk(NamedTuple):
    """A way along `length` tokens, in chunks of `chunk`.

    Queries before `first` meet all keys before them by scores. From there on the keys before a query's chunk are summed,
    and read from the state, but for those from `last` on, which are met by scores again. Both are whole chunks, or the
    length.
    """

    length: int
    chunk: int
    first: int
    last: int

    @property
    def sums(self) -> int:
        """Tokens that are summed."""
        return self.last

    @property
    def reads(self) -> int:
        """Tokens that read a state."""
        return self.length - self.first

    @property
    def scores(self) -> float:
        """Pairs that meet by scores."""
        return self._of_queries(self.length, 0)

    @property
    def triangles(self) -> float:
        """Those of them that meet inside a chunk, where a query sees some keys and others not."""
        whole, rest = divmod(self.length, self.chunk)
        return (whole * self.chunk**2 + rest**2) / 2

    def cost(self, equal: float, groups: int = 1, start: int = 0, stop: int | None = None) -> float:
        """Return what the outputs of tokens from `start` to `stop` cost, in scores; `equal` is `scores_of_a_state`.

        `groups` queries share a key. Keys before the first of these queries are summed all the same.
        """
        stop = self.length if stop is None else min(stop, self.length)
        return groups * (self._of_queries(stop, equal) - self._of_queries(start, equal)) + equal * min(stop, self.last)

    def _of_queries(self, stop: int, equal: float) -> float:
        """Return what queries up to `stop` cost."""
        by_scores, rest = min(stop, self.first), max(stop - max(self.first, self.last), 0)
        between = max(stop - self.first, 0) - rest
        return (by_scores**2 + between * self.chunk + rest**2) / 2 + (between + rest) * equal

    @property
    def kept(self) -> int:
        """Tokens at most that are kept as they are, to be met by scores or to be summed later."""
        return max(min(self.chunk, self.length), self.first, self.length - self.last)


@lru_cache(maxsize=1024)
def plan_walk(
    length: int,
    width: int,
    columns: int,
    tile: int,
    *,
    form: str = "efficient",
    past: bool = False,
    with_state: bool = False,
) -> Walk:
    """Return the cheapest walk of a form; `tile` tokens are as many as a chunk can have.

    With a `past` state all queries read it, and a state behind all tokens is the sum of them all.
    """
    by_scores = Walk(length, tile, length, length if with_state else 0)
    if form == "direct":
        return by_scores
    equal = scores_of_a_state(width, columns)
    chunk = tile if equal > 2 * tile else tile // 2  # its scores should cost little beside the state
    ends = -(-int(equal) // chunk) * chunk
    first = 0 if past else min(ends, length)
    last = length if with_state else max(first, (length - int(equal)) // chunk * chunk)
    through_states = Walk(length, chunk, first, last)
    if past:
        return through_states
    return min(through_states, by_scores, key=lambda walk: walk.cost(equal))


@lru_cache(maxsize=1024)
def split_walk(walk: Walk, equal: float, groups: int, parts: int) -> tuple[int, ...]:
    """Return where a walk is cut, in whole chunks, into parts that cost about the same where they go side by side."""
    chunks = range(walk.chunk, walk.length + walk.chunk, walk.chunk)

    def cuts(most: float) -> list[int]:
        found = [0]
        for _ in range(parts):
            start = found[-1]
            n = bisect_right(
                chunks, most, lo=start // walk.chunk, key=lambda stop: walk.cost(equal, groups, start, stop)
            )
            found.append(n * walk.chunk)
        return found

    low, high = 0.0, walk.cost(equal, groups)
    while high - low > walk.chunk:
        middle = (low + high) / 2
        low, high = (low, middle) if cuts(middle)[-1] >= walk.length else (middle, high)
    return tuple(sorted({min(cut, walk.length) for cut in cuts(high)}))
