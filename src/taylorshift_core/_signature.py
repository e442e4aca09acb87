"""What type checkers know of the public functions: arrays go in and arrays of the same kind come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taylorshift_core._plan import Plan
    from taylorshift_core._state import State

ArrayT = TypeVar("ArrayT", bound=Any)  # Any: each library has a class of its own, and they share no base


class Shared(TypedDict, total=False):
    """The keywords that `attention` and `attention_packed` have in common, but for the one that decides what is returned."""

    form: str
    scale: float | Any | None
    normalise: bool
    coefficients: Sequence[float]
    key_mask: Any | None
    normalise_output: bool
    is_causal: bool
    block_causal: int | None
    prefix_length: int
    state: State | None


class Options(Shared, total=False):
    """The keywords of `attention`, but for the one that decides what is returned."""

    attn_mask: Any | None
    objective: str
    plan: Plan | None


class AllOptions(Options, total=False):
    """The keywords of `attention`."""

    return_state: bool


class PackedOptions(Shared, total=False):
    """The keywords of `attention_packed`, but for the one that decides what is returned."""

    cu_seqlens_k: Sequence[int] | Any | None
