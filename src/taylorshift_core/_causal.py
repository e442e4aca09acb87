"""Causal attention: a query sees the keys up to its own place, in both forms.

The sequence falls into chunks. What a chunk sees in full is a plain sum over earlier keys (direct form) or one state
(efficient form); only its own keys need a triangle of scores. Two wider rules keep this structure: tokens of one block
see each other, and a prefix is seen by all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from taylorshift_core import _direct, _efficient
from taylorshift_core._divide import divide
from taylorshift_core._namespace import device_of
from taylorshift_core._plan import CAUSAL_SCORES
from taylorshift_core._prepare import prepare_key, prepare_query, prepare_value
from taylorshift_core.errors import OptionError
from taylorshift_core.loops import cut, join

if TYPE_CHECKING:
    from collections.abc import Callable

    from taylorshift_core._plan import Plan
    from taylorshift_core._run import Run

Array = Any
Arrays = tuple[Array, ...]


@dataclass(frozen=True)
class Causal:
    """All queries see the first `prefix` keys; behind it, in blocks of `block` tokens, each sees all blocks up to its own."""

    prefix: int = 0
    block: int = 1

    def parts(self, query_length: int, key_length: int) -> tuple[int, int, int]:
        """Return three lengths: the end of the prefix, the end of what is causal, and the end of the last block's keys.

        Queries before the first see the prefix alone; queries behind the second, which have no whole block of both
        queries and keys left, see all keys up to the third.
        """
        prefix = min(self.prefix, key_length)
        whole_blocks = max(0, min(query_length, key_length) - prefix) // self.block * self.block
        end = prefix + whole_blocks
        return prefix, end, min(end + self.block, key_length)

    def is_plain(self, query_length: int, key_length: int) -> bool:
        """Tell whether each query sees the keys up to its own place, and no others."""
        return self.prefix == 0 and self.block == 1 and 0 < query_length <= key_length

    def chunk(self, tile: int) -> int:
        """Return a chunk length of about `tile` tokens in whole blocks."""
        return max(tile // self.block, 1) * self.block

    def score_chunk(self, tile: int) -> int:
        """Return a chunk length for the direct form, where half of the scores inside a chunk are made for nothing."""
        return self.chunk(min(tile, CAUSAL_SCORES))

    def state_chunk(self, plan: Plan) -> int:
        """Return a chunk length for the efficient form, where a chunk is met by the state of all before it."""
        return self.chunk(plan.state_chunk)

    def even_chunk(self, length: int, plan: Plan) -> int:
        """Return a chunk length, in whole blocks, that cuts so many tokens evenly, or else leaves few behind."""
        blocks = length // self.block
        fewest = -(-length // self.state_chunk(plan))
        chunks = next((n for n in range(fewest, 2 * fewest) if blocks % n == 0), min(fewest, blocks))
        return blocks // chunks * self.block

    def limits(self, xp: Any, query: Array, key: Array) -> Array:
        """Return, one row a query, how many of the first keys it sees."""
        prefix, end, last = self.parts(query.shape[-2], key.shape[-2])
        place = xp.arange(query.shape[-2], device=device_of(query))
        limits = xp.where(place < end, prefix + ((place - prefix) // self.block + 1) * self.block, last)
        limits = xp.where(place < prefix, prefix, limits)
        return xp.reshape(limits, (*(1,) * (query.ndim - 2), query.shape[-2], 1))

    def allowed(self, xp: Any, x: Array) -> Array:
        """Return which keys (columns) each query (rows) of a chunk of prepared tokens sees inside the chunk."""
        place = xp.arange(x.shape[-1], device=device_of(x))
        place = place if self.block == 1 else place // self.block
        return xp.expand_dims(place, axis=1) >= xp.expand_dims(place, axis=0)

    def rule(self, xp: Any, query: Array, key: Array) -> Array:
        """Return which keys (columns) each query (rows) sees, where lengths are not known: as a dense mask."""
        i, j = (xp.expand_dims(_places(xp, rows), axis=axis) for rows, axis in ((query, 1), (key, 0)))
        block_of_i, block_of_j = ((place - self.prefix) // self.block for place in (i, j))
        return (j < self.prefix) | (block_of_i >= block_of_j)  # those of the prefix count as earlier blocks


def _places(xp: Any, rows: Array) -> Array:
    """Return 0, 1, 2, ... for each row of an array whose length is not known."""
    some = xp.astype(xp.ones_like(rows[..., 0]), xp.bool)
    if rows.ndim > 2:
        some = xp.any(some, axis=tuple(range(rows.ndim - 2)))
    return xp.cumulative_sum(xp.astype(some, xp.int32), dtype=xp.int32) - 1


def check_causal(*, is_causal: bool, block_causal: Any, prefix_length: Any) -> Causal | None:
    """Return the causal rule that the options of `attention` ask for, or None."""
    for name, number, least in (("block_causal", block_causal, 1), ("prefix_length", prefix_length, 0)):
        if number is not None and (type(number) is not int or number < least):
            msg = f"{name} must be an integer of at least {least}; got {number!r}"
            raise OptionError(msg)
    if not is_causal and block_causal is None:
        if prefix_length:
            msg = f"prefix_length needs is_causal=True or block_causal, else all keys are seen anyway; got {prefix_length}"
            raise OptionError(msg)
        return None
    return Causal(prefix_length, 1 if block_causal is None else block_causal)


def attend_direct(
    run: Run,
    causal: Causal,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    scale: Array,
    past: tuple[Array, ...],
) -> Array:
    """Return the outputs of grouped queries over earlier keys, and over those of a `past` state, in the direct form."""
    prefix, end, last = causal.parts(query.shape[-2], key.shape[-2])
    if not past and causal.is_plain(query.shape[-2], key.shape[-2]):
        output = _walk_alone(run, query, (key, value) if mask is None else (key, value, mask), scale)
        if output is not None:
            return output
    keys, values = _direct.prepare_all(run, key, value, mask)

    def step(
        run: Run,
        query: Array,
        keys: Array,
        values: Array,
        own_keys: Array,
        own_values: Array,
        scale: Array,
        *past: Array,
    ) -> tuple[Array]:
        x = prepare_query(run.backend, query, scale, run.weighting)
        sums, count = _direct.meet_allowed(run, x, own_keys, own_values, causal.allowed(run.xp, x))
        totals = run.xp.sum(values, axis=values.ndim - 2, keepdims=True)
        sums = sums + _direct.meet(run, x, keys, values) + run.weighting.gamma * totals
        return (divide(run, *_direct.with_past(run, x, sums, count + totals[..., -1:], past), query),)

    def seeing(first: int, stop: int, seen: int) -> list[Array]:
        if first >= stop:
            return []
        (part,) = cut((query,), first, stop)
        seen_keys, seen_values = cut((keys, values), 0, seen)
        return [_direct.attend_prepared(run, part, seen_keys, seen_values, scale, past)]

    outputs = seeing(0, min(prefix, query.shape[-2]), prefix)
    chunk = causal.score_chunk(run.plan.query_tile)
    for first in range(prefix, end, chunk):
        stop = min(first + chunk, end)
        whole = *cut((keys, values), 0, first), *cut((keys, values), first, stop), scale, *past
        outputs += run.backend.map_tiles(run, step, cut((query,), first, stop), whole, chunk)
    outputs += seeing(end, query.shape[-2], last)
    return _join(run, outputs) if outputs else _direct.attend_prepared(run, query, keys, values, scale, past)


def attend_efficient(
    run: Run,
    causal: Causal,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    scale: Array,
    past: Array | None,
    *,
    with_state: bool,
) -> tuple[Array, Array | None]:
    """Return the outputs of grouped queries over earlier keys and a past state, and the state behind all keys if wanted."""
    tokens = (key, value) if mask is None else (key, value, mask)
    prefix, end, last = causal.parts(query.shape[-2], key.shape[-2])
    if past is None and not with_state and causal.is_plain(query.shape[-2], key.shape[-2]):
        output = _walk_alone(run, query, tokens, scale)
        if output is not None:
            return output, None

    def summed(state: Array | None, first: int, stop: int) -> Array:
        if state is not None and first == stop:
            return state
        key, value, *rest = cut(tokens, first, stop)
        new = _efficient.summarise(run, key, value, *(rest or [None]))
        return new if state is None else state + new

    def seeing(first: int, stop: int, state: Array) -> list[Array]:
        if first >= stop:
            return []
        (part,) = cut((query,), first, stop)
        return [_efficient.attend(run, part, state, scale)]

    state = summed(past, 0, prefix)
    outputs = seeing(0, min(prefix, query.shape[-2]), state)
    if end > prefix:
        state, parts = _scan(run, causal, state, (*cut((query,), prefix, end), *cut(tokens, prefix, end)), scale)
        outputs += parts
    seen = summed(state, end, last)
    outputs += seeing(end, query.shape[-2], seen)
    output = _join(run, outputs) if outputs else _efficient.attend(run, query, seen, scale)
    return output, summed(seen, last, key.shape[-2]) if with_state else None


def _walk_alone(run: Run, query: Array, tokens: Arrays, scale: Array) -> Array | None:
    """Return the outputs of queries that see keys up to their own, and no state precedes or follows, in one compiled step."""
    nothing, tiled = tokens[0][..., :0, :0], (query, *cut(tokens, 0, query.shape[-2]))
    step = run.backend.whole_step("scan", nothing, *tiled)
    if step is None:
        return None
    _, (output,) = step(run, nothing, *tiled, scale)
    return output


def _scan(run: Run, causal: Causal, state: Array, tiled: Arrays, scale: Array) -> tuple[Array, list[Array]]:
    """Return the state behind tokens (query, key, value and perhaps mask) in whole blocks, and parts of their outputs."""
    length, tile = tiled[0].shape[-2], run.plan.key_tile
    whole_step = run.backend.whole_step("scan", state, *tiled) if causal.block == 1 else None
    if whole_step is not None:
        state, outputs = whole_step(run, state, *tiled, scale)
        return state, [*outputs]
    if causal.block >= state.shape[-2]:  # a block is long enough to have a state of its own
        return _walk(run, _attend_block, state, tiled, scale, causal.block)
    if run.backend.traced:  # lengths may be symbols, and a loop compiles once: a chunk at a time
        return _walk(run, partial(_attend_chunks, causal, None), state, tiled, scale, causal.state_chunk(run.plan))
    chunk = causal.even_chunk(length, run.plan)
    step, whole = partial(_attend_chunks, causal, chunk), length // chunk * chunk
    state, parts = _walk(run, step, state, cut(tiled, 0, whole), scale, max(tile // chunk, 1) * chunk)
    if whole == length:
        return state, parts
    step, rest = partial(_attend_chunks, causal, length - whole), cut(tiled, whole, length)
    state, more = _walk(run, step, state, rest, scale, length - whole)
    return state, parts + more


def _walk(
    run: Run, step: Callable[..., Any], state: Array, tiled: Arrays, scale: Array, tile: int
) -> tuple[Array, list[Array]]:
    state, outputs = run.backend.scan_tiles(run, step, state, tiled, (scale,), tile)
    return state, [*outputs]


def _attend_block(run: Run, state: Array, query: Array, key: Array, value: Array, *rest: Array) -> tuple[Array, Arrays]:
    """Add one block, which its own queries see in full, to the state, and read it."""
    mask, scale = rest if len(rest) > 1 else (None, rest[0])
    state = state + _efficient.summarise(run, key, value, mask)
    return state, (_efficient.attend(run, query, state, scale),)


def _attend_chunks(
    causal: Causal, chunk: int | None, run: Run, state: Array, query: Array, key: Array, value: Array, *rest: Array
) -> tuple[Array, Arrays]:
    """Attend several chunks side by side, on an axis of their own: each to itself, and to the state before it."""
    chunk = query.shape[-2] if chunk is None else chunk
    xp, backend, (*masks, scale) = run.xp, run.backend, rest
    query, key, value, *masks = (stand_side_by_side(xp, array, chunk) for array in (query, key, value, *masks))
    mask = masks[0] if masks else None
    own, values = prepare_key(backend, key, mask, run.weighting), prepare_value(backend, value, mask)
    befores, state = running_sums(xp, state, _efficient.state_of(run, own, values))
    x = prepare_query(backend, query, xp.expand_dims(scale, axis=scale.ndim - 2), run.weighting)
    sums, count = _direct.meet_allowed(run, x, xp.matrix_transpose(own), values, causal.allowed(xp, x))
    weighted, totals = _efficient.readable(run, befores, x.shape[-2])
    sums = sums + _efficient.read(run, x, weighted, totals)
    output = divide(run, sums, count + totals[..., -1:], query)
    return state, (xp.reshape(output, (*output.shape[:-3], output.shape[-3] * chunk, output.shape[-1])),)


def stand_side_by_side(xp: Any, tokens: Array, chunk: int) -> Array:
    """Return (..., length, columns) as (..., chunks, chunk, columns)."""
    *leading, length, columns = tokens.shape
    return xp.reshape(tokens, (*leading, length // chunk, chunk, columns))


def running_sums(xp: Any, state: Array, parts: Array, *, backwards: bool = False) -> tuple[Array, Array]:
    """Return the states before each of (..., chunks, D, columns), and the one behind all; `backwards` from the last on."""
    befores, step = [], -1 if backwards else 1
    for i in range(parts.shape[-3])[::step]:
        befores.append(state)
        state = state + parts[..., i, :, :]
    # Dask asks for the kind of a result by calling with no token: then there is no chunk.
    return xp.stack(befores[::step], axis=state.ndim - 2) if befores else parts, state


def _join(run: Run, outputs: list[Array]) -> Array:
    return join(run.xp, [(output,) for output in outputs])[0]
