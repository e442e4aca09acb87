"""Keys and values longer than memory: a state summed chunk by chunk, from files, and through interruptions."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from taylorshift_core._call import TAYLOR
from taylorshift_core._checkpoint import Checkpoint
from taylorshift_core._checks import check_weighting
from taylorshift_core._pages import release
from taylorshift_core._registry import load_backend
from taylorshift_core._state import State, summarise
from taylorshift_core.errors import OptionError, ShapeError
from taylorshift_core.loops import tile_bounds

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

Array = Any
Source = Any  # what has a shape and gives arrays when sliced, as memory maps and arrays of h5py and zarr; or chunks
Chunk = tuple[Array, ...]  # key, value and perhaps key_mask
_CHUNK_BYTES = 1 << 24


def summarise_chunks(
    key: Source,
    value: Source | None = None,
    *,
    key_mask: Source | None = None,
    chunk_length: int | None = None,
    normalise: bool = True,
    coefficients: Sequence[float] = TAYLOR,
    backend: str | None = None,
    device: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 16,
    advance: Callable[[int], None] | None = None,
) -> State:
    """Sum keys and values that need not fit into memory into a state, a chunk at a time.

    Parameters
    ----------
    key : source, shape (..., kv_heads, key_length, head_dim)
        Whatever has a `shape` and gives arrays when sliced with ``[..., first:last, :]``: ``numpy.memmap``, arrays of
        h5py, zarr or blosc2, arrays in memory. Or, without `value`, an iterable of (key, value) or (key, value,
        key_mask), one chunk of tokens each.
    value : source, shape (..., kv_heads, key_length, value_dim), optional
    key_mask : source, optional
        As in `summarise`.
    chunk_length
        Tokens read at once from a source; by default 16 MiB of them.
    normalise, coefficients
        As in `attention`.
    backend, device
        Where to sum: chunks, which must be NumPy arrays, are copied to this library and device. By default they are
        taken as they come.
    checkpoint
        A file that keeps the state so far, written every `checkpoint_every` chunks and at the end. If it is there, the
        work goes on from it and ends in the same bits as without an interruption. It is a file as of `State.save`.
    checkpoint_every
        In chunks.
    advance
        Called with the number of tokens of each chunk that is done, those of before an interruption too.

    Returns
    -------
    State

    Raises
    ------
    ShapeError, DTypeError, OptionError, BackendError
        When the arrays do not fit together.
    OptionError
        When the checkpoint was made from other keys and values or with other settings, as far as its first chunk tells.
    StateFileError
        When the checkpoint is not whole.

    Notes
    -----
    Holds one chunk in memory beside the state. Costs ``2 * D * (value_dim + 1)`` operations a key,
    D = (head_dim + 1)(head_dim + 2)/2.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> summarise_chunks(x, x, chunk_length=2).attend(x[:1])
    array([[0.5555556 , 0.22222222, 0.22222222]], dtype=float32)
    """
    for name, number in (("chunk_length", chunk_length), ("checkpoint_every", checkpoint_every)):
        if number is not None and (type(number) is not int or number < 1):
            msg = f"{name} must be an integer of at least 1; got {number!r}"
            raise OptionError(msg)
    weighting = check_weighting(coefficients, normalise=normalise)
    length = chunk_length if value is None else chunk_length or _chunk_length(key, value)
    loads = _given(key) if value is None else _sliced(key, value, key_mask, length or 1)
    state, done, number, keeper = None, 0, 0, None
    for number, (tokens, load) in enumerate(loads, start=1):
        if checkpoint is not None and keeper is None:
            first = _received(load(), backend, device)
            keeper = Checkpoint.of(checkpoint, weighting, length, None if value is None else key.shape[-2], first)
            state, done = keeper.resume(first[0])
        if number > done:
            keys, values, *mask = _received(load(), backend, device)
            new = summarise(
                keys, values, key_mask=mask[0] if mask else None, normalise=normalise, coefficients=coefficients
            )
            state = new if state is None else state + new
            for source in (key, value, key_mask):
                release(source)
            if keeper is not None and number % checkpoint_every == 0:
                keeper.save(state, number)
        if advance is not None:
            advance(tokens)
    if state is None:
        msg = "key must be a source with a shape, beside value, or an iterable of at least one chunk; got no chunks"
        raise OptionError(msg)
    if number < done:
        msg = f"key must have at least the {done} chunks that checkpoint {checkpoint} holds; got {number}"
        raise OptionError(msg)
    if keeper is not None and number > done:
        keeper.save(state, number)
    return state


def _chunk_length(key: Source, value: Source) -> int:
    """Return how many tokens of all heads and batches fill a chunk."""
    row = sum(prod(array.shape[:-2]) * array.shape[-1] * getattr(array.dtype, "itemsize", 8) for array in (key, value))
    return int(max(1, _CHUNK_BYTES // max(1, row)))


def _sliced(
    key: Source, value: Source, key_mask: Source | None, length: int
) -> Iterator[tuple[int, Callable[[], Chunk]]]:
    """Yield the length of each chunk of sources and what reads it; one empty chunk where there are no tokens."""
    total = key.shape[-2]
    if value.shape[-2] != total:
        msg = f"key and value must have the same length (second-to-last axis); got key {key.shape} and value {value.shape}."
        raise ShapeError(msg)
    for first, last in tile_bounds(total, length):
        yield (last or 0) - first, partial(_read, key, value, key_mask, first, last)


def _read(key: Source, value: Source, key_mask: Source | None, first: int, last: int | None) -> Chunk:
    chunk = key[..., first:last, :], value[..., first:last, :]
    return chunk if key_mask is None else (*chunk, key_mask[..., first:last])


def _given(chunks: Iterable[Chunk]) -> Iterator[tuple[int, Callable[[], Chunk]]]:
    """Yield the length of each chunk of an iterable and what returns it."""
    for chunk in chunks:
        if not isinstance(chunk, (tuple, list)) or not 2 <= len(chunk) <= 3:
            msg = (
                f"key must be an iterable of chunks (key, value) or (key, value, key_mask) where value is not given; "
                f"got one of {type(chunk).__name__}. For whole arrays pass value too."
            )
            raise OptionError(msg)
        yield chunk[0].shape[-2], partial(tuple, chunk)


def _received(chunk: Chunk, backend: str | None, device: Any) -> Chunk:
    """Return the arrays of a chunk in the library asked for; a copy, since others do not take read-only memory."""
    if backend is None:
        return chunk
    to = load_backend(backend)
    return tuple(to.from_numpy(array.copy(), device=device) for array in chunk)
