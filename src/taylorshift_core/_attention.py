"""The public functions: check, plan, prepare, run a form, and give back the caller's kind of array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from taylorshift_core import _direct, _prepare
from taylorshift_core._call import TAYLOR, check_call
from taylorshift_core._causal import Causal, check_causal
from taylorshift_core._checks import check_choice, check_mask
from taylorshift_core._evaluation import Evaluation, Operands
from taylorshift_core._exchange import takes_dlpack
from taylorshift_core._forms import Inputs
from taylorshift_core._namespace import sizes_of
from taylorshift_core._plan import check_plan
from taylorshift_core._run import Run
from taylorshift_core._state import State, check_state
from taylorshift_core.entries import entry
from taylorshift_core.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal, Unpack

    from taylorshift_core._plan import Plan
    from taylorshift_core._signature import ArrayT, Options

Array = Any


@overload
def attention(
    query: ArrayT,
    key: ArrayT,
    value: ArrayT,
    *,
    return_state: Literal[False] = False,
    **options: Unpack[Options],
) -> ArrayT: ...


@overload
def attention(
    query: ArrayT, key: ArrayT, value: ArrayT, *, return_state: Literal[True], **options: Unpack[Options]
) -> tuple[ArrayT, State]: ...


@overload
def attention(
    query: ArrayT, key: ArrayT, value: ArrayT, *, return_state: bool, **options: Unpack[Options]
) -> ArrayT | tuple[ArrayT, State]: ...


@entry
@takes_dlpack
def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    form: str = "auto",
    scale: float | Array | None = None,
    normalise: bool = True,
    coefficients: Sequence[float] = TAYLOR,
    key_mask: Array | None = None,
    normalise_output: bool = False,
    is_causal: bool = False,
    block_causal: int | None = None,
    prefix_length: int = 0,
    attn_mask: Array | None = None,
    state: State | None = None,
    return_state: bool = False,
    objective: str = "time",
    plan: Plan | None = None,
) -> Any:
    """Mix the values, weighted by a second-order polynomial of the scores of each query with each key.

    The score of a query and a key is ``s = scale * q.k / (|q| |k|)``, its weight ``a*s**2 + b*s + c``, and the output
    is the weighted mean of the values.

    Parameters
    ----------
    query : array, shape (..., heads, query_length, head_dim)
        Any array-API library; real floating point. With two axes there is one head. It is never written.
    key : array, shape (..., kv_heads, key_length, head_dim)
        Same library, device, dtype and number of axes as `query`. `heads` must be a multiple of `kv_heads`: each key
        head serves a contiguous group of query heads. Axes before the heads broadcast.
    value : array, shape (..., kv_heads, key_length, value_dim)
        `value_dim` may differ from `head_dim`.
    form : {"auto", "direct", "efficient"}
        Both compute the same result: the direct form in ``O(query_length * key_length * head_dim)`` operations, the
        efficient form in ``O((query_length + key_length) * head_dim**2 * value_dim)``. "auto" takes the one that is better
        by `objective`.
    scale : float or array, optional
        A number, or an array of shape (), (heads,) or (..., heads, 1, 1). Default 1, or ``1 / sqrt(head_dim)`` without
        `normalise`.
    normalise : bool
        Divide each row of `query` and `key` by its Euclidean norm first; rows of zeros stay zero.
    coefficients : three floats
        (a, b, c) of the weight, default the Taylor polynomial of exp. Weights must not be negative for any score.
    key_mask : boolean array, optional
        True = attend. Shape (key_length,), (..., key_length) without a heads axis, or (..., heads, key_length) with
        one of size 1, kv_heads or heads. What stands in masked places, NaN included, never reaches the output.
    normalise_output : bool
        Multiply by ``sqrt(n_attended / head_dim)``, which keeps the mean size of the output near one at any length.
    is_causal : bool
        Query i sees keys 0..i only, as in PyTorch and JAX also where the lengths differ. Tokens that came before are
        given as a `state`, and seen by all.
    block_causal : int, optional
        Causal in blocks of so many tokens: those of one block see each other.
    prefix_length : int
        With one of the two above: so many first keys are seen by all; blocks are counted behind them.
    attn_mask : boolean array, optional
        True = attend; broadcasts to (..., heads, query_length, key_length). Has no efficient form. Where a lazy
        library does not know the lengths, causal attention is computed as such a mask.
    state : State, optional
        Keys and values seen before (by `summarise`, or returned by an earlier call): attended as well.
    return_state : bool
        Return ``(output, state)``, the state of all keys seen so far.
    objective : {"time", "memory"}
        What ``form="auto"`` keeps small: the predicted time of the call, or what it holds beside inputs and output.
    plan : Plan, optional
        What `explain` returned, perhaps changed. It says which form; another `form` beside it is an error.

    Returns
    -------
    array, shape (..., heads, query_length, value_dim)
        Library, dtype and device of the input. A query that may attend no key gives zeros. With `return_state`, a
        pair of it and a State.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        Before any work, when the input does not fit the description above.

    Notes
    -----
    Sums are kept in float32 for narrower dtypes, else in the dtype given. Temporaries are tiles of a fixed size: in
    the efficient form they do not grow with the lengths at all, in the direct form by one prepared copy of the keys
    and values.

    References
    ----------
    Nauen, Palacio, Dengel: TaylorShift (ICPR 2024), arXiv 2403.02920.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> attention(x, x, x)
    array([[0.5555556 , 0.22222222, 0.22222222],
           [0.22222222, 0.5555556 , 0.22222222],
           [0.22222222, 0.22222222, 0.5555556 ]], dtype=float32)
    """
    evaluation, operands = evaluation_of(
        query,
        key,
        value,
        form=form,
        scale=scale,
        normalise=normalise,
        coefficients=coefficients,
        key_mask=key_mask,
        normalise_output=normalise_output,
        is_causal=is_causal,
        block_causal=block_causal,
        prefix_length=prefix_length,
        attn_mask=attn_mask,
        state=state,
        return_state=return_state,
        objective=objective,
        plan=plan,
    )
    return results_of(evaluation, evaluation.run.backend.differentiable(evaluation, operands))


def evaluation_of(
    query: Array,
    key: Array,
    value: Array,
    *,
    form: str = "auto",
    scale: float | Array | None = None,
    normalise: bool = True,
    coefficients: Sequence[float] = TAYLOR,
    key_mask: Array | None = None,
    normalise_output: bool = False,
    is_causal: bool = False,
    block_causal: int | None = None,
    prefix_length: int = 0,
    attn_mask: Array | None = None,
    state: State | None = None,
    return_state: bool = False,
    objective: str = "time",
    plan: Plan | None = None,
) -> tuple[Evaluation, Operands]:
    """Check the arguments of `attention`; return what to compute, and the arrays."""
    check_choice(form, objective)
    call = check_call(query, key, value, key_mask, scale, coefficients, normalise=normalise, attn_mask=attn_mask)
    causal = check_causal(is_causal=is_causal, block_causal=block_causal, prefix_length=prefix_length)
    form = form if plan is None else check_plan(plan, form)
    if attn_mask is not None:
        form = _check_dense(form, causal)
    elif causal is not None and None in (sizes_of(query)[-2], sizes_of(key)[-2]):
        form, attn_mask, causal = _check_unknown(form), causal.rule(call.backend.namespace, query, key), None
    if state is not None:
        check_state(state, call)
    if return_state and key_mask is not None:  # one state a key head: one row of the mask
        check_mask(call.backend.namespace, key_mask, key, call.problem.batch, call.problem.kv_heads)
    if plan is None:
        visible = "all" if causal is None else "causal"
        visible = visible if attn_mask is None else "dense"
        past = state is not None
        plan = call.plan(form, objective, visible=visible, past=past, with_state=return_state, elsewhere=True)
    run = Run(call.backend, plan, call.weighting, normalise_output)
    sums = None if state is None else state.sums
    return Evaluation(call, run, causal, return_state), Operands(query, key, value, scale, sums, key_mask, attn_mask)


def results_of(evaluation: Evaluation, results: tuple[Array, ...]) -> Any:
    """Return the output, or with a state the pair of both, as `attention` does."""
    return (results[0], state_of(evaluation, results[1])) if evaluation.with_state else results[0]


def state_of(evaluation: Evaluation, sums: Array) -> State:
    """Return the State of sums that an evaluation computed."""
    return State(sums, evaluation.call.problem.head_dim, evaluation.call.weighting)


def _check_dense(form: str, causal: Causal | None) -> str:
    """Refuse what a dense mask cannot be combined with; return the only form that it has."""
    if causal is not None:
        msg = "attn_mask cannot be combined with is_causal or block_causal; put the causal rule into attn_mask"
        raise OptionError(msg)
    if form == "efficient":
        msg = (
            "attn_mask has no efficient form, since each query would need a state of its own; got the efficient form. "
            "Masks in linear time: key_mask, is_causal, block_causal, prefix_length."
        )
        raise OptionError(msg)
    return "direct"


def _check_unknown(form: str) -> str:
    """Refuse what needs lengths to be known; return the only causal form that does not."""
    if form == "efficient":
        msg = (
            "is_causal and block_causal have an efficient form only where lengths are known; got form='efficient' and "
            "arrays of unknown length. Take form='direct', or make the lengths known (Dask: compute_chunk_sizes)."
        )
        raise OptionError(msg)
    return "direct"


@entry
@takes_dlpack
def attention_weights(
    query: ArrayT,
    key: ArrayT,
    *,
    scale: float | Array | None = None,
    normalise: bool = True,
    coefficients: Sequence[float] = TAYLOR,
    key_mask: Array | None = None,
) -> ArrayT:
    """Return the matrix of attention weights, for those who want to look at it.

    Parameters
    ----------
    query : array, shape (..., heads, query_length, head_dim)
    key : array, shape (..., kv_heads, key_length, head_dim)
    scale, normalise, coefficients, key_mask
        As in `attention`, and so are the errors.

    Returns
    -------
    array, shape (..., heads, query_length, key_length)
        Each row sums to 1, or to 0 where the query may attend no key.

    Notes
    -----
    The whole matrix is held in memory: ``query_length * key_length`` entries a head.

    Examples
    --------
    >>> import numpy as np
    >>> attention_weights(np.ones((2, 1)), np.asarray([[1.0], [-1.0]]))
    array([[0.83333333, 0.16666667],
           [0.83333333, 0.16666667]])
    """
    call = check_call(query, key, None, key_mask, scale, coefficients, normalise=normalise)
    run = Run(call.backend, call.plan("direct"), call.weighting)
    with call.backend.scope(query):
        inputs = Inputs.group(call, query, key, key, key_mask, scale)
        matrix = _direct.matrix(run, inputs.query, inputs.key, inputs.mask, inputs.scale)
        weights: ArrayT = _prepare.ungroup(run.xp, matrix, call.problem)
        return weights


@takes_dlpack
def explain(
    query: Array,
    key: Array,
    value: Array,
    *,
    form: str = "auto",
    scale: float | Array | None = None,
    normalise: bool = True,
    coefficients: Sequence[float] = TAYLOR,
    key_mask: Array | None = None,
    normalise_output: bool = False,
    is_causal: bool = False,
    block_causal: int | None = None,
    prefix_length: int = 0,
    attn_mask: Array | None = None,
    state: State | None = None,
    return_state: bool = False,
    objective: str = "time",
) -> Plan:
    """Return the plan that `attention` would follow for the same arguments, without computing anything.

    Parameters and errors are those of `attention`.

    Returns
    -------
    Plan
        Prints as a small table: the form and why, predicted time, operations and memory, tiles, crossover, rounding
        error. It can be given to `attention` as `plan`, changed by `dataclasses.replace` or as it is.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((8, 100, 64), dtype=np.float32)
    >>> explain(x, x, x).form
    'direct'
    """
    evaluation, _ = evaluation_of(
        query,
        key,
        value,
        form=form,
        scale=scale,
        normalise=normalise,
        coefficients=coefficients,
        key_mask=key_mask,
        normalise_output=normalise_output,
        is_causal=is_causal,
        block_causal=block_causal,
        prefix_length=prefix_length,
        attn_mask=attn_mask,
        state=state,
        return_state=return_state,
        objective=objective,
    )
    return evaluation.run.plan
