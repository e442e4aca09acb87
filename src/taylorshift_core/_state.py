"""The state: all that attention needs to know of the keys and values seen so far, in constant size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from taylorshift_core import _checks, _efficient, _prepare
from taylorshift_core._call import TAYLOR, Call, check_call
from taylorshift_core._exchange import takes_dlpack
from taylorshift_core._kinds import check_combine, check_fits
from taylorshift_core._namespace import device_of, sizes_of
from taylorshift_core._registry import backend_of, load_backend
from taylorshift_core._run import Run
from taylorshift_core.entries import entry
from taylorshift_core.errors import DTypeError, OptionError
from taylorshift_core.features import n_features

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from taylorshift_core._backend import Backend
    from taylorshift_core._signature import ArrayT

Array = Any


@dataclass(frozen=True, eq=False)
class State:
    """Sums over keys and values; the states of two sets of tokens add up to the state of both.

    Made by `summarise`, by `attention(..., return_state=True)`, by `State.zeros` or by `State.load`. Nothing changes a
    state: what adds or removes returns a new one. JAX and PyTorch take states for pytrees.

    Parameters
    ----------
    sums : array, shape (..., kv_heads, D, value_dim + 1)
        Sum over tokens of the features of the key times [value, 1]; D = (head_dim + 1)(head_dim + 2)/2. In the
        precision that the library sums in: float32 for narrower dtypes.
    head_dim
        Entries of a key.
    weighting
        How scores become weights. States of different weightings do not mix. The scale belongs to the query.

    Notes
    -----
    Removing leaves rounding behind, of about ``eps`` times the largest sums there have been; a NaN or an infinity that
    was added stays, also when its token is removed. Whether what is removed was there is not checked.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> state = summarise(x, x).remove(x[:1], x[:1])
    >>> state.attend(x)[0], state.token_count
    (array([0. , 0.5, 0.5], dtype=float32), array(2., dtype=float32))
    """

    sums: Array
    head_dim: int
    weighting: _checks.Weighting

    def __repr__(self) -> str:
        """Say what the sums are, not each of them."""
        sums = f"<{self.sums.dtype} of shape {tuple(self.sums.shape)}>"
        return f"State(sums={sums}, head_dim={self.head_dim}, weighting={self.weighting})"

    @classmethod
    def zeros(
        cls,
        like: Array,
        *,
        head_dim: int,
        value_dim: int,
        leading: tuple[int, ...] = (),
        normalise: bool = True,
        coefficients: Sequence[float] = TAYLOR,
    ) -> State:
        """Return the state of no tokens, to which any may be added.

        Parameters
        ----------
        like : array
            Of the library, device and dtype that keys will have.
        head_dim, value_dim
            Entries of a key and of a value.
        leading
            The axes (..., kv_heads); () for one head without a heads axis.
        normalise, coefficients
            As in `attention`.
        """
        backend = backend_of(like=like)
        xp = backend.namespace
        _checks.check_dtype(xp, like=like)
        device = device_of(like)
        place = {} if device is None else {"device": device}
        shape = (*leading, n_features(head_dim + 1), value_dim + 1)
        with backend.scope(like):
            sums = xp.zeros(shape, dtype=backend.working_dtype(xp, like.dtype), **place)
        return cls(sums, head_dim, _checks.check_weighting(coefficients, normalise=normalise))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str = "numpy", device: Any = None) -> State:
        """Return the state in a file that `save` wrote, as an array of any library.

        Raises
        ------
        StateFileError
            If the file is no state, of a later version, truncated or damaged.
        DTypeError
            If the library has no floating point of the state's precision.
        """
        from taylorshift_core import _state_file  # noqa: PLC0415  files are rare, and their modules slow to import

        sums, settings, _ = _state_file.read(path)
        weighting = _state_file.weighting_of(settings)
        return cls(_received(load_backend(backend), sums, device), settings["head_dim"], weighting)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the state to a .safetensors file, whole or not at all: arrays and settings, nothing to execute.

        Raises
        ------
        OptionError
            If the file exists, unless `overwrite`.
        """
        from taylorshift_core import _state_file  # noqa: PLC0415  as in load

        sums = backend_of(state=self.sums).to_numpy(self.sums)
        _state_file.write(path, sums, _state_file.settings_of(self), overwrite=overwrite)

    def to(self, backend: str, *, device: Any = None) -> State:
        """Return this state as an array of another library or device, by way of NumPy."""
        sums = backend_of(state=self.sums).to_numpy(self.sums)
        return replace(self, sums=_received(load_backend(backend), sums, device))

    @property
    def token_count(self) -> Array:
        """How many tokens there are in the state: an array of shape (..., kv_heads), exact up to 2**24 in float32."""
        return self.sums[..., self.head_dim, -1]

    @property
    def value_dim(self) -> int:
        """Entries of a value."""
        return int(self.sums.shape[-1]) - 1

    @entry
    def __add__(self, other: object) -> State:
        """Return the state of the tokens of both."""
        if not isinstance(other, State):
            return NotImplemented
        check_combine(self, other)
        with backend_of(state=self.sums).scope(self.sums):
            return replace(self, sums=self.sums + other.sums)

    def __radd__(self, other: object) -> State:
        """Return this state for ``0 + state``, where `sum` begins."""
        return self if type(other) is int and other == 0 else NotImplemented

    @entry
    def __sub__(self, other: object) -> State:
        """Return the state of the tokens of this one without those of `other`."""
        if not isinstance(other, State):
            return NotImplemented
        check_combine(self, other)
        with backend_of(state=self.sums).scope(self.sums):
            return replace(self, sums=self.sums - other.sums)

    def merge(self, *others: State) -> State:
        """Return the state of the tokens of all; axes before the heads broadcast.

        Raises
        ------
        OptionError
            If the states differ in head_dim, value_dim, heads, dtype or weighting.
        """
        return reduce(add, others, self)

    @entry
    @takes_dlpack
    def add(self, key: Array, value: Array, *, key_mask: Array | None = None) -> State:
        """Return the state with more keys and values, given as to `summarise`."""
        return self + self._summarise(key, value, key_mask)

    @entry
    @takes_dlpack
    def remove(self, key: Array, value: Array, *, key_mask: Array | None = None) -> State:
        """Return the state without keys and values that were added before, in any order and grouping."""
        return (self - self._summarise(key, value, key_mask))._cleared()

    def _cleared(self) -> State:
        """Return the state with zeros where it has no tokens: what is left there of removing them is rounding."""
        backend = backend_of(state=self.sums)
        xp = backend.namespace
        with backend.scope(self.sums):
            some = self.sums[..., self.head_dim : self.head_dim + 1, -1:] != 0
            return replace(self, sums=xp.where(some, self.sums, xp.zeros_like(self.sums)))

    def _summarise(self, key: Array, value: Array, key_mask: Array | None) -> State:
        call = check_call(key, key, value, key_mask, normalise=self.weighting.normalise)
        return _summarise(replace(call, weighting=self.weighting), key, value, key_mask)

    @entry
    @takes_dlpack
    def read(self, query: ArrayT, *, scale: float | Array | None = None) -> ArrayT:
        """Return the sums of [value, 1] over the keys in this state, weighted for each query.

        Parameters
        ----------
        query : array, shape (..., heads, query_length, head_dim)
            Of the library and device of the state; `heads` a multiple of its kv_heads.
        scale
            As in `attention`.

        Returns
        -------
        array, shape (..., heads, query_length, value_dim + 1)
            In the dtype of the state, up to the factor a of the coefficients. Sums over disjoint sets of keys add up,
            and ``sums[..., :-1] / sums[..., -1:]`` is the attention.

        Raises
        ------
        ShapeError, DTypeError, OptionError, BackendError
            When `query` does not fit the state.

        Notes
        -----
        Costs ``2 * D * (value_dim + 1)`` operations a query, whatever the number of keys.
        """
        call = self._check(query, scale)
        xp = call.backend.namespace
        run = Run(call.backend, call.plan("efficient"), self.weighting)
        with call.backend.scope(query):
            readable = _efficient.readable(run, _prepare.group_key(self._cleared().sums), self.head_dim + 1)
            whole = (*readable, _prepare.group_scale(call, scale))
            tiled = (_prepare.group_query(xp, query, call.problem),)
            (sums,) = run.backend.map_tiles(run, _read, tiled, whole, run.plan.query_tile)
            read: ArrayT = _prepare.ungroup(xp, sums, call.problem)
            return read

    @entry
    @takes_dlpack
    def attend(self, query: ArrayT, *, scale: float | Array | None = None, normalise_output: bool = False) -> ArrayT:
        """Return the attention of `query` over the keys in this state.

        Parameters
        ----------
        query, scale
            As in `read`, and so are the errors and the cost.
        normalise_output
            As in `attention`.

        Returns
        -------
        array, shape (..., heads, query_length, value_dim)
            In the dtype of `query`.
        """
        call = self._check(query, scale)
        xp = call.backend.namespace
        run = Run(call.backend, call.plan("efficient"), self.weighting, normalise_output)
        with call.backend.scope(query):
            queries, sums = _prepare.group_query(xp, query, call.problem), _prepare.group_key(self._cleared().sums)
            grouped = _efficient.attend(run, queries, sums, _prepare.group_scale(call, scale))
            output: ArrayT = _prepare.ungroup(xp, grouped, call.problem)
            return output

    def _check(self, query: Array, scale: float | Array | None) -> Call:
        _checks.check_scale_number(scale)
        scales = {"scale": scale} if _checks.is_array(scale) else {}
        backend = backend_of(query=query, state=self.sums, **scales)
        xp = backend.namespace
        _checks.check_dtype(xp, query=query)
        if backend.working_dtype(xp, query.dtype) != self.sums.dtype:
            msg = f"query of dtype {query.dtype} must be summed in the precision of the state; got {self.sums.dtype}"
            raise DTypeError(msg)
        shapes = {"query": sizes_of(query), "key": (*sizes_of(self.sums)[:-2], None, self.head_dim)}
        problem = _checks.problem_of(shapes, value_dim=self.value_dim)
        if scales:
            _checks.check_scale_array(xp, scale, query, problem.heads)
        return Call(backend, problem, self.weighting, self.sums.dtype, device_of(query))

    def tree_flatten(self) -> tuple[tuple[Array], tuple[Any, ...]]:
        """Return the arrays, and the rest: the names that JAX asks for, see `jax.tree_util.register_pytree_node_class`."""
        weighting = self.weighting
        return (self.sums,), (self.head_dim, weighting.beta, weighting.gamma, weighting.normalise)

    @classmethod
    def tree_unflatten(cls, rest: tuple[Any, ...], arrays: Iterable[Array]) -> State:
        """Return the state of what `tree_flatten` returned."""
        (sums,) = arrays
        head_dim, *weighting = rest
        return cls(sums, head_dim, _checks.Weighting(*weighting))


def _read(run: Run, query: Array, weighted: Array, totals: Array, scale: Array) -> tuple[Array]:
    x = _prepare.prepare_query(run.backend, query, scale, run.weighting)
    return (_efficient.read(run, x, weighted, totals),)


def _received(backend: Backend, sums: Any, device: Any) -> Array:
    """Return a NumPy array as one of `backend`, of the same precision or not at all."""
    array = backend.from_numpy(sums, device=device)
    if array.dtype != getattr(backend.namespace, str(sums.dtype)):
        msg = f"the library must hold a state of dtype {sums.dtype}; got {array.dtype} from {backend.name}. Sum in that dtype."
        raise DTypeError(msg)
    return array


def check_state(state: object, call: Call) -> None:
    """Raise unless `state` can stand for keys and values that came before those of a call."""
    if not isinstance(state, State):
        msg = f"state must be a State, from summarise or return_state=True; got {type(state).__name__}"
        raise OptionError(msg)
    check_fits(state, call)


@entry
@takes_dlpack
def summarise(
    key: Array,
    value: Array,
    *,
    key_mask: Array | None = None,
    normalise: bool = True,
    coefficients: Sequence[float] = TAYLOR,
) -> State:
    """Sum keys and values into a state, from which any query can read.

    Parameters
    ----------
    key : array, shape (..., kv_heads, key_length, head_dim)
    value : array, shape (..., kv_heads, key_length, value_dim)
    key_mask, normalise, coefficients
        As in `attention`; a mask cannot differ between the query heads of one key head here.

    Returns
    -------
    State

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        Before any work.

    Notes
    -----
    Costs ``2 * D * (value_dim + 1)`` operations a key, D = (head_dim + 1)(head_dim + 2)/2.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> half, rest = summarise(x[:2], x[:2]), summarise(x[2:], x[2:])
    >>> (half + rest).attend(x)[0]
    array([0.5555556 , 0.22222222, 0.22222222], dtype=float32)
    """
    call = check_call(key, key, value, key_mask, None, coefficients, normalise=normalise)
    return _summarise(call, key, value, key_mask)


def _summarise(call: Call, key: Array, value: Array, key_mask: Array | None) -> State:
    run = Run(call.backend, call.plan("efficient"), call.weighting)
    xp = run.xp
    with run.backend.scope(key):
        mask = _prepare.group_mask(xp, key_mask, key, call.problem)
        sums = _efficient.summarise(run, _prepare.group_key(key), _prepare.group_key(value), mask)
        return State(_prepare.ungroup_key(xp, sums), key.shape[-1], call.weighting)
