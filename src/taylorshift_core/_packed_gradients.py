"""Gradients of packed sequences: each sequence is pulled back by itself, into its own tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taylorshift_core._call import TAYLOR, check_call
from taylorshift_core._gradients import Gradients, attention_vjp, check_same
from taylorshift_core._packed import bounds_of
from taylorshift_core.loops import join

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taylorshift_core._signature import ArrayT

Array = Any


def attention_packed_vjp(
    query: ArrayT,
    key: ArrayT,
    value: ArrayT,
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
) -> tuple[ArrayT, Callable[[ArrayT], Gradients]]:
    """Return the attention of packed sequences, and the function that pulls gradients back through it.

    Parameters
    ----------
    query, key, value, cu_seqlens_q, cu_seqlens_k, ...
        As in `attention_packed`.

    Returns
    -------
    output
        What `attention_packed` returns.
    pullback
        ``cotangent -> Gradients``, as in `attention_vjp`; there is no state.

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
    settings: dict[str, Any] = {"scale": scale, "normalise": normalise, "coefficients": coefficients}
    call = check_call(query, key, value, key_mask, **settings)
    settings |= {"form": form, "normalise_output": normalise_output, "is_causal": is_causal}
    settings |= {"block_causal": block_causal, "prefix_length": prefix_length}
    bounds = list(zip(*bounds_of(call, cu_seqlens_q, cu_seqlens_k), strict=True))
    outputs, pullbacks = [], []
    for q, k in bounds:
        mask = None if key_mask is None else key_mask[..., k]
        tokens = query[..., q, :], key[..., k, :], value[..., k, :]
        output, pullback = attention_vjp(*tokens, key_mask=mask, **settings)
        outputs.append((output,))
        pullbacks.append(pullback)
    xp = call.backend.namespace
    with call.backend.scope(query):
        (output,) = join(xp, outputs)
    kind = tuple(output.shape), output.dtype

    def pull(cotangent: Array) -> Gradients:
        check_same("cotangent", cotangent, query, *kind)
        parts = [
            pullback(None if cotangent is None else cotangent[..., q, :])
            for pullback, (q, _) in zip(pullbacks, bounds, strict=True)
        ]
        with call.backend.scope(query):
            to_scale = xp.sum(xp.stack([part.scale for part in parts]), axis=0)
            to_query, to_key, to_value = join(xp, [part[:3] for part in parts])
        return Gradients(to_query, to_key, to_value, to_scale)

    return output, pull
