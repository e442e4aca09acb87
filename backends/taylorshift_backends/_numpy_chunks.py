"""The compiled walk of causal attention: along the tokens of a head, a chunk at a time.

Chunks of keys whose tokens are not summed yet stand in slots, one behind the other; the chunk of the queries is the last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from taylorshift_backends import _numpy_kernels as kernels
from taylorshift_backends._numpy_crew import operand, operands_at
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
from taylorshift_backends._numpy_items import BETA, GAMMA, KEEP, MEAN_SIZE_ONE, NORMALISE, PARTS
from taylorshift_backends._numpy_jit import compiled, job
from taylorshift_backends._numpy_kernels import PANEL
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_pairs import add_scores, add_triangle, scores_memory
from taylorshift_backends._numpy_panels import (
    all_finite,
    count,
    give_columns,
    memory,
    n_vectors,
    panel_at,
    size_of,
    take_columns,
    zeros,
)
from taylorshift_backends._numpy_rows import prepare
from taylorshift_backends._numpy_vectors import BYTES

Array = Any
# The numbers in the operand of options behind those of all steps; the last are the tokens where a head is cut into parts.
_CHUNK, _FIRST, _LAST, _CUTS = range(PARTS + 1, PARTS + 5)
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


@job
def walk_job(kind: Any) -> Any:
    """Walk along parts of heads, see `_walk_head`; operands are its arrays, with the options behind those that are read."""

    def walk(address: int, item: int) -> None:
        given = operands_at(address)
        options = operand(given, 6, 0, np.float64)[0]
        parts = int(options[PARTS])
        head, part = item // parts, item % parts
        _walk_head(
            operand(given, 0, head, kind), operand(given, 1, head, kind), operand(given, 2, head, kind),
            operand(given, 3, head, np.bool_)[0], operand(given, 4, head, kind), operand(given, 5, head, kind)[0],
            options, int(options[_CUTS + part]), int(options[_CUTS + part + 1]),
            operand(given, 7, head, kind), operand(given, 8, head, kind),
        )  # fmt: skip

    return walk


@compiled
def _walk_head(
    carry: Array, key: Array, value: Array, kept: Array, query: Array, scale: Array, options: Array, start: int, stop: int,
    state: Array, output: Array,
) -> None:  # fmt: skip
    """Walk along keys and values, (tokens, dim), and groups of queries that share them, (groups * tokens, head_dim).

    For chunks and bounds see `taylorshift_core.walk.Walk`; where there is a carry, there is no first bound. Queries from
    `start` to `stop` have outputs, and who comes to the end writes the state behind it.
    """
    (length, dim), columns, kind, one = key.shape, value.shape[1], key.dtype.type, key.dtype.type(1)
    normalise, beta, gamma = options[NORMALISE] != 0, kind(options[BETA]), kind(options[GAMMA])
    chunk, first, last = int(options[_CHUNK]), int(options[_FIRST]), int(options[_LAST])
    width, carries, everything = dim + 1, carry.shape[0] > 0, np.empty(0, np.bool_)
    slots = max(1, -(-min(first, stop) // chunk), -(-(stop - last) // chunk))
    near, keys, scores = memory(n_rows(width) * TOKENS, key), _keys(slots, width, columns, key), scores_memory(key)
    sums, found = _state(width, columns if carries or last > 0 else 0, key), _reads(columns, key)
    totals, summed, n_before = _totals(columns, key), 0, kind(0)
    past = _begin(sums, carry, width, columns)
    if past:
        totals.before[:columns] = carry[width - 1, :columns]  # of the feature 1 * 1: plain sums of [value, 1]
        n_before = carry[width - 1, columns]
    for at in range(0, stop, chunk):
        tokens = min(chunk, length - at)
        if (past or at >= first) and summed < min(at, last):
            _sum(sums, keys, min(at, last) - summed, chunk, width, columns)
            summed = min(at, last)
        slot = (at - summed) // chunk
        mine = _slot(keys, slot, width, columns)
        prepare(key, kept, at, tokens, one, one, normalise, mine.tile, True)
        count(kept, at, tokens, mine.counts)
        take_columns(value, kept, at, tokens, columns, mine.panels)
        finite = all_finite(mine.panels, tokens, columns)
        for group in range(scale.shape[0] if at >= start else 0):
            here = group * length + at
            prepare(query, everything, here, tokens, scale[group], beta, normalise, near, True)
            if past or summed > 0:
                read_features(near, sums.sums, sums.form, tokens, width, columns, found.sums, found.last)
                found.sums[:] *= kind(2)
            else:
                found.sums[:] = 0
                found.last[:] = 0
            _meet(near, keys, slot, chunk, tokens, width, columns, finite, scores, found)
            _weigh(found, mine.counts, n_before, gamma, options, totals, dim, columns, output[here : here + tokens])
            _add_totals(found, mine.panels, totals, tokens, columns)
            give_columns(found.sums, here, tokens, columns, output)
        if at < start:
            _add_totals(found, mine.panels, totals, tokens, columns)  # of no queries
        for token in range(tokens):
            n_before += mine.counts[token]
        totals.before[:] = totals.after
    if carries and stop == length:
        _sum(sums, keys, length - summed, chunk, width, columns)
        scale_squares(sums.sums, width, columns, kind(2))
        give_state(sums.sums, sums.moments, width, state)


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
    if carry.shape[0] == 0 or not carry.any():
        return False
    one = carry.dtype.type(1)
    take_state(carry, width, one, one, sums.sums, sums.form)
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
    found: _Reads, counts: Array, n_before: float, gamma: float, options: Array, totals: _Totals, dim: int, columns: int,
    outputs: Array,
) -> None:  # fmt: skip
    """Write what each query multiplies with: one over its normaliser, which is kept beside its output if wanted."""
    attended, one, mean_size_one = n_before, counts.dtype.type(1), options[MEAN_SIZE_ONE] != 0
    for token in range(outputs.shape[0]):
        attended += counts[token]
        normaliser = found.last[token] + gamma * attended
        inverse = one / normaliser if normaliser != 0 else one
        totals.factors[token] = inverse * size_of(attended, dim, mean_size_one)
        totals.shares[token] = gamma * totals.factors[token]
        if options[KEEP] != 0:
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
