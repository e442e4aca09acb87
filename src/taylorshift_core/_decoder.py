"""Decoding: one token after the other, in constant time and memory however many there were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from taylorshift_core import _stream
from taylorshift_core._attention import attention
from taylorshift_core._call import TAYLOR, check_call
from taylorshift_core._checks import check_weighting
from taylorshift_core._exchange import takes_dlpack
from taylorshift_core._registry import backend_of
from taylorshift_core._run import Run
from taylorshift_core._state import State, check_state
from taylorshift_core.entries import entry
from taylorshift_core.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taylorshift_core._signature import ArrayT

Array = Any
_TAIL = 32  # tokens: measured, the shortest at which folding costs a small part of a step


@dataclass(frozen=True, eq=False)
class Decoder:
    """Causal attention of a sequence whose tokens come one after the other.

    Nothing changes a decoder: `step` returns the next one, so that a sequence may be continued in several ways. JAX and
    PyTorch take decoders for pytrees.

    Parameters
    ----------
    past : State, optional
        Tokens that came before, of the same settings.
    normalise, coefficients
        As in `attention`.
    tail
        How many recent tokens are kept unfolded before a matrix product adds them to the state. With 1, each is added
        at once, and the decoder has arrays of the same shapes after each step, as loops of `jax.lax` want them.
    recent
        Tokens that have not been added yet.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> decoder = Decoder()
    >>> for i in range(3):
    ...     output, decoder = decoder.step(x[i : i + 1], x[i : i + 1], x[i : i + 1])
    >>> output
    array([[0.22222222, 0.22222222, 0.5555556 ]], dtype=float32)
    """

    past: State | None = None
    normalise: bool = True
    coefficients: tuple[float, float, float] = TAYLOR
    tail: int = _TAIL
    recent: _stream.Tokens | None = None

    def __post_init__(self) -> None:
        if type(self.tail) is not int or self.tail < 1:
            msg = f"tail must be an integer of at least 1; got {self.tail!r}"
            raise OptionError(msg)

    @entry
    @takes_dlpack
    def step(
        self,
        query: ArrayT,
        key: ArrayT,
        value: ArrayT,
        *,
        scale: float | Array | None = None,
        key_mask: Array | None = None,
        normalise_output: bool = False,
    ) -> tuple[ArrayT, Decoder]:
        """Attend to all tokens up to and including these, and remember them.

        Parameters
        ----------
        query : array, shape (..., heads, n, head_dim)
            One new token, n = 1, or several, of which each sees those up to itself.
        key : array, shape (..., kv_heads, n, head_dim)
        value : array, shape (..., kv_heads, n, value_dim)
        scale, normalise_output
            As in `attention`.
        key_mask : boolean array, optional
            As in `attention`: shape (..., n) without a heads axis says which sequences of a batch take part in this
            step. The others keep what they have.

        Returns
        -------
        output : array, shape (..., heads, n, value_dim)
        decoder : Decoder
            To call for the next token.

        Raises
        ------
        ShapeError, DTypeError, OptionError, BackendError
            Before any work.

        Notes
        -----
        A token costs ``4 * D * (value_dim + 1)`` operations, D = (head_dim + 1)(head_dim + 2)/2, and ``O(tail)`` more;
        the memory is that of the state and of `tail` tokens.
        """
        call = check_call(query, key, value, key_mask, scale, self.coefficients, normalise=self.normalise)
        if self.past is not None:
            check_state(self.past, call)
        options: dict[str, Any] = {"scale": scale, "key_mask": key_mask, "normalise_output": normalise_output}
        _stream.check_step(call)
        if call.problem.query_length != 1:
            return self._several(query, key, value, **options)
        run = Run(call.backend, call.plan("efficient"), call.weighting, normalise_output)
        with call.backend.scope(query):
            recent = _stream.join(run.xp, self.recent, _stream.prepare(run, call, key, value, key_mask))
            past = None if self.past is None else self.past.sums
            output = _stream.attend(run, call, query, scale, past, recent, None)
            decoder = replace(self, recent=recent)
            return output, decoder._folded() if recent.length >= self.tail else decoder

    def _several(self, query: Array, key: Array, value: Array, **options: Any) -> tuple[Array, Decoder]:
        options |= {"normalise": self.normalise, "coefficients": self.coefficients, "state": self.state}
        output, state = attention(query, key, value, is_causal=True, return_state=True, **options)
        return output, replace(self, past=state, recent=None)

    @property
    def state(self) -> State | None:
        """The state of all tokens so far; None before the first."""
        return self._folded().past

    def _folded(self) -> Decoder:
        """Return this decoder with its recent tokens in the state."""
        if self.recent is None:
            return self
        backend = backend_of(recent=self.recent.values)
        with backend.scope(self.recent.values):
            weighting = check_weighting(self.coefficients, normalise=self.normalise)
            state = State(_stream.fold(backend, self.recent), self.recent.keys.shape[-2] - 1, weighting)
            return replace(self, past=state if self.past is None else self.past + state, recent=None)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return what holds arrays, and the rest: see `State.tree_flatten`."""
        return (self.past, self.recent), (self.normalise, self.coefficients, self.tail)

    @classmethod
    def tree_unflatten(cls, rest: tuple[Any, ...], parts: Iterable[Any]) -> Decoder:
        """Return the decoder of what `tree_flatten` returned."""
        past, recent = parts
        normalise, coefficients, tail = rest
        return cls(past, normalise, coefficients, tail, recent)
