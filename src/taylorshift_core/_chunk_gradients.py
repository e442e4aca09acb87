"""Gradients of causal attention in the efficient form where a backend has whole steps: all chunks side by side.

A chunk reads the state of all before it, and meets itself by scores. It is so long that a state for each chunk takes about
as much memory as its tokens; where states would cost more than scores of all pairs, all tokens are one chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from taylorshift_core._causal import running_sums, stand_side_by_side
from taylorshift_core._direct_gradients import whole_vjp
from taylorshift_core._efficient import summarise
from taylorshift_core._efficient_gradients import read_vjp, summarise_vjp
from taylorshift_core._leading import leading_of, sum_to, zeros
from taylorshift_core.features import n_features
from taylorshift_core.loops import cut, join
from taylorshift_core.walk import chunk_of_gradients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taylorshift_core._causal import Causal
    from taylorshift_core._run import Run

Array = Any
Arrays = tuple[Array, ...]


def attend_vjp(
    run: Run, causal: Causal, reading: Arrays, tokens: Arrays, scale: Array, past: Array | None, to_state: Array | None
) -> Arrays | None:
    """Return the gradients that `_causal_gradients.attend_vjp` does, or None where the backend has no steps for them."""
    xp, end, (keys, dim), columns = run.xp, reading[0].shape[-2], tokens[0].shape[-2:], tokens[1].shape[-1] + 1
    tile = run.backend.tokens_at_once
    if tile is None or not causal.is_plain(end, keys):
        return None
    chunk = chunk_of_gradients(end, dim + 1, columns, tile, past=past is not None)
    scale, whole = xp.expand_dims(scale, axis=scale.ndim - 2), end // chunk * chunk
    parts = []
    for first, stop, length in ((0, whole, chunk), (whole, end, end - whole)):
        if first < stop:
            part = _Part.of(run, causal, _cut(xp, reading, first, stop), _cut(xp, tokens, first, stop), scale, length)
            if part is None:
                return None
            parts.append(part)
    unseen = cut(tokens, end, keys)
    shape = *leading_of(*tokens, *(() if past is None else (past,))), n_features(dim + 1), columns
    nothing = zeros(xp, reading[1], shape)
    beyond = [] if end == keys else [summarise_vjp(run, unseen, nothing if to_state is None else to_state)]
    if past is not None or chunk < end:
        to_state = nothing if to_state is None else to_state
        state, to_read = nothing if past is None else nothing + past, []
        for i, part in enumerate(parts):
            befores, state = running_sums(xp, state, summarise(run, *part.key_value_mask))
            parts[i], from_read = part.reads(run, scale, befores)
            to_read.append(from_read)
        for i in reversed(range(len(parts))):
            afters, to_state = running_sums(xp, to_state, to_read.pop(), backwards=True)
            parts[i] = parts[i].summed(run, afters)
    elif to_state is not None:
        parts = [part.summed(run, xp.expand_dims(to_state, axis=to_state.ndim - 2)) for part in parts]
    to_query = join(xp, [_in_a_row(xp, part.to_query) for part in parts])
    return *to_query, *join(xp, [_in_a_row(xp, part.to_tokens) for part in parts] + beyond), to_state


class _Part(NamedTuple):
    """Chunks side by side: (query, kept, cotangent), (key, value and perhaps mask), and their gradients so far."""

    reading: Arrays
    tokens: Arrays
    to_query: Arrays
    to_tokens: Arrays

    @classmethod
    def of(cls, run: Run, causal: Causal, reading: Arrays, tokens: Arrays, scale: Array, length: int) -> _Part | None:
        """Return chunks of so many tokens, with the gradients inside of each."""
        own, at = (tuple(stand_side_by_side(run.xp, x, length) for x in arrays) for arrays in (tokens, reading))
        gradients = whole_vjp(run, at, own, scale, causal)
        return None if gradients is None else cls(at, own, gradients[:2], gradients[2:])

    @property
    def key_value_mask(self) -> Arrays:
        """The tokens as `summarise` takes them."""
        return *self.tokens, *(None for _ in range(3 - len(self.tokens)))

    def reads(self, run: Run, scale: Array, befores: Array) -> tuple[_Part, Array]:
        """Return the part with the gradients through the states that its queries read, and those to these."""
        *to_query, to_states = read_vjp(run, self.reading, scale, befores)
        return self._replace(to_query=_add(self.to_query, to_query)), sum_to(run.xp, to_states, befores.shape[:-2])

    def summed(self, run: Run, afters: Array) -> _Part:
        """Return the part with the gradients through the states that its keys are summed to."""
        return self._replace(to_tokens=_add(self.to_tokens, summarise_vjp(run, self.tokens, afters)))


def _add(totals: Arrays, more: Sequence[Array]) -> Arrays:
    """Return the sums, in the memory of the first where arrays may be written: they are this file's own."""
    sums = []
    for total, each in zip(totals, more, strict=True):
        total += each  # noqa: PLW2901
        sums.append(total)
    return tuple(sums)


def _cut(xp: Any, arrays: Arrays, first: int, stop: int) -> Arrays:
    """Return some tokens in memory of their own, unless they are all: each of several steps would copy them otherwise."""
    everything = stop - first == arrays[0].shape[-2]
    return tuple(arrays) if everything else tuple(xp.asarray(x, copy=True) for x in cut(arrays, first, stop))


def _in_a_row(xp: Any, chunks: Arrays) -> Arrays:
    """Return (..., chunks, length, columns) as (..., tokens, columns)."""
    return tuple(xp.reshape(x, (*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])) for x in chunks)
