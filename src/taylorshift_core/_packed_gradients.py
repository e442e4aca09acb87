"""Gradients of packed sequences: each sequence is pulled back, or pushed forward, by itself and into its own tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from taylorshift_core._call import TAYLOR, Call, check_call
from taylorshift_core._gradients import Gradients, attention_jvp, attention_vjp, check_same, cotangents_of, sums_of
from taylorshift_core._pack import Pack
from taylorshift_core._packed import bounds_of, check_past
from taylorshift_core._signature import Shared
from taylorshift_core.errors import OptionError
from taylorshift_core.loops import join

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from taylorshift_core._signature import ArrayT
    from taylorshift_core._state import State

Array = Any


class Options(Shared, total=False):
    """The keywords of `attention_packed` but for the bounds."""

    return_state: bool


def attention_packed_vjp(
    query: ArrayT,
    key: ArrayT,
    value: ArrayT,
    *,
    cu_seqlens_q: Sequence[int] | Array,
    cu_seqlens_k: Sequence[int] | Array | None = None,
    **options: Unpack[Options],
) -> tuple[ArrayT, Callable[[ArrayT], Gradients]]:
    """Return the attention of packed sequences, and the function that pulls gradients back through it.

    Parameters
    ----------
    query, key, value, cu_seqlens_q, cu_seqlens_k, **options
        As in `attention_packed`.

    Returns
    -------
    output
        What `attention_packed` returns.
    pullback
        ``cotangent -> Gradients``, as in `attention_vjp`; a State holds the states of all sequences.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        As `attention_packed`, and where the library's arrays have no gradients.

    Notes
    -----
    Costs and holds what `attention_vjp` does for each sequence. Nothing that stands in one sequence, NaN included, can
    reach a gradient of another; only a scale that they share adds up over all.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3)
    >>> output, pullback = attention_packed_vjp(x, x, x, cu_seqlens_q=(0, 1, 3))
    >>> pullback(np.ones((3, 3))).value[0]
    array([1., 1., 1.])
    """
    pack = _Sequences.of(query, key, value, cu_seqlens_q, cu_seqlens_k, options)
    with pack.call.backend.scope(query):
        parts = [attention_vjp(*pack.tokens(i, query, key, value), **pack.options_of(i)) for i in range(pack.count)]
        output = pack.join([part for part, _ in parts])
    kinds = [(tuple(x.shape), x.dtype) for x in ((output[0], output[1].sums) if pack.with_state else (output,))]

    def pull(cotangent: Any) -> Gradients:
        given = cotangents_of(cotangent, with_state=pack.with_state)
        for name, by, kind in zip(("cotangent", "cotangent of the state"), given, kinds, strict=False):
            check_same(name, by, query, *kind)
        with pack.call.backend.scope(query):
            return pack.gradients([pullback(pack.cotangent(i, cotangent)) for i, (_, pullback) in enumerate(parts)])

    return output, pull


def attention_packed_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    cu_seqlens_q: Sequence[int] | Array,
    cu_seqlens_k: Sequence[int] | Array | None = None,
    **options: Unpack[Options],
) -> tuple[Any, Any]:
    """Return the attention of packed sequences, and by how much it changes as its arguments move.

    Parameters
    ----------
    primals : (query, key, value)
        As in `attention_packed`, like the keywords.
    tangents : (query, key, value) or (query, key, value, scale, state)
        As in `attention_jvp`; the tangent of a state is a State of all sequences.

    Returns
    -------
    output, tangent
        What `attention_packed` returns, and its tangent of the same kind.

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        As `attention_packed`, and where the library's arrays have no gradients.

    Notes
    -----
    Costs and holds what `attention_jvp` does for each sequence.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3)
    >>> attention_packed_jvp((x, x, x), (None, None, np.ones((3, 3))), cu_seqlens_q=(0, 1, 3))[1][0]
    array([1., 1., 1.])
    """
    query, key, value = primals
    pack, given = _Sequences.of(query, key, value, cu_seqlens_q, cu_seqlens_k, options), Gradients(*tangents)
    for name, at, by in zip(Gradients._fields, (query, key, value), given, strict=False):
        check_same(f"tangent of {name}", by, query, tuple(at.shape), at.dtype)
    past, by_past = options.get("state"), sums_of("tangent of the state", given.state)
    if past is not None:
        check_same("tangent of the state", by_past, query, tuple(past.sums.shape), past.sums.dtype)
    with pack.call.backend.scope(query):
        parts = []
        for i in range(pack.count):
            moving = *pack.tokens(i, *given[:3]), given.scale, pack.state(i, given.state)
            parts.append(attention_jvp(pack.tokens(i, query, key, value), moving, **pack.options_of(i)))
        return pack.join([at for at, _ in parts]), pack.join([by for _, by in parts])


@dataclass(frozen=True)
class _Sequences:
    """The sequences of a pack one by one, and back."""

    call: Call
    queries: list[slice]
    keys: list[slice]
    options: Options

    @classmethod
    def of(cls, query: Array, key: Array, value: Array, q: Any, k: Any, options: Options) -> _Sequences:
        """Check the arguments of a call, and return its sequences."""
        unknown = options.keys() - Options.__annotations__.keys()
        if unknown:
            msg = f"attention of a pack takes no {', '.join(sorted(unknown))}"
            raise OptionError(msg)
        shared = options.get("key_mask"), options.get("scale"), options.get("coefficients", TAYLOR)
        call = check_call(query, key, value, *shared, normalise=options.get("normalise", True))
        queries, keys = bounds_of(call, q, k)
        if options.get("state") is not None:
            check_past(options["state"], call, len(queries))
        return cls(call, queries, keys, options)

    @property
    def count(self) -> int:
        return len(self.queries)

    @property
    def with_state(self) -> bool:
        return self.options.get("return_state", False)

    @property
    def _one(self) -> Pack:
        return Pack(self.call.backend.namespace, self.call.problem.single, 1)

    def tokens(self, i: int, *tokens: Array | None) -> tuple[Array | None, ...]:
        """Return queries, keys and values of a sequence; None of None."""
        own = self.queries[i], self.keys[i], self.keys[i]
        return tuple(None if x is None else x[..., at, :] for x, at in zip(tokens, own, strict=True))

    def state(self, i: int, state: State | None) -> State | None:
        """Return the state of a sequence, out of that of all."""
        return None if state is None else replace(state, sums=self._one.past(state.sums, [i]))

    def options_of(self, i: int) -> dict[str, Any]:
        """Return the keywords of `attention` for a sequence."""
        mask = self.options.get("key_mask")
        mask = None if mask is None else mask[..., self.keys[i]]
        return {**self.options, "key_mask": mask, "state": self.state(i, self.options.get("state"))}

    def cotangent(self, i: int, cotangent: Any) -> Any:
        """Return what the pullback of a sequence is given."""
        by, *by_state = cotangent if self.with_state else (cotangent,)
        by = None if by is None else by[..., self.queries[i], :]
        return (by, self.state(i, by_state[0])) if self.with_state else by

    def join(self, results: list[Any]) -> Any:
        """Return the results of all sequences, outputs or pairs of output and State, as one."""
        outputs = [result[:1] if self.with_state else (result,) for result in results]
        (output,) = join(self.call.backend.namespace, outputs)
        return (output, self._states([state for _, state in results])) if self.with_state else output

    def gradients(self, parts: list[Gradients]) -> Gradients:
        """Return the gradients of all sequences as those of the pack."""
        xp = self.call.backend.namespace
        query, key, value = join(xp, [part[:3] for part in parts])
        scale = xp.sum(xp.stack([part.scale for part in parts]), axis=0)
        states = [part.state for part in parts if part.state is not None]
        return Gradients(query, key, value, scale, self._states(states) if states else None)

    def _states(self, states: list[State]) -> State:
        sums = [self._one.state_sums(state.sums) for state in states]
        axis = sums[0].ndim - (3 if self.call.problem.single else 4)
        return replace(states[0], sums=self.call.backend.namespace.concat(sums, axis=axis))
