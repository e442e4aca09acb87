"""Gradients without automatic differentiation: vector-Jacobian and Jacobian-vector products of `attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, overload

from taylorshift_core._attention import evaluation_of, results_of, state_of
from taylorshift_core._checks import is_array
from taylorshift_core._exchange import takes_dlpack
from taylorshift_core._registry import backend_of
from taylorshift_core._state import State
from taylorshift_core.errors import BackendError, DTypeError, OptionError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal, Unpack

    from taylorshift_core._evaluation import Evaluation, Operands
    from taylorshift_core._signature import AllOptions, ArrayT, Options

Array = Any
_COTANGENTS = ("cotangent", "cotangent of the state")


class Gradients(NamedTuple):
    """Gradients, or tangents, of all that `attention` can be differentiated by; each has the shape of what it belongs to.

    Parameters
    ----------
    query, key, value : array
    scale : array
        Of shape () where the scale is a number or left out.
    state : State, optional
        None where no state is given.
    """

    query: Array
    key: Array
    value: Array
    scale: Array | None = None
    state: State | None = None


@overload
def attention_vjp(
    query: ArrayT,
    key: ArrayT,
    value: ArrayT,
    *,
    return_state: Literal[False] = False,
    **options: Unpack[Options],
) -> tuple[ArrayT, Callable[[ArrayT], Gradients]]: ...


@overload
def attention_vjp(
    query: ArrayT, key: ArrayT, value: ArrayT, *, return_state: bool, **options: Unpack[Options]
) -> tuple[Any, Callable[[Any], Gradients]]: ...


@takes_dlpack
def attention_vjp(
    query: Array, key: Array, value: Array, **options: Unpack[AllOptions]
) -> tuple[Any, Callable[[Any], Gradients]]:
    """Return the attention, and the function that pulls gradients back through it.

    For libraries without automatic differentiation, such as NumPy and CuPy; PyTorch, JAX and MLX find the same
    gradients through `attention` by themselves.

    Parameters
    ----------
    query, key, value
        As in `attention`.
    **options
        The keywords of `attention`.

    Returns
    -------
    output
        What `attention` returns.
    pullback
        ``cotangent -> Gradients``, where `cotangent` is the gradient of some number to `output`, an array of its shape
        and dtype. With `return_state` it is a pair of that and of the gradient to the state returned, which is itself a
        State; None stands for zeros in either. It may be called more than once.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        As `attention`, and where the library's arrays have no gradients.

    Notes
    -----
    The pullback costs about twice what `attention` does in the efficient form, two and a half times in the direct and
    the causal ones. It keeps the arrays given, one more output and a number a query, and builds features and scores
    again a tile at a time: memory ``O(length * (head_dim + value_dim))`` and a state.

    Sums are kept in float32 for narrower dtypes, and gradients come in the dtypes of what they belong to. Gradients are
    zero of rows of zeros that are normalised, of what stands behind a mask, and of a query that may attend no key.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3)
    >>> output, pullback = attention_vjp(x, x, x)
    >>> pullback(np.ones((3, 3))).value[0]
    array([1., 1., 1.])
    """
    evaluation, operands = evaluation_of(query, key, value, **options)
    _check_gradients(evaluation)
    results, kept = evaluation.attend_keeping(operands)
    kinds = [(tuple(result.shape), result.dtype) for result in results]

    @takes_dlpack
    def pullback(cotangent: Any) -> Gradients:
        cotangents = _cotangents_of(cotangent, with_state=evaluation.with_state)
        for name, given, kind in zip(_COTANGENTS, cotangents, kinds, strict=False):
            check_same(name, given, query, *kind)
        to_query, to_key, to_value, to_scale, to_sums = evaluation.vjp(operands, kept, cotangents)
        state = None if to_sums is None else state_of(evaluation, to_sums)
        return Gradients(to_query, to_key, to_value, to_scale, state)

    return results_of(evaluation, results), pullback


@overload
def attention_jvp(
    primals: Sequence[ArrayT],
    tangents: Sequence[Any],
    *,
    return_state: Literal[False] = False,
    **options: Unpack[Options],
) -> tuple[ArrayT, ArrayT]: ...


@overload
def attention_jvp(
    primals: Sequence[ArrayT], tangents: Sequence[Any], *, return_state: bool, **options: Unpack[Options]
) -> tuple[Any, Any]: ...


@takes_dlpack
def attention_jvp(primals: Sequence[Array], tangents: Sequence[Any], **options: Unpack[AllOptions]) -> tuple[Any, Any]:
    """Return the attention, and by how much it changes as its arguments move.

    Parameters
    ----------
    primals : (query, key, value)
        As in `attention`.
    tangents : (query, key, value) or (query, key, value, scale, state), such as `Gradients`
        The directions to move in, of the shapes and dtypes of what moves: the scale may be a number, and the tangent of
        a state is a State. None stands for zeros.
    **options
        The keywords of `attention`, where `scale` and `state` are those that move.

    Returns
    -------
    output, tangent
        What `attention` returns, and its tangent of the same kind.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        As `attention`, and where the library's arrays have no gradients.

    Notes
    -----
    Costs about three times what `attention` does, and holds nothing but what it returns beside its tiles.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3)
    >>> attention_jvp((x, x, x), (None, None, np.ones((3, 3))))[1][0]
    array([1., 1., 1.])
    """
    evaluation, operands = evaluation_of(*primals, **options)
    _check_gradients(evaluation)
    given = Gradients(*tangents)
    moving = *given[:-1], _sums_of("tangent of the state", given.state)
    _check_tangents(operands, moving)
    at, by = evaluation.jvp(operands, moving)
    return results_of(evaluation, at), results_of(evaluation, by)


def _check_gradients(evaluation: Evaluation) -> None:
    """Raise where arrays of the library have no gradients."""
    backend = evaluation.run.backend
    if backend.no_gradients is not None:
        msg = f"arrays of {backend.name} have no gradients: {backend.no_gradients}"
        raise BackendError(msg)


def _cotangents_of(given: Any, *, with_state: bool) -> tuple[Array | None, ...]:
    """Return the arrays in what a pullback is given, one for each result, None for zeros."""
    if not with_state:
        return (given,)
    if isinstance(given, tuple) and len(given) == len(_COTANGENTS):
        return given[0], _sums_of("cotangent of the state", given[1])
    msg = f"with return_state the cotangent must be a pair, of the output and of the state; got {type(given).__name__}"
    raise OptionError(msg)


def _sums_of(name: str, state: Any) -> Array | None:
    if state is None or isinstance(state, State):
        return None if state is None else state.sums
    msg = f"the {name} must be a State or None; got {type(state).__name__}"
    raise OptionError(msg)


def _check_tangents(operands: Operands, tangents: Sequence[Any]) -> None:
    """Raise unless each tangent is of the shape and dtype of what moves."""
    for name, at, by in zip(Gradients._fields, operands, tangents, strict=False):
        if by is None or (name == "scale" and not is_array(at) and not is_array(by)):
            continue
        if not is_array(at):
            msg = f"what is not given as an array has no tangent; got one of {name}"
            raise OptionError(msg)
        check_same(f"tangent of {name}", by, operands.query, tuple(at.shape), at.dtype)


def check_same(name: str, array: Any, like: Array, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise unless `array` is None, or of the library and device of another and of this shape and dtype."""
    if array is None:
        return
    backend_of(query=like, **{name.replace(" ", "_"): array})
    if tuple(array.shape) != shape:
        msg = f"the {name} must have shape {shape}; got {tuple(array.shape)}"
        raise ShapeError(msg)
    if array.dtype != dtype:
        msg = f"the {name} must have dtype {dtype}; got {array.dtype}. Convert it with astype."
        raise DTypeError(msg)
