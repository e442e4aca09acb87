"""Packed sequences: many sequences of different lengths, one after the other in one array, without padding."""

from __future__ import annotations

from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Any

from taylorshift_core._attention import attention
from taylorshift_core._call import TAYLOR, check_call
from taylorshift_core._checks import is_array
from taylorshift_core._registry import backend_of
from taylorshift_core.entries import entry
from taylorshift_core.errors import DTypeError, ShapeError
from taylorshift_core.loops import join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taylorshift_core._call import Call

Array = Any


@entry
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
) -> Array:
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

    Returns
    -------
    array, shape (..., heads, total_queries, value_dim)
        Zeros for queries of a sequence without keys.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        Before any work.

    Notes
    -----
    Costs what `attention` costs for each sequence: the work grows with the sum of the lengths, never with the longest
    times the number of sequences. What stands in one sequence, NaN included, cannot reach another.

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
    queries, keys = _bounds(call, cu_seqlens_q, cu_seqlens_k)
    settings |= {"form": form, "normalise_output": normalise_output, "is_causal": is_causal}
    settings |= {"block_causal": block_causal, "prefix_length": prefix_length}
    outputs = []
    for q, k in zip(queries, keys, strict=True):
        mask = None if key_mask is None else key_mask[..., k]
        outputs.append((attention(query[..., q, :], key[..., k, :], value[..., k, :], key_mask=mask, **settings),))
    return join(call.backend.namespace, outputs)[0]


def _bounds(call: Call, cu_seqlens_q: Any, cu_seqlens_k: Any) -> tuple[list[slice], list[slice]]:
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
