"""Every public function that computes, called once on small tokens that cross several tiles.

For tests of what a call does beside its values: where it computes, what it copies, what it waits for. The values are
held against the definition all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gradient_oracle import NAMES, gradients_oracle, tangent_oracle
from gradient_ways import pulled, pushed
from oracle import attention_oracle, attention_weights_oracle, causal, packed
from ways import chunked, in_one_pack, merged, stepped, whole

from taylorshift_core import Decoder, SlidingWindow, State, attention_packed, attention_weights, summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Array = Any
Arrays = dict[str, Array]  # by the names of `tokens`
Results = dict[str, tuple["NDArray[np.float64]", float]]  # expected, and the size that errors are relative to

LENGTH = 11
FEATURES = 10  # of a head_dim of 3
ROUNDINGS = 4  # a gradient is a chain of four sums
TERMS = ROUNDINGS * (LENGTH + FEATURES)


@dataclass(frozen=True)
class Call:
    """A call by name: what it does with the arrays of `tokens`, and what comes out in float64."""

    run: Callable[[Arrays], tuple[Array, ...]]
    expected: Callable[[Arrays], Results]


def tokens() -> dict[str, NDArray[Any]]:
    """Draw grouped heads of a batch, two masks, a scale a head, and directions for gradients."""
    rng = np.random.default_rng(0)
    heads, kv_heads, head_dim, value_dim = 4, 2, 3, 2
    query, key = (rng.standard_normal((2, n, LENGTH, head_dim)) for n in (heads, kv_heads))
    value = rng.standard_normal((2, kv_heads, LENGTH, value_dim))
    mask = rng.uniform(size=(2, LENGTH)) < 0.7
    mask[:, 0] = True
    return {
        "query": query,
        "key": key,
        "value": value,
        "key_mask": mask,
        "attn_mask": causal(LENGTH, LENGTH, window=4),
        "scale": rng.uniform(0.5, 1.5, size=heads),
        "cotangent": rng.standard_normal((2, heads, LENGTH, value_dim)),
        "to_query": rng.standard_normal(query.shape),
        "to_key": rng.standard_normal(key.shape),
        "to_value": rng.standard_normal(value.shape),
    }


def _operands(x: Arrays) -> tuple[Array, Array, Array]:
    return x["query"], x["key"], x["value"]


def _output(function: Callable[..., Array], *names: str, allowed: Any = None, **options: Any) -> Call:
    """Return a call of attention, given the options and the arrays of these names."""

    def run(x: Arrays) -> tuple[Array]:
        return (function(*_operands(x), **{name: x[name] for name in names}, **options),)

    def expected(x: Arrays) -> Results:
        settings = {name: x[name] for name in names if name != "attn_mask"}
        output = attention_oracle(*_operands(x), **settings, allowed=allowed, **options)
        return {"output": (output, float(np.max(np.abs(output))))}

    return Call(run, expected)


def _gradients(form: str, *, is_causal: bool) -> Call:
    def run(x: Arrays) -> tuple[Array, ...]:
        options = {"scale": x["scale"], "key_mask": x["key_mask"], "is_causal": is_causal, "form": form}
        return pulled(*_operands(x), x["cotangent"], **options)[1:]

    def expected(x: Arrays) -> Results:
        settings = {"scale": x["scale"], "key_mask": x["key_mask"], "allowed": _lower if is_causal else None}
        return {name: gradients_oracle(*_operands(x), x["cotangent"], **settings)[name] for name in NAMES}

    return Call(run, expected)


def _tangent(form: str) -> Call:
    def run(x: Arrays) -> tuple[Array]:
        return (pushed(*_operands(x), x["to_query"], x["to_key"], x["to_value"], None, form=form, scale=x["scale"])[1],)

    def expected(x: Arrays) -> Results:
        by = x["to_query"], x["to_key"], x["to_value"], None
        tangent = tangent_oracle((*_operands(x), x["scale"]), by)
        return {"tangent": (tangent, float(np.max(np.abs(tangent))))}

    return Call(run, expected)


def _read(x: Arrays) -> tuple[Array]:
    """Add to a state of nothing, take something away again, and read."""
    some, rest = ({name: x[name][..., part, :] for name in ("key", "value")} for part in (slice(0, 4), slice(4, None)))
    empty = State.zeros(x["key"], head_dim=3, value_dim=2, leading=(2, 2))
    state = (empty + summarise(**some)).add(**rest).remove(**some).add(**some)
    return (state.read(x["query"]),)


def _read_expected(x: Arrays) -> Results:
    """Return the sums of [value, 1]: the state leaves out the factor a = 1/2 of the weights."""
    ones = np.ones_like(x["value"][..., :1])
    query, key, values = x["query"], x["key"], np.concatenate([x["value"], ones], axis=-1)
    mean = attention_oracle(query, key, values)
    units = [rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (query, np.repeat(key, 2, axis=-3))]
    scores = units[0] @ np.swapaxes(units[1], -1, -2)
    sums = 2 * mean * np.sum(0.5 * scores**2 + scores + 1, axis=-1, keepdims=True)
    return {"sums": (sums, float(np.max(np.abs(sums))))}


def _weights(x: Arrays) -> tuple[Array]:
    return (attention_weights(x["query"], x["key"], key_mask=x["key_mask"], scale=x["scale"]),)


def _weights_expected(x: Arrays) -> Results:
    return {"weights": (attention_weights_oracle(x["query"], x["key"], key_mask=x["key_mask"], scale=x["scale"]), 1.0)}


def _two_sequences(*operands: Array, **options: Any) -> Array:
    return attention_packed(*operands, cu_seqlens_q=(0, 5, LENGTH), **options)


_lower = causal(LENGTH, LENGTH)
_window = causal(LENGTH, LENGTH, window=4)
_blocks = causal(LENGTH, LENGTH, block=2, prefix=3)
FORMS = ("direct", "efficient")

CALLS: dict[str, Call] = {
    "state": Call(_read, _read_expected),
    "states merged": _output(merged(4), "key_mask", "scale", normalise_output=True),
    "weights": Call(_weights, _weights_expected),
    "dense mask": _output(whole("direct"), "attn_mask", "scale", allowed=_window),
    "causal, in parts": _output(chunked(4), "key_mask", "scale", allowed=_lower),
    "decoder": _output(stepped(Decoder(tail=3), (1, 1, 1, 4)), "key_mask", "scale", allowed=_lower),
    "window": _output(stepped(SlidingWindow(4), (1, 5)), "scale", allowed=_window),
    "packed": _output(_two_sequences, "scale", allowed=packed((5, 6), (5, 6))),
    "packed, causal": _output(in_one_pack(is_causal=True), "key_mask", allowed=_lower),
}
for _form in FORMS:
    CALLS |= {
        f"{_form}": _output(whole(_form), "key_mask", "scale"),
        f"{_form}, rows as they are": _output(whole(_form), normalise=False, coefficients=(2.0, -1.0, 0.5)),
        f"{_form}, causal": _output(whole(_form, is_causal=True), "key_mask", "scale", allowed=_lower),
        f"{_form}, blocks": _output(
            whole(_form, block_causal=2, prefix_length=3), normalise_output=True, allowed=_blocks
        ),
        f"{_form}, gradients": _gradients(_form, is_causal=False),
        f"{_form}, causal, gradients": _gradients(_form, is_causal=True),
        f"{_form}, tangent": _tangent(_form),
    }


def assert_close(actual: NDArray[np.float64], expected: NDArray[np.float64], size: float, eps: float) -> None:
    """Raise unless the largest error is within ``4 * eps * sqrt(terms) * size``; differences of the oracle hold to 1e-9."""
    assert actual.shape == expected.shape
    error = float(np.max(np.abs(actual - expected)))
    assert error <= max(4 * eps * TERMS**0.5, 1e-9) * size, (error, size)
