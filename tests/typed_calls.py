"""What type checkers see in calls of the library; `python -m nox -s lint` gives it to mypy, nothing runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import numpy as np

from taylorshift_core import (
    Decoder,
    Gradients,
    Plan,
    SlidingWindow,
    State,
    attention,
    attention_jvp,
    attention_packed,
    attention_packed_vjp,
    attention_vjp,
    attention_weights,
    explain,
    summarise,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class Tensor:
    """Stands for the array class of any library; it has nothing in common with NumPy's, and nothing that a name gives away.

    The libraries themselves are Any to mypy, here and where they are not installed, and Any would pass as anything.
    """


def arrays_come_out_as_they_go_in(x: Matrix, t: Tensor) -> None:
    assert_type(attention(x, x, x), Matrix)
    assert_type(attention(t, t, t), Tensor)
    assert_type(attention(t, t, t, is_causal=True, form="direct", scale=0.5, objective="memory"), Tensor)
    assert_type(attention_weights(x, x), Matrix)
    assert_type(attention_weights(t, t, key_mask=t), Tensor)
    assert_type(attention_packed(x, x, x, cu_seqlens_q=[0, 3]), Matrix)
    assert_type(attention_packed(t, t, t, cu_seqlens_q=t, is_causal=True), Tensor)
    assert_type(explain(t, t, t), Plan)


def a_state_comes_beside_them(x: Matrix, t: Tensor, *, wanted: bool) -> None:
    assert_type(attention(x, x, x, return_state=True), tuple[Matrix, State])
    assert_type(attention(t, t, t, return_state=True, form="efficient"), tuple[Tensor, State])
    assert_type(attention(t, t, t, return_state=False), Tensor)
    assert_type(attention(t, t, t, return_state=wanted), Tensor | tuple[Tensor, State])
    assert_type(attention_packed(t, t, t, cu_seqlens_q=(0, 3), return_state=True), tuple[Tensor, State])
    assert_type(attention_packed(t, t, t, cu_seqlens_q=(0, 3), return_state=wanted), Tensor | tuple[Tensor, State])


def states_are_read_by_arrays_of_one_kind(x: Matrix, t: Tensor) -> None:
    assert_type(summarise(t, t), State)
    assert_type(summarise(t, t) + summarise(t, t), State)
    assert_type(summarise(x, x).read(x), Matrix)
    assert_type(summarise(t, t).read(t), Tensor)
    assert_type(summarise(t, t).attend(t, scale=2.0), Tensor)
    assert_type(Decoder().step(t, t, t), tuple[Tensor, Decoder])
    assert_type(SlidingWindow(8).step(x, x, x), tuple[Matrix, SlidingWindow])


def gradients_too(x: Matrix, t: Tensor) -> None:
    assert_type(attention_vjp(x, x, x), tuple[Matrix, "Callable[[Matrix], Gradients]"])
    assert_type(attention_vjp(t, t, t, is_causal=True), tuple[Tensor, "Callable[[Tensor], Gradients]"])
    assert_type(attention_jvp((t, t, t), (t, None, None), form="direct"), tuple[Tensor, Tensor])
    assert_type(attention_packed_vjp(t, t, t, cu_seqlens_q=[0, 3]), tuple[Tensor, "Callable[[Tensor], Gradients]"])
    assert_type(attention_vjp(t, t, t, return_state=True), tuple[Any, "Callable[[Any], Gradients]"])


def what_is_wrong_is_refused(x: Matrix, t: Tensor) -> None:
    """Each would run into an error; mypy is told to complain of a complaint that is not needed."""
    attention(x, x, x, causal=True)  # type: ignore[call-overload]
    attention(x, x, x, is_causal="yes")  # type: ignore[call-overload]
    attention_packed(t, t, t)  # type: ignore[call-overload]
    attention_vjp(t, t, t, dropout=0.5)  # type: ignore[call-overload]
    summarise(t, t).read()  # type: ignore[call-arg]
