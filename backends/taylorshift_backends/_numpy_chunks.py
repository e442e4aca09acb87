"""The compiled walk of causal attention: along the tokens of a head, a chunk at a time.

Chunks of keys whose tokens are not summed yet stand in slots, one behind the other; the chunk of the queries is the last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from taylorshift_backends import _numpy_kernels as kernels
from taylorshift_backends._numpy_features import (
    add_features,
    add_lanes,
    give_state,
    n_rows,
    quadratic_form,
    read_features,
    scale_squares,
    take_state,
)
from taylorshift_backends._numpy_jit import compiled
from taylorshift_backends._numpy_kernels import PANEL
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_pairs import add_scores, add_triangle, scores_memory
from taylorshift_backends._numpy_panels import all_finite, give_columns, n_vectors, panel_at, take_columns, zeros
from taylorshift_backends._numpy_rows import prepare
from taylorshift_backends._numpy_steps import count, size_of
from taylorshift_backends._numpy_vectors import BYTES

Array = Any
_add_totals_of_panel = kernels.add_totals


class _Keys(NamedTuple):
    """Prepared keys, 1 for each that counts, and values: of one chunk, or of all slots."""

    tile: Array
    counts: Array
    panels: Array


class _State(NamedTuple):
    """Sums of features times values and times one, and the quadratic form that the latter are read by.

    Sums of squares are halved: then what is read is half of what counts with multiplicity. Both are exact.
    """

    sums: Array
    moments: Array
    form: Array


class _Reads(NamedTuple):
    """What a chunk of queries has found: sums, and their normaliser as a number and as a vector a token."""

    sums: Array
    last: Array
    lanes: Array


class _Totals(NamedTuple):
    """Plain sums of values before and behind a chunk; what each of its queries multiplies its sums and those with."""

    before: Array
    after: Array
    factors: Array
    shares: Array


@compiled
def walk_heads(
    carry: Array, key: Array, value: Array, kept: Array, query: Array, scale: Array, beta: float, gamma: float,
    normalise: bool, mean_size_one: bool, keep: bool, chunk: int, first: int, last: int, start: int, stop: int,
    state: Array, output: Array,
) -> None:  # fmt: skip
    """Walk along keys and values, (heads, tokens, dim), and the queries, (heads, groups, tokens, head_dim), that share them.

    For `chunk`, `first` and `last` see `taylorshift_core.walk.Walk`; a head that has a carry needs no `first`. Queries from
    `start` to `stop` have outputs, and who comes to the end writes the state behind it.
    """
    heads, groups, length, dim = query.shape
    width, columns, kind, one = dim + 1, value.shape[2], query.dtype.type, query.dtype.type(1)
    carries, everything = carry.shape[1] > 0, np.empty(0, np.bool_)
    slots = max(1, -(-min(first, stop) // chunk), -(-(stop - last) // chunk))
    near, keys, scores = zeros(n_rows(width) * TOKENS, key), _keys(slots, width, columns, key), scores_memory(key)
    sums, found, totals = (
        _state(width, columns if carries or last > 0 else 0, key),
        _reads(columns, key),
        _totals(columns, key),
    )
    beta, gamma = kind(beta), kind(gamma)
    for head in range(heads):
        own, summed, n_before = kept[head], 0, kind(0)
        totals.before[:] = 0
        past = _begin(sums, carry[head], width, columns)
        if past:
            totals.before[:columns] = carry[head, width - 1, :columns]  # of the feature 1 * 1: plain sums of [value, 1]
            n_before = carry[head, width - 1, columns]
        for at in range(0, stop, chunk):
            tokens = min(chunk, length - at)
            if (past or at >= first) and summed < min(at, last):
                _sum(sums, keys, min(at, last) - summed, chunk, width, columns)
                summed = min(at, last)
            slot = (at - summed) // chunk
            mine = _slot(keys, slot, width, columns)
            prepare(key[head], own, at, tokens, one, one, normalise, mine.tile, True)
            count(own, at, tokens, mine.counts)
            take_columns(value[head], own, at, tokens, columns, mine.panels)
            finite = all_finite(mine.panels, tokens, columns)
            for group in range(groups if at >= start else 0):
                prepare(query[head, group], everything, at, tokens, scale[head, group, 0], beta, normalise, near, True)
                if past or summed > 0:
                    read_features(near, sums.sums, sums.form, tokens, width, columns, found.sums, found.last)
                    found.sums[:] *= kind(2)
                else:
                    found.sums[:] = 0
                    found.last[:] = 0
                _meet(near, keys, slot, chunk, tokens, width, columns, finite, scores, found)
                outputs = output[head, group, at : at + tokens]
                _weigh(found, mine.counts, n_before, gamma, dim, mean_size_one, keep, totals, outputs)
                _add_totals(found, mine.panels, totals, tokens, columns)
                give_columns(found.sums, 0, tokens, columns, outputs)
            if at < start:
                _add_totals(found, mine.panels, totals, tokens, columns)  # of no queries
            for token in range(tokens):
                n_before += mine.counts[token]
            totals.before[:] = totals.after
        if carries and stop == length:
            _sum(sums, keys, length - summed, chunk, width, columns)
            scale_squares(sums.sums, width, columns, kind(2))
            give_state(sums.sums, sums.moments, width, state[head])


@compiled
def _keys(slots: int, width: int, columns: int, like: Array) -> _Keys:
    tile, panel = n_rows(width) * TOKENS, n_vectors(columns, like) * (BYTES // like.itemsize) * TOKENS
    return _Keys(zeros(slots * tile, like), zeros(slots * TOKENS, like), zeros(slots * panel, like))


@compiled
def _slot(keys: _Keys, slot: int, width: int, columns: int) -> _Keys:
    tile, panel = n_rows(width) * TOKENS, n_vectors(columns, keys.tile) * (BYTES // keys.tile.itemsize) * TOKENS
    return _Keys(
        keys.tile[slot * tile : (slot + 1) * tile],
        keys.counts[slot * TOKENS : (slot + 1) * TOKENS],
        keys.panels[slot * panel : (slot + 1) * panel],
    )


@compiled
def _state(width: int, columns: int, like: Array) -> _State:
    """Return sums of no keys; of no columns where there will be none."""
    lanes, rows = BYTES // like.itemsize, width * (width // 2 + 1) * (columns > 0)
    return _State(zeros(rows * n_vectors(columns, like) * lanes, like), zeros(rows * lanes, like), zeros(rows, like))


@compiled
def _reads(columns: int, like: Array) -> _Reads:
    lanes = BYTES // like.itemsize
    return _Reads(
        zeros(TOKENS * n_vectors(columns, like) * lanes, like), zeros(TOKENS, like), zeros(TOKENS * lanes, like)
    )


@compiled
def _totals(columns: int, like: Array) -> _Totals:
    padded = n_vectors(columns, like) * (BYTES // like.itemsize)
    return _Totals(zeros(padded, like), zeros(padded, like), zeros(TOKENS, like), zeros(TOKENS, like))


@compiled
def _begin(sums: _State, carry: Array, width: int, columns: int) -> bool:
    """Begin with a carry; tell whether there is anything in it to be read."""
    sums.sums[:] = 0
    sums.moments[:] = 0
    if carry.shape[0] == 0 or not carry.any():
        return False
    take_state(carry, width, sums.sums, sums.form)
    sums.moments[:: BYTES // carry.itemsize] = sums.form
    scale_squares(sums.sums, width, columns, carry.dtype.type(0.5))
    quadratic_form(sums.moments, width, sums.form)
    return True


@compiled
def _sum(sums: _State, keys: _Keys, tokens: int, chunk: int, width: int, columns: int) -> None:
    """Add the keys in the first slots, so many tokens, to the sums."""
    kind = sums.sums.dtype.type
    scale_squares(sums.sums, width, columns, kind(2))
    for first in range(0, tokens, chunk):
        each = _slot(keys, first // chunk, width, columns)
        add_features(
            each.tile, each.counts, each.panels, min(chunk, tokens - first), width, columns, sums.sums, sums.moments
        )
    scale_squares(sums.sums, width, columns, kind(0.5))
    quadratic_form(sums.moments, width, sums.form)


@compiled
def _meet(
    near: Array, keys: _Keys, slot: int, chunk: int, tokens: int, width: int, columns: int, finite: bool,
    scores: Array, found: _Reads,
) -> None:  # fmt: skip
    """Add what queries find in the slots before their own, and in their own up to each of them."""
    found.lanes[:] = 0
    for other in range(slot):
        each = _slot(keys, other, width, columns)
        add_scores(
            near, each.tile, each.counts, each.panels, tokens, chunk, width, columns, scores, found.sums, found.lanes
        )
    mine = _slot(keys, slot, width, columns)
    add_triangle(
        near, mine.tile, mine.counts, mine.panels, tokens, width, columns, finite, scores, found.sums, found.lanes
    )
    add_lanes(found.lanes, tokens, found.last)


@compiled
def _weigh(
    found: _Reads, counts: Array, n_before: float, gamma: float, dim: int, mean_size_one: bool, keep: bool,
    totals: _Totals, outputs: Array,
) -> None:  # fmt: skip
    """Write what each query multiplies with: one over its normaliser, and with `keep` that and its number of keys beside its output."""
    kind, columns = counts.dtype.type, outputs.shape[1] - keep - (keep and mean_size_one)
    attended, one = n_before, counts.dtype.type(1)
    for token in range(outputs.shape[0]):
        attended += counts[token]
        normaliser = found.last[token] + gamma * attended
        inverse = one / normaliser if normaliser != 0 else one
        totals.factors[token] = inverse * kind(size_of(attended, dim, mean_size_one))
        totals.shares[token] = gamma * totals.factors[token]
        if keep:
            outputs[token, columns] = inverse if normaliser != 0 else 0
            outputs[token, columns + 1 :] = attended


@compiled
def _add_totals(found: _Reads, panels: Array, totals: _Totals, tokens: int, columns: int) -> None:
    """Turn the sums of queries into outputs, in place, and write the totals behind their chunk."""
    lanes = BYTES // panels.itemsize
    for at in range(0, columns, PANEL * lanes):
        vectors, place = panel_at(at, columns, panels)[0], at * TOKENS
        _add_totals_of_panel(
            found.sums, place, panels, place, totals.before, at, totals.after, at, totals.factors, 0, totals.shares, 0,
            vectors, tokens,
        )  # fmt: skip
