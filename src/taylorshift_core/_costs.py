"""The cost model: seconds of a form from counts of what it does, with constants measured on a machine.

A form is a sum of four kinds of work, each with a price: multiply-adds inside matrix products, entries made and read
once beside them (scores, features), tokens prepared and divided, and tiles, each of which costs the calls that make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from taylorshift_core.features import n_features, n_offsets

if TYPE_CHECKING:
    from taylorshift_core._checks import Problem

Counts = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tiling:
    """Tokens taken at once, and offsets of the feature map built at once; `batch` says how many heads share a tile."""

    query_tile: int
    key_tile: int
    offsets: int
    batch: int


@dataclass(frozen=True)
class Prices:
    """Nanoseconds for one multiply-add in a product, one entry, one token's column of entries, and one tile."""

    product: float
    entry: float
    column: float
    tile: float

    def seconds(self, counts: Counts) -> float:
        """Return what the counts cost."""
        return 1e-9 * sum(n * price for n, price in zip(counts, self.as_tuple(), strict=True))

    def as_tuple(self) -> Counts:
        """Return the prices in the order of `Counts`."""
        return self.product, self.entry, self.column, self.tile


def counts(form: str, problem: Problem, tiling: Tiling) -> Counts:
    """Return the multiply-adds, entries, columns and tiles of a form of a problem whose lengths are known."""
    batch = prod(size or 1 for size in problem.batch)
    queries, keys = (
        batch * problem.heads * (problem.query_length or 0),
        batch * problem.kv_heads * (problem.key_length or 0),
    )
    width, columns = problem.head_dim + 1, problem.value_dim + 1
    prepared = (queries + keys) * (width + columns)
    query_tiles = _tiles(problem.query_length, tiling.query_tile, batch * problem.heads, tiling.batch)
    key_tiles = _tiles(problem.key_length, tiling.key_tile, batch * problem.kv_heads, tiling.batch)
    if form == "direct":
        scores = queries * (problem.key_length or 0) * (0.5 if False else 1)
        steps = query_tiles * max(1, ceil((problem.key_length or 0) / tiling.key_tile))
        return scores * (width + columns), scores, prepared, query_tiles + steps
    features = n_features(width)
    blocks = ceil(n_offsets(width) / tiling.offsets)
    entries = (queries + keys) * features
    products = entries * columns
    if False:
        scores = queries * min(tiling.key_tile, problem.key_length or 0)
        products, entries = products + scores * (width + columns), entries + scores
    return products, entries, prepared, blocks * (query_tiles + key_tiles)


def _tiles(length: int | None, tile: int, heads: int, at_once: int) -> int:
    if heads * (length or 0) <= tile:
        return 1
    return ceil((length or 0) / tile) * ceil(heads / at_once)


# Measured on two cores of a server processor with AVX-512, float32, by benchmarks/bench_forms.py.
_SHIPPED = {
    "direct": Prices(product=0.008, entry=0.12, column=1.0, tile=20_000.0),
    "efficient": Prices(product=0.008, entry=0.05, column=1.0, tile=30_000.0),
}


def prices_of(backend: str, itemsize: int, form: str) -> Prices:  # noqa: ARG001  one machine measured so far
    """Return the prices of a form on a backend."""
    prices = _SHIPPED[form]
    return prices if itemsize < 8 else Prices(*(2 * price for price in prices.as_tuple()))
