"""From the sizes of a problem to a plan: which form, which tiles, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import isqrt, prod, sqrt
from typing import TYPE_CHECKING

from taylorshift_core._costs import Tiling, offsets_at_once, walk_of, work_of
from taylorshift_core._crossover import operation_count
from taylorshift_core.errors import OptionError
from taylorshift_core.features import n_features, n_offsets

if TYPE_CHECKING:
    from types import ModuleType

    from taylorshift_core._backend import Backend
    from taylorshift_core._checks import Problem
    from taylorshift_core._costs import Prices, Work

FORMS = ("direct", "efficient")
_SHORTEST_TILE = 64  # tokens: below it, calls cost more than what they compute
_LONGEST_TILE = 4096
CAUSAL_SCORES = 256  # tokens of a causal chunk in the direct form: half of the scores inside are made for nothing
_CHUNK, _CHUNK_STEP = 128, 64  # tokens of one in the efficient form: triangles of scores grow with it, states get fewer
_LONGEST_LENGTH = 1 << 24  # tokens: where the search for a crossover ends
_PARTIAL_SUMS = 36  # that one sum seems to fall into, by the errors seen in NumPy's products
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
    device
        "cpu" or "gpu".
    """

    form: str
    reason: str
    query_tile: int
    key_tile: int
    offsets: int
    problem: Problem = field(repr=False)
    backend: Backend = field(repr=False)
    itemsize: int = field(repr=False)
    device: str = field(default="cpu", repr=False)

    def offsets_of(self, tokens: int) -> int:
        """Return how many offsets to build at once for a tile of so many tokens."""
        return offsets_at_once(self.offsets, max(self.query_tile, self.key_tile), tokens)

    def holding_scores(self) -> Plan:
        """Return the plan with tiles so short that the scores of a tile, held at once, fill the fast memory."""
        if self.form == "efficient":
            return self
        query_tile, key_tile = _score_tiles(self.problem, self.backend, self.itemsize)
        return replace(self, query_tile=min(self.query_tile, query_tile), key_tile=min(self.key_tile, key_tile))

    @property
    def state_chunk(self) -> int:
        """Tokens of a chunk of causal attention in the efficient form: about as many scores as the state has numbers."""
        square = n_features(self.problem.head_dim + 1) * (self.problem.value_dim + 1)
        return min(self.key_tile, max(_CHUNK, -(-isqrt(square) // _CHUNK_STEP) * _CHUNK_STEP))

    @property
    def tiling(self) -> Tiling:
        """The tiles, and how many heads share one."""
        at_once = _heads_at_once(self.problem, self.backend)
        chunk = min(self.query_tile, CAUSAL_SCORES) if self.form == "direct" else self.state_chunk
        return Tiling(self.query_tile, self.key_tile, self.offsets, at_once, chunk, self.backend.tokens_at_once)

    @cached_property
    def work(self) -> Work:
        """What will be done, counted."""
        return work_of(self.form, self.problem, self.tiling)

    @property
    def seconds(self) -> float:
        """The predicted time."""
        dtype = f"float{8 * self.itemsize}"
        prices: Prices = _calibration().prices_of(self.backend.prices, self.device, dtype, self.form)
        return prices.seconds(self.work)

    @property
    def operations(self) -> int:
        """Additions and multiplications in matrix products, and one multiplication for each score or feature."""
        work = self.work
        return int(2 * work.products + work.entries + work.masked)

    @property
    def operations_of_the_formula(self) -> int:
        """The same by the closed formula for this form without tiles, masks and states, see `operation_count`."""
        problem = self.problem
        lengths = problem.query_length or 0, problem.key_length or 0
        of_one_head = operation_count(
            self.form,
            *lengths,
            head_dim=problem.head_dim,
            value_dim=problem.value_dim,
            groups=max(problem.groups, 1),
        )
        return _key_heads(problem) * of_one_head

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of all key heads (efficient form)."""
        problem = self.problem
        return _key_heads(problem) * n_features(problem.head_dim + 1) * (problem.value_dim + 1) * self.itemsize

    @property
    def temporary_bytes(self) -> int:
        """Bytes held at once beyond inputs and output, about.

        The state (as summed, in parts, and times its multiplicity) or the prepared keys and values; and for each head
        that is worked on at the same time a tile of prepared tokens, and its features or scores.
        """
        problem, width, columns = self.problem, self.problem.head_dim + 1, self.problem.value_dim + 1
        keys, queries = problem.key_length or 0, problem.query_length or 0
        query_tile, key_tile = min(self.query_tile, queries), min(self.key_tile, keys)
        at_once = self.backend.tokens_at_once
        state, kept = n_features(width) * columns, 0
        walk = walk_of(self.form, problem, at_once)
        if walk is not None:  # keys of the chunks that are not summed stand prepared, beside the state of one head
            own = walk.kept * (width * 3 // 2 + columns) + (state if walk.sums else 0)
            own += 2 * (at_once or 0) * (width + columns)
            states = self.state_bytes * (self.form == "efficient" and (problem.past + problem.with_state))
            return states + self.itemsize * _heads_side_by_side(problem, self.backend) * own
        if self.form == "efficient":
            kept = 3 * self.state_bytes // self.itemsize
        if at_once is not None:  # steps are whole: see `Backend.tokens_at_once`
            own = 2 * at_once * (width + columns) + query_tile * columns
            own += state if self.form == "efficient" else query_tile * (width + columns)
            return self.itemsize * (kept + _heads_side_by_side(problem, self.backend) * own)
        if self.form == "efficient":
            longest = max(query_tile, key_tile)
            made = longest * min(n_features(width), self.offsets_of(longest) * width)
        else:
            kept = _key_heads(problem) * keys * (width + columns)
            made = query_tile * key_tile
            if self.backend.tile_tokens is not None:  # tiles are of tokens alone, and worked through in blocks
                made = min(made, self.backend.tile_bytes // self.itemsize)
        tile = made + 2 * max(query_tile, key_tile) * (width + columns)
        return self.itemsize * (kept + _heads_side_by_side(problem, self.backend) * tile)

    @property
    def rounding_error(self) -> float:
        """The predicted largest error relative to the largest output, of values that are as often above zero as below.

        A few roundings of each factor and of the quotient, and a random walk over the terms of a sum: keys, and in the
        efficient form features. Libraries keep several partial sums, which makes it shorter. The outputs of dtypes
        narrower than that of the sums are rounded once more.
        """
        terms = (self.problem.key_length or 0) + (
            n_features(self.problem.head_dim + 1) if self.form == "efficient" else 0
        )
        return _ROUNDOFF[self.itemsize] * (3 + sqrt(terms / _PARTIAL_SUMS))

    @property
    def crossover(self) -> int | None:
        """The length of queries and keys alike from which on the efficient form is predicted to be faster, if there is one.

        None also where only one form can be taken.
        """
        high = _LONGEST_LENGTH
        if self.problem.visible == "dense" or not self._efficient_wins(high):
            return None
        while high > 1 and self._efficient_wins(high // 2):
            high //= 2
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._efficient_wins(middle) else (middle, high)
        return high

    def on(self, backend: Backend) -> Plan:
        """Return the plan on another backend: with tiles of its own, but for those that were changed by hand."""
        if backend is self.backend:
            return self
        usual, own = (
            tiled_plan(self.problem, each, self.form, self.itemsize, self.device) for each in (self.backend, backend)
        )
        tiles = {
            name: getattr(own if getattr(self, name) == getattr(usual, name) else self, name)
            for name in ("query_tile", "key_tile", "offsets")
        }
        return replace(self, backend=backend, **tiles)

    def of_form(self, form: str) -> Plan:
        """Return the plan of a form, this one or the other, for the same call."""
        return tiled_plan(self.problem, self.backend, form, self.itemsize, self.device)

    def _efficient_wins(self, length: int) -> bool:
        longer = replace(self, problem=replace(self.problem, query_length=length, key_length=length))
        return longer.of_form("efficient").seconds < longer.of_form("direct").seconds

    def __str__(self) -> str:
        other = self.of_form(FORMS[self.form == "direct"])
        crossover = self.crossover
        rows = [
            ("form", f"{self.form}: {self.reason}"),
            ("predicted time", f"{_time(self.seconds)} ({other.form} form {_time(other.seconds)})"),
            ("operations", f"{self.operations:,} ({other.form} form {other.operations:,})"),
            ("by the formula", f"{self.operations_of_the_formula:,}, without tiles, masks and states"),
            ("temporaries", f"{_size(self.temporary_bytes)} ({other.form} form {_size(other.temporary_bytes)})"),
            ("tiles", f"{self.query_tile} queries, {self.key_tile} keys, {self.offsets} offsets of the feature map"),
            ("state", f"{_size(self.state_bytes)} for all heads"),
            ("crossover", f"{'none' if crossover is None else f'{crossover:,} tokens'} for these heads"),
            ("rounding error", f"about {self.rounding_error:.1e} of the largest output"),
        ]
        return "\n".join(f"{name:<14}  {text}" for name, text in rows)


@lru_cache(maxsize=1024)
def make_plan(
    problem: Problem,
    backend: Backend,
    form: str,
    itemsize: int,
    objective: str = "time",
    device: str = "cpu",
    stand_in: Backend | None = None,
) -> Plan:
    """Return the plan for a problem on a backend; `itemsize` is that of the dtype it sums in, `device` "cpu" or "gpu".

    A form whose plan for the backend that stands in is worth a call of it is planned for that one.
    """

    def plan_of(form: str, reason: str = "") -> Plan:
        plan = tiled_plan(problem, stand_in or backend, form, itemsize, device, reason)
        if stand_in is None or backend.worth_a_call(plan):
            return plan
        return tiled_plan(problem, backend, form, itemsize, device, reason)

    if form != "auto":
        return plan_of(form, "asked for by name")
    if problem.query_length is None or problem.key_length is None:
        return plan_of("efficient", "lengths are not known yet, and only the efficient form is linear in them")
    plans = [plan_of(form) for form in FORMS]
    if objective == "memory":
        best, other = sorted(plans, key=lambda plan: plan.temporary_bytes)
        reason = f"it holds {_size(best.temporary_bytes)} at once, the {other.form} form {_size(other.temporary_bytes)}"
    else:
        best, other = sorted(plans, key=lambda plan: plan.seconds)
        reason = f"it is predicted to take {_time(best.seconds)}, the {other.form} form {_time(other.seconds)}"
    return replace(best, reason=reason)


def check_plan(plan: object, form: str) -> str:
    """Return the form of a plan; raise OptionError unless it is one, whole, and not at odds with a form asked for."""
    if not isinstance(plan, Plan):
        msg = f"plan must be a Plan; got {plan!r}. Take the one that explain returns for the same arguments."
        raise OptionError(msg)
    if plan.form not in FORMS or form not in ("auto", plan.form):
        forms = ", ".join(map(repr, FORMS))
        msg = f"a plan says the form: its own must be one of {forms}; got {plan.form!r}, and form={form!r} beside it"
        raise OptionError(msg)
    for name in ("query_tile", "key_tile", "offsets"):
        number = getattr(plan, name)
        if type(number) is not int or number < 1:
            msg = f"{name} of a plan must be an integer of at least 1; got {number!r}"
            raise OptionError(msg)
    return plan.form


def _calibration() -> ModuleType:
    from taylorshift_core import _calibration  # noqa: PLC0415  it reads files, which importing the library need not know

    return _calibration


def forget_prices() -> None:
    """Plan anew, with prices read anew, from now on."""
    _calibration().forget()
    make_plan.cache_clear()


def tiled_plan(problem: Problem, backend: Backend, form: str, itemsize: int, device: str, reason: str = "") -> Plan:
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
    return Plan(form, reason, query_tile, key_tile, offsets, problem, backend, itemsize, device)


def _score_tiles(problem: Problem, backend: Backend, itemsize: int) -> tuple[int, int]:
    entries = _entries(problem, backend, itemsize)
    query_tile = max(_SHORTEST_TILE, isqrt(entries) // 2)
    return query_tile, max(_SHORTEST_TILE, entries // query_tile)


def _entries(problem: Problem, backend: Backend, itemsize: int) -> int:
    """Return how many numbers of a tile one head may have."""
    return backend.tile_bytes // (itemsize * _heads_at_once(problem, backend))


def _heads_at_once(problem: Problem, backend: Backend) -> int:
    return _heads(problem) if backend.batch_at_once else 1


def _heads(problem: Problem) -> int:
    return max(prod(size or 1 for size in (*problem.batch, problem.heads) if isinstance(size, int)), 1)


def _heads_side_by_side(problem: Problem, backend: Backend) -> int:
    """Return how many heads are worked on at the same time: all at once, or as many as there are processors."""
    heads = _heads(problem)
    return heads if backend.batch_at_once else min(heads, os.cpu_count() or 1)


def _key_heads(problem: Problem) -> int:
    return prod(size or 1 for size in problem.batch) * problem.kv_heads


def _time(seconds: float) -> str:
    unit, name = next((pair for pair in ((1.0, "s"), (1e-3, "ms")) if seconds >= pair[0]), (1e-6, "µs"))
    return f"{seconds / unit:.3g} {name}"


def _size(n_bytes: int) -> str:
    unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if n_bytes >= pair[0]), (1, "bytes"))
    return f"{n_bytes / unit:.3g} {name}"
