"""Shapes, data types and options are checked here, before any work; values are never looked at."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any

from taylorshift_core._namespace import are_numbers, sizes_of
from taylorshift_core.errors import DTypeError, OptionError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = Any
Shape = tuple[int | None, ...]
FORMS = ("auto", "direct", "efficient")
OBJECTIVES = ("time", "memory")
_MATRIX = 2  # axes of a single head: (length, dim)


@dataclass(frozen=True)
class Weighting:
    """How a score becomes a weight: p(s) = a ((s + beta)**2 + gamma), and whether rows are normalised first.

    The factor a cancels between the weighted sums and their normaliser, so it is not kept.
    """

    beta: float = 1.0
    gamma: float = 1.0
    normalise: bool = True


@dataclass(frozen=True)
class Problem:
    """The sizes of one call, and what else decides how much there is to do.

    `single` says that there is no heads axis. Sizes that a lazy library does not know are None. `visible` says which
    keys a query sees: "all", "causal", or those of a "dense" mask. `past` and `with_state` say that a state is read
    beside the keys, and that the state behind all keys is wanted.
    """

    batch: Shape
    single: bool
    heads: int
    kv_heads: int
    query_length: int | None
    key_length: int | None
    head_dim: int
    value_dim: int
    masked: bool
    visible: str = "all"
    past: bool = False
    with_state: bool = False

    @property
    def groups(self) -> int:
        """Query heads that share one key and value head."""
        return self.heads // self.kv_heads if self.kv_heads else 1


def check_choice(form: object, objective: object) -> None:
    """Raise OptionError unless `form` and `objective` are ones that exist."""
    for name, got, choices in (("form", form, FORMS), ("objective", objective, OBJECTIVES)):
        if got not in choices:
            msg = f"{name} must be one of {', '.join(map(repr, choices))}; got {got!r}"
            raise OptionError(msg)


def check_weighting(coefficients: Sequence[float], *, normalise: bool) -> Weighting:
    """Complete the square of the weight a s**2 + b s + c; refuse one that is negative anywhere."""
    try:
        a, b, c = (float(each) for each in coefficients)
    except (TypeError, ValueError):
        msg = f"coefficients must be three numbers (a, b, c) of a*s**2 + b*s + c; got {coefficients!r}"
        raise OptionError(msg) from None
    return _weighting(a, b, c, bool(normalise))


@lru_cache(maxsize=64)
def _weighting(a: float, b: float, c: float, normalise: bool) -> Weighting:
    beta = b / (2 * a) if a else math.nan
    gamma = c / a - beta * beta if a else math.nan
    if -4 * sys.float_info.epsilon * beta * beta <= gamma < 0:  # zero, but for the rounding of c / a and beta
        gamma = 0.0
    if not (0 < a < math.inf and gamma >= 0 and math.isfinite(beta) and math.isfinite(gamma)):
        msg = (
            f"coefficients must give weights a*s**2 + b*s + c >= 0 for every score: a > 0 and 4*a*c >= b*b; "
            f"got a={a}, b={b}, c={c}"
        )
        raise OptionError(msg)
    return Weighting(beta, gamma, normalise)


def check_dtype(xp: Any, **arrays: Array) -> None:
    """Raise DTypeError unless all arrays have one and the same real floating-point data type."""
    first, *others = arrays.values()
    if all(other.dtype == first.dtype for other in others) and xp.isdtype(first.dtype, "real floating"):
        return
    for name, array in arrays.items():
        if not xp.isdtype(array.dtype, "real floating"):
            msg = f"{name} must have a real floating-point dtype; got {array.dtype}. Convert it with astype."
            raise DTypeError(msg)
    kinds = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
    msg = f"all arrays must have one dtype; got {kinds}. Convert them to one with astype."
    raise DTypeError(msg)


def known(shape: Sequence[Any]) -> Shape:
    """Return a shape with None for each size that a library does not know yet.

    The heads and the entries of a token must be numbers: where a library can settle on one, it does.
    """
    if are_numbers(shape):
        return tuple(shape)
    settled = (len(shape) - 1, len(shape) - 3)
    return tuple(_settled(size) if i in settled else _known(size) for i, size in enumerate(shape))


def _known(size: Any) -> int | None:
    return size if isinstance(size, int) else None


def _settled(size: Any) -> int | None:
    try:
        return int(size)
    except (TypeError, ValueError):
        return None


def check_shapes(shapes: dict[str, Shape]) -> tuple[Shape, int, int]:
    """Return batch axes, heads and kv_heads of the shapes of query, key and perhaps value that fit together."""
    got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    axes = len(shapes["query"])
    for name, shape in shapes.items():
        if len(shape) < _MATRIX or len(shape) != axes:
            msg = f"query, key and value must have the same number of axes, at least 2: (..., heads, length, dim); got {got}"
            raise ShapeError(msg)
        if not shape[-1]:
            msg = f"the last axis of {name} must have a known size of at least 1; got {got}"
            raise ShapeError(msg)
    if shapes["query"][-1] != shapes["key"][-1]:
        msg = f"query and key must have the same head_dim (last axis); got {got}. Project them to one head_dim first."
        raise ShapeError(msg)
    if "value" in shapes:
        _check_pair(shapes["key"], shapes["value"], got)
    if axes == _MATRIX:
        return (), 1, 1
    heads, kv_heads = shapes["query"][-3], shapes["key"][-3]
    if heads is None or kv_heads is None or (kv_heads == 0) != (heads == 0) or (kv_heads and heads % kv_heads):
        msg = (
            f"the heads of query (third axis from the end) must be a multiple of those of key and value; got {got}. "
            f"Axes are (..., heads, length, dim): did you pass (..., length, heads, dim)?"
        )
        raise ShapeError(msg)
    return _broadcast([shape[:-3] for shape in shapes.values()], got), heads, kv_heads


def problem_of(shapes: dict[str, Shape], *, value_dim: int | None = None, masked: bool = False) -> Problem:
    """Check the shapes of query, key and perhaps value, and return their sizes."""
    return _problem_of(tuple(shapes.items()), value_dim, masked)


@lru_cache(maxsize=1024)  # calls come in many of one kind
def _problem_of(named: tuple[tuple[str, Shape], ...], value_dim: int | None, masked: bool) -> Problem:
    shapes = dict(named)
    batch, heads, kv_heads = check_shapes(shapes)
    query, key = shapes["query"], shapes["key"]
    return Problem(
        batch=batch,
        single=len(query) == _MATRIX,
        heads=heads,
        kv_heads=kv_heads,
        query_length=_known(query[-2]),
        key_length=_known(key[-2]),
        head_dim=query[-1] or 0,
        value_dim=value_dim or shapes.get("value", query)[-1] or 0,
        masked=masked,
    )


def _check_pair(key: Shape, value: Shape, got: str) -> None:
    if key[-2] != value[-2]:
        msg = (
            f"key and value must have the same length (second-to-last axis); got {got}. "
            f"Axes are (..., heads, length, dim): did you pass (..., length, heads, dim)?"
        )
        raise ShapeError(msg)
    if key[:-2][-1:] != value[:-2][-1:]:
        msg = (
            f"key and value must have the same heads (third axis from the end); got {got}. Repeat or drop heads of one."
        )
        raise ShapeError(msg)


def _broadcast(shapes: Sequence[Shape], got: str) -> Shape:
    result: list[int | None] = []
    for sizes in zip(*shapes, strict=True):
        big = {size for size in sizes if size != 1}
        if len(big) > 1:
            msg = f"the axes before heads must be equal or 1, so that they broadcast; got {got}"
            raise ShapeError(msg)
        result.append(big.pop() if big else 1)
    return tuple(result)


def check_mask(xp: Any, key_mask: Array, key: Array, batch: Shape, heads: int) -> None:
    """Raise unless `key_mask` is a boolean array whose axes stand for those of `key`, see `attention`."""
    if not xp.isdtype(key_mask.dtype, "bool"):
        msg = f"key_mask must be boolean, True = attend; got {key_mask.dtype}. For 0 and 1 write key_mask != 0."
        raise DTypeError(msg)
    shape, keys = sizes_of(key_mask), sizes_of(key)
    kv_heads = () if key.ndim == _MATRIX else (keys[-3],)
    full = (*batch, *kv_heads, keys[-2])
    without_heads = (*batch, keys[-2])
    wanted = {1: (keys[-2],), len(without_heads): without_heads, len(full): full}.get(len(shape))
    fits = (
        wanted is not None and shape[-1] == wanted[-1] and all(_fits(*pair) for pair in zip(shape, wanted, strict=True))
    )
    if wanted is full and not fits and kv_heads and shape[-2] == heads:
        fits = all(_fits(*pair) for pair in zip(shape[:-2], batch, strict=True)) and shape[-1] == full[-1]
    if not fits:
        options = " or ".join(dict.fromkeys(str(each) for each in ((keys[-2],), without_heads, full)))
        msg = f"key_mask must have shape {options} (axes of size 1 broadcast); got {shape} for key {keys}"
        raise ShapeError(msg)


def check_dense_mask(xp: Any, attn_mask: Array, problem: Problem) -> None:
    """Raise unless `attn_mask` is a boolean array that broadcasts to (..., heads, query_length, key_length)."""
    if not xp.isdtype(attn_mask.dtype, "bool"):
        msg = f"attn_mask must be boolean, True = attend; got {attn_mask.dtype}. For 0 and 1 write attn_mask != 0."
        raise DTypeError(msg)
    heads = () if problem.single else (*problem.batch, problem.heads)
    full = (*heads, problem.query_length, problem.key_length)
    shape = sizes_of(attn_mask)
    axes = len(shape)
    if not _MATRIX <= axes <= len(full) or not all(_fits(*pair) for pair in zip(shape, full[-axes:], strict=True)):
        msg = f"attn_mask must have at least 2 axes and broadcast to {full}; got {shape}"
        raise ShapeError(msg)


def _fits(size: int | None, wanted: int | None) -> bool:
    return size in (1, wanted)


def is_array(thing: object) -> bool:
    """Tell an array from a number; numbers of NumPy are numbers."""
    return (hasattr(thing, "shape") or hasattr(thing, "__dlpack__")) and not isinstance(thing, Real)


def check_scale_number(scale: Any) -> None:
    """Raise OptionError unless `scale` is None, an array, or a finite number."""
    if scale is None or is_array(scale):
        return
    if isinstance(scale, bool) or not isinstance(scale, Real) or not _is_finite(scale):
        msg = f"scale must be a finite number or an array of the library of query; got {scale!r}"
        raise OptionError(msg)


def _is_finite(number: Any) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the range of floats
        return False


def check_scale_array(xp: Any, scale: Array, query: Array, heads: int) -> None:
    """Raise unless `scale` is a floating-point array of a shape that `attention` documents."""
    if not xp.isdtype(scale.dtype, "real floating"):
        msg = f"scale must have a real floating-point dtype; got {scale.dtype}. Convert it with astype."
        raise DTypeError(msg)
    shape = sizes_of(scale)
    full = (1,) * query.ndim if query.ndim == _MATRIX else (*sizes_of(query)[:-3], heads, 1, 1)
    fits = len(shape) == query.ndim and all(_fits(*pair) for pair in zip(shape, full, strict=True))
    if not (shape in ((), (heads,)) or fits):
        msg = f"scale must be a number or an array of shape (), ({heads},) or {full}; got shape {shape}"
        raise ShapeError(msg)
