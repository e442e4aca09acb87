"""From the sizes of a problem to a plan: which form, which tiles, and why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isqrt, prod, sqrt
from typing import TYPE_CHECKING

from taylorshift_core._costs import Tiling, counts, prices_of
from taylorshift_core.features import n_features, n_offsets

if TYPE_CHECKING:
    from taylorshift_core._backend import Backend
    from taylorshift_core._checks import Problem

FORMS = ("direct", "efficient")
_SHORTEST_TILE = 64  # tokens: below it, calls cost more than what they compute
_LONGEST_TILE = 4096
_LONGEST_LENGTH = 1 << 24  # tokens: where the search for a crossover ends
_ROUNDOFF = {4: 2.0**-24, 8: 2.0**-53}  # by bytes of an entry


@dataclass(frozen=True)
class Plan:
    """How one call of `attention` will be computed; prints as a small table.

    Parameters
    ----------
    form
        "direct" or "efficient".
    reason
        Why, in one sentence.
    query_tile, key_tile
        Tokens taken at once.
    offsets
        Offsets of the feature map that are built at once (efficient form).
    problem, backend, itemsize
        What the plan was made for: sizes, library, and bytes of an entry of the dtype that is summed in.
    """

    form: str
    reason: str
    query_tile: int
    key_tile: int
    offsets: int
    problem: Problem = field(repr=False)
    backend: Backend = field(repr=False)
    itemsize: int = field(repr=False)

    def offsets_of(self, tokens: int) -> int:
        """Return how many offsets to build at once for a tile of so many tokens: more where it is shorter than planned."""
        longest = max(self.query_tile, self.key_tile)
        shorter = isinstance(tokens, int) and 0 < tokens < longest
        return self.offsets * (longest // tokens) if shorter else self.offsets

    def holding_scores(self) -> Plan:
        """Return the plan with tiles so short that the scores of a tile, held at once, fill the fast memory."""
        query_tile, key_tile = _score_tiles(self.problem, self.backend, self.itemsize)
        if self.form == "efficient":
            return self
        return replace(self, query_tile=min(self.query_tile, query_tile), key_tile=min(self.key_tile, key_tile))

    @property
    def tiling(self) -> Tiling:
        """The tiles, and how many heads share one."""
        return Tiling(self.query_tile, self.key_tile, self.offsets, _heads_at_once(self.problem, self.backend))

    @property
    def seconds(self) -> float:
        """The predicted time."""
        prices = prices_of(self.backend.name, self.itemsize, self.form)
        return prices.seconds(counts(self.form, self.problem, self.tiling))

    @property
    def operations(self) -> int:
        """Additions and multiplications in matrix products, and multiplications of scores or features."""
        products, entries, _, _ = counts(self.form, self.problem, self.tiling)
        return int(2 * products + entries)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of all key heads (efficient form)."""
        problem = self.problem
        return _key_heads(problem) * n_features(problem.head_dim + 1) * (problem.value_dim + 1) * self.itemsize

    @property
    def temporary_bytes(self) -> int:
        """Bytes held at once beyond inputs and output: the state or the prepared keys and values, and one tile."""
        problem, at_once = self.problem, self.tiling.batch
        keys, queries = problem.key_length or 0, problem.query_length or 0
        if self.form == "efficient":
            rows = min(n_features(problem.head_dim + 1), self.offsets * (problem.head_dim + 1))
            return self.state_bytes + at_once * rows * min(self.key_tile, max(keys, queries)) * self.itemsize
        prepared = _key_heads(problem) * keys * (problem.head_dim + problem.value_dim + 2)
        return (prepared + at_once * min(self.query_tile, queries) * min(self.key_tile, keys)) * self.itemsize

    @property
    def rounding_error(self) -> float:
        """The predicted largest error relative to the largest output: a random walk of roundings over the terms."""
        terms = n_features(self.problem.head_dim + 1) if self.form == "efficient" else self.problem.head_dim + 1
        return _ROUNDOFF[self.itemsize] * (2 + sqrt(terms))

    @property
    def crossover(self) -> int | None:
        """The length of queries and keys alike from which the efficient form is predicted to be faster, if there is one."""
        low, high = 0, _LONGEST_LENGTH
        if not self._efficient_wins(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._efficient_wins(middle) else (middle, high)
        return high

    def _efficient_wins(self, length: int) -> bool:
        problem = replace(self.problem, query_length=length, key_length=length)
        direct, efficient = (tiled_plan(problem, self.backend, form, self.itemsize) for form in FORMS)
        return efficient.seconds < direct.seconds

    def __str__(self) -> str:
        other = tiled_plan(self.problem, self.backend, FORMS[self.form == "direct"], self.itemsize)
        crossover = "none" if self.crossover is None else f"{self.crossover:,} tokens"
        rows = [
            ("form", f"{self.form}: {self.reason}"),
            ("predicted time", f"{_time(self.seconds)} ({other.form} form {_time(other.seconds)})"),
            ("operations", f"{self.operations:,} ({other.form} form {other.operations:,})"),
            ("temporaries", f"{_size(self.temporary_bytes)} ({other.form} form {_size(other.temporary_bytes)})"),
            ("tiles", f"{self.query_tile} queries, {self.key_tile} keys, {self.offsets} offsets of the feature map"),
            ("state", f"{_size(self.state_bytes)} for all heads"),
            ("crossover", f"{crossover} for these heads"),
            ("rounding error", f"about {self.rounding_error:.1e} of the largest output"),
        ]
        return "\n".join(f"{name:<14}  {text}" for name, text in rows)


@lru_cache(maxsize=1024)
def make_plan(problem: Problem, backend: Backend, form: str, itemsize: int, objective: str = "time") -> Plan:
    """Return the plan for a problem on a backend; `itemsize` is that of the dtype it sums in."""
    if form != "auto":
        return tiled_plan(problem, backend, form, itemsize, "asked for by name")
    if problem.query_length is None or problem.key_length is None:
        reason = "lengths are not known yet, and only the efficient form is linear in them"
        return tiled_plan(problem, backend, "efficient", itemsize, reason)
    plans = [tiled_plan(problem, backend, form, itemsize) for form in FORMS]
    if objective == "memory":
        best, other = sorted(plans, key=lambda plan: plan.temporary_bytes)
        reason = f"it holds {_size(best.temporary_bytes)} at once, the {other.form} form {_size(other.temporary_bytes)}"
    else:
        best, other = sorted(plans, key=lambda plan: plan.seconds)
        reason = f"it is predicted to take {_time(best.seconds)}, the {other.form} form {_time(other.seconds)}"
    return replace(best, reason=reason)


def tiled_plan(problem: Problem, backend: Backend, form: str, itemsize: int, reason: str = "") -> Plan:
    """Return the plan for one form: tiles that fill the fast memory of the backend."""
    entries = _entries(problem, backend, itemsize)
    width = problem.head_dim + 1
    offsets = n_offsets(width)
    if backend.tile_tokens is not None:
        query_tile = key_tile = backend.tile_tokens
        offsets = min(offsets, max(1, entries // (key_tile * width)))
    elif form == "direct":
        query_tile, key_tile = _score_tiles(problem, backend, itemsize)
    else:
        offsets = min(offsets, max(1, entries // (_SHORTEST_TILE * width)))
        query_tile = key_tile = min(_LONGEST_TILE, max(_SHORTEST_TILE, entries // (offsets * width)))
    return Plan(form, reason, query_tile, key_tile, offsets, problem, backend, itemsize)


def _score_tiles(problem: Problem, backend: Backend, itemsize: int) -> tuple[int, int]:
    entries = _entries(problem, backend, itemsize)
    query_tile = max(_SHORTEST_TILE, isqrt(entries) // 2)
    return query_tile, max(_SHORTEST_TILE, entries // query_tile)


def _entries(problem: Problem, backend: Backend, itemsize: int) -> int:
    """Return how many numbers of a tile one head may have."""
    return backend.tile_bytes // (itemsize * _heads_at_once(problem, backend))


def _heads_at_once(problem: Problem, backend: Backend) -> int:
    heads = prod(size or 1 for size in (*problem.batch, problem.heads) if isinstance(size, int))
    return max(heads, 1) if backend.batch_at_once else 1


def _key_heads(problem: Problem) -> int:
    return prod(size or 1 for size in problem.batch) * problem.kv_heads


def _time(seconds: float) -> str:
    unit, name = next((pair for pair in ((1.0, "s"), (1e-3, "ms")) if seconds >= pair[0]), (1e-6, "µs"))
    return f"{seconds / unit:.3g} {name}"


def _size(n_bytes: int) -> str:
    unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if n_bytes >= pair[0]), (1, "bytes"))
    return f"{n_bytes / unit:.3g} {name}"
