"""Packed sequences: many sequences of different lengths, one after the other in one array, without padding."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, chain, pairwise
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any, overload

from taylorshift_core._attention import attention
from taylorshift_core._call import TAYLOR, check_call
from taylorshift_core._checks import is_array
from taylorshift_core._exchange import takes_dlpack
from taylorshift_core._pack import Pack, take
from taylorshift_core._registry import backend_of
from taylorshift_core.entries import entry
from taylorshift_core.errors import DTypeError, ShapeError
from taylorshift_core.features import n_features
from taylorshift_core.loops import join

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal, Unpack

    from taylorshift_core._call import Call
    from taylorshift_core._signature import ArrayT, PackedOptions
    from taylorshift_core._state import State

Array = Any
_ENTRIES_AT_ONCE = 1 << 16  # tokens of all heads: enough to make calls rare, and little memory


@overload
def attention_packed(
    query: ArrayT,
    key: ArrayT,
    value: ArrayT,
    *,
    cu_seqlens_q: Sequence[int] | Array,
    return_state: Literal[False] = False,
    **options: Unpack[PackedOptions],
) -> ArrayT: ...


@overload
def attention_packed(
    query: ArrayT,
    key: ArrayT,
    value: ArrayT,
    *,
    cu_seqlens_q: Sequence[int] | Array,
    return_state: Literal[True],
    **options: Unpack[PackedOptions],
) -> tuple[ArrayT, State]: ...


@overload
def attention_packed(
    query: ArrayT,
    key: ArrayT,
    value: ArrayT,
    *,
    cu_seqlens_q: Sequence[int] | Array,
    return_state: bool,
    **options: Unpack[PackedOptions],
) -> ArrayT | tuple[ArrayT, State]: ...


@entry
@takes_dlpack
def attention_packed(
    query: Array,
    key: Array,
    value: Array,
    *,
    cu_seqlens_q: Sequence[int] | Array,
    cu_seqlens_k: Sequence[int] | Array | None = None,
    form: str = "auto",
    scale: float | Array | None = None,
    normalise: bool = True,
    coefficients: Sequence[float] = TAYLOR,
    key_mask: Array | None = None,
    normalise_output: bool = False,
    is_causal: bool = False,
    block_causal: int | None = None,
    prefix_length: int = 0,
    return_state: bool = False,
) -> Any:
    """Return the attention of each sequence to itself, or to its own keys, for sequences packed end to end.

    Parameters
    ----------
    query : array, shape (..., heads, total_queries, head_dim)
        FlashAttention and PyTorch pack as (total_tokens, heads, dim): swap the first two axes before and after.
    key : array, shape (..., kv_heads, total_keys, head_dim)
    value : array, shape (..., kv_heads, total_keys, value_dim)
    cu_seqlens_q : integers, length n_sequences + 1
        Where the sequences begin and where the last one ends: sequence i holds the queries
        ``cu_seqlens_q[i]`` to ``cu_seqlens_q[i + 1] - 1``. A tuple or list, or an integer array, whose values are then
        read: on a GPU that waits for it, and it cannot be traced.
    cu_seqlens_k : integers, length n_sequences + 1, optional
        The same for keys and values; by default that of the queries.
    form
        As in `attention`; "auto" chooses for each sequence.
    is_causal, block_causal, prefix_length
        As in `attention`, in each sequence: query i sees keys 0..i of its own. (FlashAttention aligns the last query
        with the last key instead; that is the same where the lengths are equal.)
    scale, normalise, coefficients, key_mask, normalise_output
        As in `attention`.
    return_state
        Return ``(output, state)``: the states of all sequences in one State, on an axis before the heads,
        ``state.sums`` of shape (..., n_sequences, kv_heads, D, value_dim + 1). A `Decoder` goes on from it with a batch
        of one token a sequence.

    Returns
    -------
    array, shape (..., heads, total_queries, value_dim)
        Zeros for queries of a sequence without keys. With `return_state`, a pair of it and a State.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        Before any work.

    Notes
    -----
    Costs what `attention` costs for each sequence: the work grows with the sum of the lengths, never with the longest
    times the number of sequences. Short sequences of equal lengths are attended in one call. What stands in one sequence, NaN included, cannot reach another.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> attention_packed(x, x, x, cu_seqlens_q=(0, 1, 3))
    array([[1.        , 0.        , 0.        ],
           [0.        , 0.71428573, 0.2857143 ],
           [0.        , 0.2857143 , 0.71428573]], dtype=float32)
    """
    settings: dict[str, Any] = {"scale": scale, "normalise": normalise, "coefficients": coefficients}
    call = check_call(query, key, value, key_mask, **settings)
    queries, keys = bounds_of(call, cu_seqlens_q, cu_seqlens_k)
    settings |= {"form": form, "normalise_output": normalise_output, "is_causal": is_causal}
    settings |= {"block_causal": block_causal, "prefix_length": prefix_length}
    settings |= {"return_state": return_state}
    batches = _batches(call, queries, keys, features=form == "efficient" or return_state)
    outputs, states = [], []
    with call.backend.scope(query):
        for batch in batches:
            q, k = ([bounds[i] for i in batch] for bounds in (queries, keys))
            pack = Pack(call.backend.namespace, call.problem.single, len(batch))
            tokens = pack.gather(query, q), pack.gather(key, k), pack.gather(value, k)
            settings |= {"scale": pack.scale(scale), "key_mask": pack.gather_mask(key_mask, k, key.ndim)}
            output = attention(*tokens, **settings)
            if return_state:
                output, state = output
                states.append(replace(state, sums=pack.state_sums(state.sums)))
            outputs.append((pack.restore(output),))
        (joined,) = join(call.backend.namespace, outputs)
        joined = _in_order(call, joined, batches, queries)
        return (joined, _states_in_order(call, states, batches)) if return_state else joined


def _batches(call: Call, queries: list[slice], keys: list[slice], *, features: bool) -> list[list[int]]:
    """Return the numbers of the sequences that are attended at once: several of them where they are short and alike.

    With `features` each of them has a state, which counts as long as it is.
    """
    problem = call.problem
    alike: dict[tuple[int, int], list[int]] = {}
    heads = prod(size or 1 for size in (*problem.batch, problem.heads))
    least = n_features(problem.head_dim + 1) if features else 1
    for i, pair in enumerate(zip(queries, keys, strict=True)):
        q, k = (each.stop - each.start for each in pair)
        alike.setdefault((q, k), []).append(i)
    batches = []
    for lengths, numbers in alike.items():
        at_once = max(1, _ENTRIES_AT_ONCE // (heads * max(*lengths, least)))
        batches += [numbers[i : i + at_once] for i in range(0, len(numbers), at_once)]
    return batches


def _in_order(call: Call, output: Array, batches: list[list[int]], queries: list[slice]) -> Array:
    """Return outputs whose sequences come batch by batch in the order that they have in the pack."""
    order = list(chain.from_iterable(batches))
    if order == sorted(order) or not output.shape[-2]:
        return output
    starts = dict(zip(order, accumulate((queries[i].stop - queries[i].start for i in order), initial=0), strict=False))
    places = chain.from_iterable(range(starts[i], starts[i] + q.stop - q.start) for i, q in enumerate(queries))
    return take(call.backend.namespace, output, list(places), output.ndim - 2)


def _states_in_order(call: Call, states: list[State], batches: list[list[int]]) -> State:
    """Return the states of all sequences as one, in the order that they have in the pack."""
    xp, order = call.backend.namespace, list(chain.from_iterable(batches))
    axis = states[0].sums.ndim - (3 if call.problem.single else 4)
    sums = states[0].sums if len(states) == 1 else xp.concat([state.sums for state in states], axis=axis)
    if order != sorted(order):
        sums = take(xp, sums, sorted(range(len(order)), key=order.__getitem__), axis)
    return replace(states[0], sums=sums)


def bounds_of(call: Call, cu_seqlens_q: Any, cu_seqlens_k: Any) -> tuple[list[slice], list[slice]]:
    """Return the queries and the keys of each sequence; raise unless both cut all tokens into as many."""
    problem = call.problem
    queries = _check("cu_seqlens_q", cu_seqlens_q, "query", problem.query_length)
    if cu_seqlens_k is None:
        keys = _check("cu_seqlens_k, by default cu_seqlens_q,", queries, "key", problem.key_length)
    else:
        keys = _check("cu_seqlens_k", cu_seqlens_k, "key", problem.key_length)
    if len(queries) != len(keys):
        msg = (
            f"cu_seqlens_q and cu_seqlens_k must be of the same number of sequences; "
            f"got {len(queries) - 1} and {len(keys) - 1}. A sequence without keys has two equal numbers in cu_seqlens_k."
        )
        raise ShapeError(msg)
    return [slice(*pair) for pair in pairwise(queries)], [slice(*pair) for pair in pairwise(keys)]


def _check(name: str, cu_seqlens: Any, tokens: str, total: int | None) -> list[int]:
    """Return the bounds as integers; raise unless they cut `total` tokens into sequences."""
    bounds = _integers(name, cu_seqlens)
    bounds = bounds * 2 if bounds == [0] else bounds  # no sequences
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != total or any(b < a for a, b in pairwise(bounds)):
        shown = ", ".join(map(str, bounds if len(bounds) < 9 else [*bounds[:4], "...", *bounds[-4:]]))
        msg = (
            f"{name} must start at 0, never decrease, and end at the number of tokens of {tokens}, {total}; got ({shown}). "
            f"It holds where sequences begin, not their lengths: itertools.accumulate(lengths, initial=0)."
        )
        raise ShapeError(msg)
    return bounds


def _integers(name: str, cu_seqlens: Any) -> list[int]:
    if is_array(cu_seqlens):
        cu_seqlens = backend_of(**{name: cu_seqlens}).to_numpy(cu_seqlens)
        if cu_seqlens.ndim != 1 or cu_seqlens.dtype.kind not in "iu":
            msg = f"{name} must be integers along one axis; got {cu_seqlens.dtype} of shape {cu_seqlens.shape}."
            raise DTypeError(msg)
        cu_seqlens = cu_seqlens.tolist()
    try:
        return [index(each) for each in cu_seqlens]
    except TypeError:
        msg = f"{name} must be a tuple, list or array of integers; got {cu_seqlens!r}. Convert it with tolist()."
        raise DTypeError(msg) from None
