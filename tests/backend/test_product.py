"""The product of features: every way to attend with what may vary, against the definition in float64.

Of all rows of the product so many are taken that any three features meet in one; any two, where each shape is compiled.
"""

from __future__ import annotations

import itertools
import random
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from oracle import packed
from problems import Problem
from ways import FEWER, NAME, assert_way, joined, whole

from taylorshift_core import Decoder, attention, attention_packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Library

Array = Any
CHUNK = 5  # tokens, as in the tiles of `whole`


class Row(NamedTuple):
    """One choice of each feature."""

    way: str
    length: int  # of a sequence of queries
    more_keys: int  # than queries, in each sequence
    is_causal: bool
    pack: bool  # three sequences end to end
    key_mask: str
    kv_heads: int  # for two heads
    head_dim: int
    value_dim: int

    @property
    def queries(self) -> list[int]:
        """Lengths of all sequences."""
        return [self.length, 2, self.length] if self.pack else [self.length]

    @property
    def keys(self) -> list[int]:
        """The same of keys."""
        return [max(0, n + self.more_keys) for n in self.queries]


CHOICES: Any = Row(
    ("direct", "efficient", "in chunks", "one token at a time"),
    (0, 1, CHUNK - 1, CHUNK, CHUNK + 1),
    (0, 2, -2),
    (False, True),
    (False, True),
    ("absent", "keys", "nothing"),
    (1, 2),
    (3, 4),
    (2, 3),
)
TOGETHER = 2 if NAME in FEWER else 3


def _rows(few: int) -> list[Row]:
    """Return rows until any `few` choices have met: each is the best of some drawn ones that hold a missing meeting."""
    drawn, rows = random.Random(0), []
    places = list(itertools.combinations(range(len(CHOICES)), few))
    missing = {(at, each) for at in places for each in itertools.product(*(CHOICES[i] for i in at))}
    while missing:
        needed = [
            dict(zip(*each, strict=True)) for each in drawn.sample(sorted(missing, key=repr), min(20, len(missing)))
        ]
        several = [Row(*(need.get(i, drawn.choice(c)) for i, c in enumerate(CHOICES))) for need in needed]
        met = [{(at, tuple(row[i] for i in at)) for at in places} & missing for row in several]
        best = max(range(len(several)), key=lambda i: len(met[i]))
        rows.append(several[best])
        missing -= met[best]
    return rows


ROWS = _rows(TOGETHER)


def _bounds(lengths: list[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


class Pieces(NamedTuple):
    """Tokens first..last-1 of each sequence of a pack."""

    lengths: list[int]
    first: int
    last: int

    @property
    def counts(self) -> list[int]:
        return [max(0, min(n, self.last) - self.first) for n in self.lengths]

    def of(self, tokens: Array) -> list[Array]:
        """Return those of each sequence."""
        starts = [start + min(n, self.first) for start, n in zip(_bounds(self.lengths), self.lengths, strict=False)]
        return [tokens[..., start : start + n, :] for start, n in zip(starts, self.counts, strict=True)]

    def mask(self, key_mask: Array | None) -> Array | None:
        """Return those of a mask of keys."""
        if key_mask is None:
            return None
        return joined(self.of(key_mask[..., None]))[..., 0]


def in_parts(row: Row, size: int) -> Callable[..., Array]:
    """Return attention in parts of so many tokens of each sequence, through the states of what came before."""

    def attend(tokens: list[Array], queries: list[int], keys: list[int], state: Any, **options: Any) -> Any:
        options |= {"state": state, "return_state": True}
        if row.pack:
            return attention_packed(*tokens, cu_seqlens_q=_bounds(queries), cu_seqlens_k=_bounds(keys), **options)
        return attention(*tokens, **options)

    def run(query: Array, key: Array, value: Array, *, key_mask: Array | None, scale: Array) -> Array:
        ends = range(size, max(*row.queries, *row.keys, 1) + size, size)
        parts = [(Pieces(row.queries, end - size, end), Pieces(row.keys, end - size, end)) for end in ends]
        state, outputs = None, []
        if not row.is_causal:  # all keys first, then the queries
            for _, keys in parts:
                tokens = [query[..., :0, :], joined(keys.of(key)), joined(keys.of(value))]
                none = [0] * len(row.queries)
                _, state = attend(tokens, none, keys.counts, state, key_mask=keys.mask(key_mask), scale=scale)
        decoder = Decoder(tail=3) if row.is_causal and size == 1 and not row.pack else None
        for queries, new_keys in parts:
            keys = new_keys if row.is_causal else Pieces(row.keys, 0, 0)
            tokens = [joined(queries.of(query)), joined(keys.of(key)), joined(keys.of(value))]
            options = {"key_mask": keys.mask(key_mask), "scale": scale}
            if decoder is not None and queries.counts == keys.counts:
                output, decoder = decoder.step(*tokens, **options)
                state = decoder.state
            else:
                output, state = attend(tokens, queries.counts, keys.counts, state, is_causal=row.is_causal, **options)
            outputs.append(Pieces(queries.counts, 0, size).of(output))
        return joined([joined(list(sequence)) for sequence in zip(*outputs, strict=True)])

    return run


def in_one_form(row: Row, form: str) -> Callable[..., Array]:
    """Return attention at once in one form."""
    if not row.pack:
        return whole(form, is_causal=row.is_causal)
    bounds = {"cu_seqlens_q": _bounds(row.queries), "cu_seqlens_k": _bounds(row.keys)}
    return lambda *arrays, **options: attention_packed(*arrays, form=form, is_causal=row.is_causal, **bounds, **options)


def way_of(row: Row) -> Callable[..., Array]:
    """Return how a row is computed."""
    if row.way in ("direct", "efficient"):
        return in_one_form(row, row.way)
    return in_parts(row, CHUNK if row.way == "in chunks" else 1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, row)))
def test_every_way_with_every_feature(library: Library, dtype: str, row: Row) -> None:
    allowed = packed(row.queries, row.keys)
    if row.is_causal:
        i, j = (np.concatenate([np.arange(n) for n in lengths]) for lengths in (row.queries, row.keys))
        allowed &= i[:, None] >= j[None, :]
    sizes = sum(row.queries), sum(row.keys), row.head_dim, row.value_dim
    problem = Problem(*sizes, heads=2, kv_heads=row.kv_heads, key_mask=row.key_mask, scale="per head")

    def way(query: Array, key: Array, value: Array, *, key_mask: Array | None, scale: Array, **_: Any) -> Array:
        return way_of(row)(query, key, value, key_mask=key_mask, scale=scale)

    assert_way(library, dtype, way, problem, allowed)


def test_any_features_meet() -> None:
    """What is sampled is said here again, independently: all pairs, or all triples, of choices of different features."""
    for features in itertools.combinations(range(len(CHOICES)), TOGETHER):
        wanted = set(itertools.product(*(CHOICES[i] for i in features)))
        assert {tuple(row[i] for i in features) for row in ROWS} == wanted
