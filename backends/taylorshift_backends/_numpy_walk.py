"""Causal attention compiled whole: a walk along the tokens of each head, from tokens as they were given to outputs.

Which keys are met by scores, and which through a state, is planned in `taylorshift_core.walk`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_chunks import walk_heads
from taylorshift_backends._numpy_loops import WORTH_A_THREAD
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_steps import n_columns_of
from taylorshift_backends._numpy_threads import n_threads, run_jobs
from taylorshift_core.walk import plan_walk, scores_of_a_state, split_walk

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any
_TOGETHER = 2048  # tokens: of shorter heads, a job takes several


def scan(run: Run, carry: Array, query: Array, key: Array, value: Array, *rest: Array) -> tuple[Array, tuple[Array]]:
    """Return the state behind all tokens, and the outputs of their queries over the keys before them and their own.

    A `carry` without rows is a state of no keys, and no state is wanted behind them either. Arrays that are not
    contiguous are copied, a few heads at a time.
    """
    mask, scale = rest if len(rest) > 1 else (None, rest[0])
    leading, (length, dim), columns = carry.shape[:-2], query.shape[-2:], value.shape[-1] + 1
    heads, equal = math.prod(leading), scores_of_a_state(dim + 1, columns)
    groups = math.prod(query.shape[:-2]) // max(heads, 1)
    walk = plan_walk(length, dim + 1, columns, TOKENS, form=run.plan.form, with_state=carry.shape[-2] > 0)
    kept = np.empty((*leading, 0), np.bool_) if mask is None else np.broadcast_to(mask[..., 0], (*leading, length))
    state, output = np.empty_like(carry), np.empty((*query.shape[:-1], n_columns_of(run, columns - 1)), query.dtype)
    scales = np.empty((*query.shape[:-2], 1), query.dtype)
    scales[...] = scale[..., 0]
    weighting = run.weighting
    options = float(weighting.beta), float(weighting.gamma), weighting.normalise, run.mean_size_one, run.keep

    def job(first: int, last: int, start: int, stop: int) -> None:
        ours = [_of_heads(each, leading, 0, slice(first, last)) for each in (carry, key, value, kept, state)]
        theirs = [_of_heads(each, leading, groups, slice(first, last)) for each in (query, scales, output)]
        tokens = *ours[:-1], *theirs[:-1]
        walk_heads(*tokens, *options, *walk[1:], start, stop, ours[-1], theirs[-1])

    threads = min(n_threads(), max(1, int(heads * walk.cost(equal, groups) * (dim + 1 + columns)) // WORTH_A_THREAD))
    at_once = max(1, min(_TOGETHER // length, heads // threads))
    cuts = split_walk(walk, equal, groups, max(1, threads // max(heads, 1)))
    shares = [(first, min(first + at_once, heads)) for first in range(0, heads, at_once)]
    run_jobs(job, [(*share, *part) for share in shares for part in pairwise(cuts)], threads)
    return state, (output,)


def _of_heads(array: Array, leading: tuple[int, ...], groups: int, own: slice) -> Array:
    """Return what an array has of some key heads, (heads, [groups,] ...), contiguous: a view if the array is."""
    axes = len(leading)
    shape = (groups, *array.shape[axes:]) if groups else array.shape[axes:]
    if array.flags.c_contiguous:
        return array.reshape((math.prod(leading), *shape))[own]
    places = list(np.ndindex(leading[:-1] if groups else leading))[own]
    return np.stack([array[place] for place in places]).reshape((len(places), *shape))
