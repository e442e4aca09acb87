"""Sliding windows: each token sees those before it up to a fixed distance, in constant time however far that is.

The sequence falls into chunks. Chunks that lie in the window of every query of the present chunk stand in one state:
when a chunk is full its state is added, and that of the chunk which leaves the window is subtracted. The tokens at both
ends of the window meet the queries in the direct form.

Each addition and subtraction rounds, so the state drifts from the sum it stands for. Therefore a second sum is kept, of
the chunks that came since the last change: as soon as it holds all that the state should hold, it takes its place.
Nothing was ever subtracted from it, so what is in use has at most ``3 * window / chunk`` roundings behind it, in a stream
of any length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from taylorshift_core import _stream
from taylorshift_core._call import TAYLOR, check_call
from taylorshift_core._exchange import takes_dlpack
from taylorshift_core._namespace import device_of
from taylorshift_core._run import Run
from taylorshift_core.entries import entry
from taylorshift_core.errors import OptionError
from taylorshift_core.features import n_features
from taylorshift_core.loops import join

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taylorshift_core._backend import Backend
    from taylorshift_core._call import Call
    from taylorshift_core._signature import ArrayT
    from taylorshift_core._stream import Tokens

Array = Any
_CHUNK = 64  # tokens


@dataclass(frozen=True, eq=False)
class SlidingWindow:
    """Causal attention of a stream in which each token sees itself and the ``window - 1`` tokens before it.

    Nothing changes a window: `step` returns the next one. JAX and PyTorch take windows for pytrees.

    Parameters
    ----------
    window
        How many tokens each one sees.
    normalise, coefficients
        As in `attention`.
    chunk
        How many tokens are added to, and removed from, the state at once. By default, as many as make a step cheap; all
        of the window where the direct form is cheaper.
    contents
        What the window knows of the stream so far.

    Notes
    -----
    The error that adding and removing leaves in a sum is at most ``3 * (window / chunk) * eps / 2`` times the largest
    value that the sum had in the last two windows, however long the stream. So a NaN, an infinity or a value that is
    larger than all others by ``1 / eps`` spoils outputs until at most one window after it has left.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(4, dtype=np.float32)
    >>> output, window = SlidingWindow(2).step(x, x, x)
    >>> output[3]
    array([0.        , 0.        , 0.2857143 , 0.71428573], dtype=float32)
    """

    window: int
    normalise: bool = True
    coefficients: tuple[float, float, float] = TAYLOR
    chunk: int | None = None
    contents: Contents | None = None

    def __post_init__(self) -> None:
        for name, number, most in (("window", self.window, None), ("chunk", self.chunk, self.window)):
            if (number is None and most) or (type(number) is int and 1 <= number <= (most or number)):
                continue
            limit = "an integer of at least 1" + ("" if most is None else f" and at most window, {most}")
            msg = f"{name} must be {limit}; got {number!r}"
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
    ) -> tuple[ArrayT, SlidingWindow]:
        """Attend to the window that ends with each token, and remember the tokens.

        Parameters
        ----------
        query : array, shape (..., heads, n, head_dim)
            The next n tokens, one or any number.
        key : array, shape (..., kv_heads, n, head_dim)
        value : array, shape (..., kv_heads, n, value_dim)
        scale, normalise_output
            As in `attention`.
        key_mask : boolean array, optional
            As in `attention`. A masked token takes its place in the window and is not attended.

        Returns
        -------
        output : array, shape (..., heads, n, value_dim)
        window : SlidingWindow
            To call for the next tokens.

        Raises
        ------
        ShapeError, DTypeError, OptionError, BackendError
            Before any work.

        Notes
        -----
        A token costs ``6 * D * (value_dim + 1)`` operations, D = (head_dim + 1)(head_dim + 2)/2, and ``O(chunk)`` more.
        The memory is that of two states and of ``window + chunk`` tokens.
        """
        call = check_call(query, key, value, key_mask, scale, self.coefficients, normalise=self.normalise)
        _stream.check_step(call)
        run = Run(call.backend, call.plan("efficient"), call.weighting, normalise_output)
        contents = self.contents or Contents(self.window, self.chunk or _chunk(self.window, call.problem.head_dim))
        with call.backend.scope(query):
            tokens = _stream.prepare(run, call, key, value, key_mask)
            outputs: list[tuple[Array]] = []
            done = 0
            while done < tokens.length or not outputs:
                some = slice(done, min(done + contents.room, tokens.length))
                outputs.append((contents.attend(run, call, query[..., some, :], scale, tokens[some]),))
                contents, done = contents.push(run.backend, tokens[some]), some.stop
            return join(run.xp, outputs)[0], replace(self, contents=contents)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return what holds arrays, and the rest: see `State.tree_flatten`."""
        return (self.contents,), (self.window, self.normalise, self.coefficients, self.chunk)

    @classmethod
    def tree_unflatten(cls, rest: tuple[Any, ...], parts: Iterable[Any]) -> SlidingWindow:
        """Return the window of what `tree_flatten` returned."""
        return cls(*rest, *parts)


@dataclass(frozen=True, eq=False)
class Contents:
    """The window of the present chunk: chunks that all its queries see, and tokens that some of them see.

    Parameters
    ----------
    window, chunk
        In tokens.
    position
        How many tokens there were.
    newer
        The first chunk of those in `fresh`.
    chunks
        The full chunks that some query of the present chunk sees, the last of them just before it.
    edge
        Tokens of those chunks that not all queries see.
    recent
        Tokens of the present chunk.
    inner
        Sums of the state of the chunks that all queries see.
    fresh
        Sums of the state of chunks `newer` and later, from which nothing was ever subtracted.
    """

    window: int
    chunk: int
    position: int = 0
    newer: int = 0
    chunks: tuple[Tokens, ...] = ()
    edge: Tokens | None = None
    recent: Tokens | None = None
    inner: Array | None = None
    fresh: Array | None = None

    @property
    def room(self) -> int:
        """How many tokens the present chunk can still take."""
        return self.chunk - self.position % self.chunk

    def _chunks(self, position: int) -> tuple[int, int, int]:
        """Return the chunk of a position, the first chunk that all its queries see, and the first that any of them sees."""
        present = position // self.chunk
        inner = min(present, max(0, present + 1 - self.window // self.chunk))
        return present, inner, max(0, (present * self.chunk - self.window + 1) // self.chunk)

    def attend(self, run: Run, call: Call, query: Array, scale: Array | None, tokens: Tokens) -> Array:
        """Return the outputs of queries of the present chunk, of which the last tokens are given and not pushed yet."""
        near = _stream.join(run.xp, self.edge, self.recent, tokens)
        allowed = self._allowed(run, device_of(near.values), tokens.length)
        return _stream.attend(run, call, query, scale, self.inner, near, allowed)

    def _allowed(self, run: Run, device: Any, n: int) -> Array:
        """Return which of the tokens that do not stand in `inner` (columns) the next n queries (rows) see."""
        xp, (present, _, oldest) = run.xp, self._chunks(self.position)
        queries = xp.expand_dims(xp.arange(self.position, self.position + n, device=device), axis=1)
        keys = xp.arange(present * self.chunk, self.position + n, device=device)
        if self.edge is not None:
            begin = oldest * self.chunk
            keys = xp.concat([xp.arange(begin, begin + self.edge.length, device=device), keys])
        return (keys <= queries) & (keys > queries - self.window)

    def push(self, backend: Backend, tokens: Tokens) -> Contents:
        """Return the contents with tokens added to the present chunk."""
        recent = _stream.join(backend.namespace, self.recent, tokens)
        more = replace(self, recent=recent, position=self.position + tokens.length)
        return more._slid(backend, recent) if recent.length == self.chunk else more

    def _slid(self, backend: Backend, full: Tokens) -> Contents:
        """Return the contents for the next chunk; the present one is full."""
        _, leaving, begin = self._chunks(self.position - 1)
        present, inner, oldest = self._chunks(self.position)
        chunks = (*self.chunks, full)
        kept = chunks[oldest - begin :]
        edge = _stream.join(backend.namespace, *kept[: inner - oldest]) if inner > oldest else None
        slid = replace(self, chunks=kept, edge=edge, recent=None)
        if inner == present:
            return slid
        entering = _stream.fold(backend, full)
        fresh = entering if self.fresh is None else self.fresh + entering
        if self.newer <= inner:
            return replace(slid, inner=fresh, fresh=None, newer=present)
        sums = entering if self.inner is None else self.inner + entering
        if leaving < inner:
            sums = sums - _stream.fold(backend, chunks[leaving - begin])
        return replace(slid, inner=sums, fresh=fresh)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return what holds arrays, and the rest: see `State.tree_flatten`."""
        parts = self.chunks, self.edge, self.recent, self.inner, self.fresh
        return parts, (self.window, self.chunk, self.position, self.newer)

    @classmethod
    def tree_unflatten(cls, rest: tuple[Any, ...], parts: Iterable[Any]) -> Contents:
        """Return the contents of what `tree_flatten` returned."""
        return cls(*rest, *parts)


def _chunk(window: int, head_dim: int) -> int:
    """Return how many tokens to take at once: all, where the direct form costs less than reading a state."""
    return window if window <= max(_CHUNK, n_features(head_dim + 1)) else _CHUNK
