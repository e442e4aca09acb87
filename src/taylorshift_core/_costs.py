"""The cost model: seconds of a form from counts of what it does, and a price for each count.

The counts follow the loops of the forms, see `_direct`, `_efficient` and `_causal`; the prices are measured, see
`_calibration`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, NamedTuple

from taylorshift_core.features import n_features, n_offsets
from taylorshift_core.walk import plan_walk

if TYPE_CHECKING:
    from taylorshift_core._checks import Problem
    from taylorshift_core.walk import Walk


class Tiling(NamedTuple):
    """Tokens taken at once, offsets of the feature map built at once, and heads that share a tile.

    Causal attention goes by chunks of `chunk` tokens; where steps are whole, in one walk, `at_once` tokens at a time.
    """

    query_tile: int
    key_tile: int
    offsets: int
    batch: int
    chunk: int
    at_once: int | None = None


def offsets_at_once(offsets: int, longest: int, tokens: int) -> int:
    """Return how many offsets to build at once for a tile of so many tokens: more where it is shorter than the longest."""
    shorter = isinstance(tokens, int) and 0 < tokens < longest
    return offsets * (longest // tokens) if shorter else offsets


class Work(NamedTuple):
    """What a form does in one call.

    Parameters
    ----------
    products
        Multiply-adds inside matrix products.
    entries
        Scores or features: made, and read by a product.
    masked
        Scores of which some must not be seen.
    prepared
        Entries of queries, keys, values and outputs: normalised, laid out, divided.
    states
        Entries of states: added, or multiplied outside of products.
    steps
        Tiles of a head, or of all heads where they share one.
    calls
    """

    products: float = 0
    entries: float = 0
    masked: float = 0
    prepared: float = 0
    states: float = 0
    steps: float = 0
    calls: float = 0

    def __add__(self, other: Work) -> Work:  # type: ignore[override]  # of numbers, not of tuples
        """Return both together."""
        return Work(*(mine + its for mine, its in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Prices:
    """Nanoseconds for one unit of each kind of `Work`."""

    products: float = 0
    entries: float = 0
    masked: float = 0
    prepared: float = 0
    states: float = 0
    steps: float = 0
    calls: float = 0

    def seconds(self, work: Work) -> float:
        """Return what the work costs."""
        prices: tuple[float, ...] = astuple(self)
        return sum(1e-9 * count * price for count, price in zip(work, prices, strict=True))


class _Sizes(NamedTuple):
    """The sizes of a problem as its loops see them; a length that is not known counts as none."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    width: int
    columns: int

    @classmethod
    def of(cls, problem: Problem) -> _Sizes:
        batch = prod(1 if size is None else size for size in problem.batch)
        lengths = problem.query_length or 0, problem.key_length or 0
        return cls(
            batch,
            batch * problem.heads,
            batch * problem.kv_heads,
            *lengths,
            problem.head_dim + 1,
            problem.value_dim + 1,
        )


def work_of(form: str, problem: Problem, tiling: Tiling) -> Work:
    """Return what a form does for a problem, cut into tiles."""
    sizes = _Sizes.of(problem)
    prepared = (sizes.heads * sizes.queries + sizes.kv_heads * sizes.keys) * (sizes.width + sizes.columns)
    if problem.masked:
        prepared += sizes.kv_heads * sizes.keys * (sizes.width + sizes.columns)
    always = Work(prepared=prepared, calls=1)
    if form == "direct":
        return always + _direct(problem, sizes, tiling)
    return always + _efficient(problem, sizes, tiling)


def _direct(problem: Problem, sizes: _Sizes, tiling: Tiling) -> Work:
    """Return the work of all pairs, of reading a past state, and of the state behind all keys if that is wanted."""
    walk = None if problem.past else walk_of("direct", problem, tiling.at_once)
    if walk is not None:
        pairs = _walk(walk, sizes, tiling)
    elif problem.visible == "all":
        pairs = _meet(sizes, tiling, sizes.queries, sizes.keys)
    elif problem.visible == "dense":
        pairs = _meet_masked(sizes, tiling, sizes.queries, sizes.keys)
    else:
        pairs = _direct_causal(sizes, tiling)
    if problem.past:
        pairs += _read(sizes, tiling, sizes.queries)
    return pairs + _build(sizes, tiling, sizes.keys) if problem.with_state else pairs


def _direct_causal(sizes: _Sizes, tiling: Tiling) -> Work:
    """Return the work of chunks that see all before them in full and themselves in a triangle."""
    own = min(sizes.queries, sizes.keys)
    chunk, chunks = min(tiling.chunk, own), ceil(own / tiling.chunk)
    before = own * (chunks - 1) / 2  # keys that the chunks see in full, together
    short = tiling._replace(query_tile=tiling.chunk)
    total = _meet_masked(sizes, short, own, chunk) + _meet(sizes, tiling, sizes.queries - own, sizes.keys)
    if chunks > 1:
        total += _meet(sizes, short, own, before / chunks)
    return total + Work(prepared=sizes.kv_heads * before * sizes.columns)


def _efficient(problem: Problem, sizes: _Sizes, tiling: Tiling) -> Work:
    """Return the work of building one state a key head, and of reading it; causal attention has one for each chunk."""
    walk = walk_of("efficient", problem, tiling.at_once)
    if walk is not None:
        beyond = sizes.keys - sizes.queries if problem.with_state else 0  # keys that no query sees
        in_and_out = Work(states=_state(sizes) * (problem.past + problem.with_state))
        return (
            _walk(walk, sizes, tiling) + _features(sizes, tiling, sizes.kv_heads, beyond, tiling.key_tile) + in_and_out
        )
    total = _build(sizes, tiling, sizes.keys) + _read(sizes, tiling, sizes.queries)
    own = min(sizes.queries, sizes.keys)
    if problem.visible != "causal" or not own:
        return total
    chunks = ceil(own / tiling.chunk)
    total += _meet_masked(sizes, tiling, own, own / chunks)
    return total + Work(states=3 * _state(sizes) * chunks)


def walk_of(form: str, problem: Problem, at_once: int | None) -> Walk | None:
    """Return the walk that causal attention is, or None: steps are not whole, or there are more queries than keys."""
    queries, keys = problem.query_length or 0, problem.key_length or 0
    if at_once is None or problem.visible != "causal" or not 0 < queries <= keys:
        return None
    past, with_state = (form == "efficient" and each for each in (problem.past, problem.past or problem.with_state))
    sizes = queries, problem.head_dim + 1, problem.value_dim + 1, at_once
    return plan_walk(*sizes, form=form, past=past, with_state=with_state)


def _walk(walk: Walk, sizes: _Sizes, tiling: Tiling) -> Work:
    scores, triangles = sizes.heads * walk.scores, sizes.heads * walk.triangles
    features = (sizes.heads * walk.reads + sizes.kv_heads * walk.sums) * n_features(sizes.width)
    return Work(
        products=scores * (sizes.width + sizes.columns) + features * sizes.columns,
        entries=scores - triangles + features,
        masked=triangles,
        steps=_tiles(walk.length, max(tiling.query_tile, walk.length), sizes.heads, tiling),
    )


def _meet(sizes: _Sizes, tiling: Tiling, queries: float, keys: float) -> Work:
    """Return the work of queries that see so many keys in full."""
    scores = sizes.heads * queries * keys
    tiles = _tiles(queries, tiling.query_tile, sizes.heads, tiling) * (1 + ceil(keys / tiling.key_tile))
    return Work(products=scores * (sizes.width + sizes.columns), entries=scores, steps=tiles)


def _meet_masked(sizes: _Sizes, tiling: Tiling, queries: float, keys: float) -> Work:
    """Return the work of queries that see some of so many keys: one more product, of flags, and `where` around them."""
    scores = sizes.heads * queries * keys
    tiles = _tiles(queries, tiling.query_tile, sizes.heads, tiling) * (1 + ceil(keys / tiling.key_tile))
    return Work(products=scores * (sizes.width + 2 * sizes.columns), masked=scores, steps=tiles)


def _build(sizes: _Sizes, tiling: Tiling, keys: int) -> Work:
    return _features(sizes, tiling, sizes.kv_heads, keys, tiling.key_tile) + Work(states=_state(sizes))


def _read(sizes: _Sizes, tiling: Tiling, queries: int) -> Work:
    return _features(sizes, tiling, sizes.heads, queries, tiling.query_tile) + Work(states=_state(sizes))


def _features(sizes: _Sizes, tiling: Tiling, heads: int, tokens: int, tile: int) -> Work:
    """Return the work of making the features of tokens, and of their product with values or with a state."""
    features = heads * tokens * n_features(sizes.width)
    longest = max(tiling.query_tile, tiling.key_tile)
    blocks = ceil(n_offsets(sizes.width) / offsets_at_once(tiling.offsets, longest, min(tokens, tile)))
    return Work(products=features * sizes.columns, entries=features, steps=blocks * _tiles(tokens, tile, heads, tiling))


def _state(sizes: _Sizes) -> int:
    return sizes.kv_heads * n_features(sizes.width) * sizes.columns


def _tiles(tokens: float, tile: int, heads: int, tiling: Tiling) -> int:
    """Return how many tiles there are; a loop that takes heads in turn still takes few tokens of all heads at once."""
    if heads * tokens <= tile:
        return 1
    return ceil(tokens / tile) * ceil(heads / tiling.batch)
