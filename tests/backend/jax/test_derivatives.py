"""Every way in which JAX differentiates, against its own derivatives of the definition, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from taylorshift_core import attention, explain, summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Library

SMALL = {"query_tile": 3, "key_tile": 2, "offsets": 1}  # so that a few tokens cross them
WAYS = [("efficient", False), ("efficient", True), ("direct", False), ("direct", True)]


def _draw(seed: int, *shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def definition(query: Any, key: Any, value: Any, scale: Any, *, is_causal: bool) -> Any:
    """Return the attention by its formula, in operations that JAX knows the derivatives of."""
    unit = lambda x: x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))  # noqa: E731
    scores = scale[:, None, None] * (unit(query) @ jnp.swapaxes(unit(key), -1, -2))
    weights = scores**2 / 2 + scores + 1
    if is_causal:
        weights = jnp.where(np.tri(*weights.shape[-2:], dtype=bool), weights, 0)
    return weights @ value / jnp.sum(weights, axis=-1, keepdims=True)


def losses(form: str, *, is_causal: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a number made of attention, in small tiles, and the same number by the definition."""
    direction = _draw(9, 2, 7, 2)

    def ours(query: Any, key: Any, value: Any, scale: Any) -> Any:
        plan = replace(explain(query, key, value, form=form), **SMALL)
        output = attention(query, key, value, scale=scale, plan=plan, is_causal=is_causal)
        return jnp.sum(jnp.sin(output) * direction)

    def theirs(*operands: Any) -> Any:
        return jnp.sum(jnp.sin(definition(*operands, is_causal=is_causal)) * direction)

    return ours, theirs


OPERANDS = (_draw(0, 2, 7, 3), _draw(1, 2, 7, 3), _draw(2, 2, 7, 2), _draw(3, 2))
MOVES = tuple(_draw(4 + i, *x.shape) for i, x in enumerate(OPERANDS))
ALL = (0, 1, 2, 3)
PAIRS = tuple(jnp.stack(pair) for pair in zip(OPERANDS, MOVES, strict=True))
MANY = _draw(8, 2, 3, 7, 2, 3)  # queries in two batches, along axes 1 and, of what is left, 2
ONE_KEY = (0, None, 0, 0)  # axes of a batch that shares its keys


def _batched(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda query, key, value, scale: jnp.sum(jax.vmap(f, ONE_KEY)(query, key, value, scale))


def _descent(f: Callable[..., Any], query: Any) -> Any:
    """Return the numbers along a few steps, each of which follows a gradient."""
    step = lambda at, _: (at + jax.grad(f)(at, *OPERANDS[1:]), f(at, *OPERANDS[1:]))  # noqa: E731
    return lax.scan(step, query, length=3)[1]


QUERY, KEY = OPERANDS[:2]
MODES: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "grad": lambda f: jax.grad(f, ALL)(*OPERANDS),
    "grad under jit": lambda f: jax.jit(jax.grad(f, ALL))(*OPERANDS),
    "jvp": lambda f: jax.jvp(f, OPERANDS, MOVES),
    "linearize": lambda f: jax.linearize(f, *OPERANDS)[1](*MOVES),
    "jacfwd": lambda f: jax.jacfwd(f, (1, 3))(*OPERANDS),
    "jacrev": lambda f: jax.jacrev(f, (1, 3))(*OPERANDS),
    "hessian": lambda f: jax.hessian(f, (0, 2))(*OPERANDS),
    "grad of grad": lambda f: jax.grad(lambda *x: jnp.vdot(jax.grad(f, 1)(*x), KEY), ALL)(*OPERANDS),
    "reverse over forward": lambda f: jax.grad(lambda *x: jax.jvp(f, x, MOVES)[1], ALL)(*OPERANDS),
    "forward over forward": lambda f: jax.jvp(lambda *x: jax.jvp(f, x, MOVES)[1], OPERANDS, MOVES),
    "vmap of grad": lambda f: jax.vmap(jax.grad(f, ALL), ONE_KEY)(PAIRS[0], KEY, *PAIRS[2:]),
    "grad of vmap": lambda f: jax.grad(_batched(f), ALL)(PAIRS[0], KEY, *PAIRS[2:]),
    "vmap of vmap of jvp": lambda f: jax.vmap(jax.vmap(lambda m: jax.jvp(f, OPERANDS, (m, *MOVES[1:])), 2), 1)(MANY),
    "checkpoint": lambda f: jax.jit(jax.grad(jax.checkpoint(f), ALL))(*OPERANDS),
    "scan": lambda f: jax.grad(lambda query: jnp.sum(_descent(f, query)))(QUERY),
}
"""Each takes a function of four arrays to a pytree of derivatives."""
SECOND_ORDER = ("hessian", "grad of grad", "reverse over forward", "forward over forward")
EACH_WAY = ("grad", "jvp")  # the rest of the modes take turns
CASES = [
    (mode, *way) for i, mode in enumerate(MODES) for j, way in enumerate(WAYS) if mode in EACH_WAY or i % len(WAYS) == j
]


@pytest.mark.shows(gradients="jax.grad, jax.jvp", compile="jax.jit, jax.vmap")
@pytest.mark.parametrize(("mode", "form", "is_causal"), CASES)
def test_derivatives(library: Library, mode: str, form: str, is_causal: bool) -> None:
    ours, theirs = losses(form, is_causal=is_causal)
    found, expected = (jax.tree.leaves(MODES[mode](f)) for f in (ours, theirs))
    assert len(found) == len(expected)
    for by, wanted in zip(found, expected, strict=True):
        assert by.dtype == wanted.dtype == jnp.float64
        np.testing.assert_allclose(by, wanted, rtol=0, atol=1e-12 * max(1.0, float(jnp.max(jnp.abs(wanted)))))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode == "hessian" or mode not in SECOND_ORDER])
@pytest.mark.parametrize("is_causal", [False, True])
def test_derivatives_where_numpy_is_called(library: Library, calls: list[str], mode: str, is_causal: bool) -> None:
    """Of the first order NumPy's own, backwards; all others JAX's, of the same in its operations."""
    ours, theirs = losses("efficient", is_causal=is_causal)
    found, expected = (jax.tree.leaves(MODES[mode](f)) for f in (ours, theirs))
    for by, wanted in zip(jax.block_until_ready(found), expected, strict=True):
        np.testing.assert_allclose(by, wanted, rtol=0, atol=1e-12 * max(1.0, float(jnp.max(jnp.abs(wanted)))))
    assert bool(calls) is (mode not in SECOND_ORDER)


def test_derivatives_through_a_state(library: Library) -> None:
    """JAX's own, of `summarise` and `State.attend`: keys in two parts, merged, are all keys."""

    def ours(query: Any, key: Any, value: Any, scale: Any) -> Any:
        state = summarise(key[:, :3], value[:, :3]) + summarise(key[:, 3:], value[:, 3:])
        return jnp.sum(jnp.sin(state.attend(query, scale=scale)))

    theirs = lambda *operands: jnp.sum(jnp.sin(definition(*operands, is_causal=False)))  # noqa: E731
    for mode in ("grad", "hessian"):
        for by, wanted in zip(*(jax.tree.leaves(MODES[mode](f)) for f in (ours, theirs)), strict=True):
            np.testing.assert_allclose(by, wanted, rtol=0, atol=1e-12)


def test_a_state_given_and_returned_has_gradients(library: Library) -> None:
    def through(query: Any, key: Any, value: Any) -> Any:
        first = (x[:, :3] for x in (query, key, value))
        _, state = attention(*first, is_causal=True, return_state=True)
        rest = (x[:, 3:] for x in (query, key, value))
        return jnp.sum(jnp.sin(attention(*rest, is_causal=True, state=state, form="efficient")))

    def whole(query: Any, key: Any, value: Any) -> Any:
        return jnp.sum(jnp.sin(definition(query, key, value, jnp.ones(2), is_causal=True)[:, 3:]))

    for by, wanted in zip(*(jax.grad(f, (0, 1, 2))(*OPERANDS[:3]) for f in (through, whole)), strict=True):
        np.testing.assert_allclose(by, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["direct", "efficient"])
def test_what_stands_behind_a_mask_reaches_no_derivative(library: Library, form: str) -> None:
    mask = jnp.asarray([True, True, False, True, True, False, True])
    query, key, value, _ = OPERANDS
    key, value = (jnp.where(mask[:, None], x, jnp.nan) for x in (key, value))
    loss = lambda *operands: jnp.sum(jnp.sin(attention(*operands, key_mask=mask, form=form)))  # noqa: E731
    for gradient in jax.grad(lambda *x: jnp.vdot(jax.grad(loss)(*x), query), (0, 1, 2))(query, key, value):
        assert bool(jnp.all(jnp.isfinite(gradient)))
    for gradient in jax.grad(loss, (1, 2))(query, key, value):
        assert not bool(jnp.any(gradient[:, ~np.asarray(mask)]))
