"""Causal attention compiled whole: a walk along the tokens of each head, from tokens as they were given to outputs.

Which keys are met by scores, and which through a state, is planned in `taylorshift_core.walk`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_backends._numpy_chunks import walk_job
from taylorshift_backends._numpy_items import kept_of, n_columns_of, options_of, threads_for
from taylorshift_backends._numpy_loops import in_order
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_threads import crew, run_jobs
from taylorshift_core.walk import plan_walk, scores_of_a_state, split_walk

if TYPE_CHECKING:
    from taylorshift_core import Run

Array = Any


def scan(run: Run, carry: Array, query: Array, key: Array, value: Array, *rest: Array) -> tuple[Array, tuple[Array]]:
    """Return the state behind all tokens, and the outputs of their queries over the keys before them and their own.

    A `carry` without rows is a state of no keys, and no state is wanted behind them either. Large arrays that are not
    in order are copied a head at a time.
    """
    mask, scale = rest if len(rest) > 1 else (None, rest[0])
    leading, (length, dim), columns = carry.shape[:-2], key.shape[-2:], value.shape[-1] + 1
    heads, equal = math.prod(leading), scores_of_a_state(dim + 1, columns)
    groups = math.prod(query.shape[:-2]) // max(heads, 1)
    walk = plan_walk(length, dim + 1, columns, TOKENS, form=run.plan.form, with_state=carry.shape[-2] > 0)
    threads = threads_for(int(heads * walk.cost(equal, groups) * (dim + 1 + columns)))
    cuts = split_walk(walk, equal, groups, max(1, threads // max(heads, 1)))
    options = np.append(options_of(run, len(cuts) - 1), (*walk[1:], *cuts)).reshape((1, 1, -1))
    state, output = np.empty_like(carry), np.empty((*query.shape[:-1], n_columns_of(run, columns - 1)), query.dtype)
    kept = np.empty((*leading, 1, length if mask is not None else 0), np.bool_)
    if mask is not None:
        kept[...] = kept_of(mask)
    scales = np.empty((*query.shape[:-2], 1), query.dtype)
    scales[...] = scale[..., 0]

    def walk_over(n: int, *arrays: Array) -> None:
        """Walk along `n` heads; each array has one part for each of them."""
        *tokens, states, outputs = (
            each.reshape((n, math.prod(each.shape[:-1]) // n, each.shape[-1])) for each in arrays
        )
        tokens[-1] = tokens[-1].reshape((n, 1, groups))
        operands = *map(np.ascontiguousarray, tokens), options, states, outputs
        crew().do(walk_job(query.dtype), n * (len(cuts) - 1), threads, operands, (1,) * len(operands))

    def walk_over_head(*head: int) -> None:
        walk_over(1, *(each[head if each.shape[:-2] == leading else head[:-1]] for each in arrays))

    arrays = carry, key, value, kept, query, scales, state, output
    if heads and in_order(arrays):
        walk_over(heads, *arrays)
    else:
        run_jobs(walk_over_head, list(np.ndindex(leading)), threads)
    return state, (output,)
