"""`attention_vjp` and `attention_jvp` on one array library, both forms, against the gradients of the definition."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_kind, assert_matches, assert_same_bits, assert_same_steps, eps_of, summed, within
from gradient_oracle import NAMES, derivative, directions, gradients_oracle, tangent_oracle
from gradient_ways import assert_gradients, pulled, pushed, run
from oracle import attention_oracle, causal
from problems import MASKS, Problem, draw, every_three_together
from ways import joined

from taylorshift_core import (
    BackendError,
    DTypeError,
    Gradients,
    OptionError,
    ShapeError,
    attention,
    attention_jvp,
    attention_vjp,
    summarise,
)

if TYPE_CHECKING:
    from conftest import Library

FORMS = ("direct", "efficient")
PROBLEMS = [pytest.param(problem, i % 2 == 0, id=f"{i:03}") for i, problem in enumerate(every_three_together())]
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.mark.parametrize("problem", [problem.values[0] for problem in PROBLEMS[::5]])
def test_the_oracle_itself_by_differences(problem: Problem) -> None:
    """Every operand alone, along a random direction."""
    arrays, keywords = draw(problem)
    scale = keywords.pop("scale")
    operands = (*arrays, scale)
    cotangent = np.random.default_rng(1).standard_normal(attention_oracle(*arrays, scale=scale, **keywords).shape)
    found = gradients_oracle(*arrays, cotangent, scale=scale, **keywords)
    moves = directions(tuple(None if x is None else np.asarray(x) for x in operands), seed=2)
    for i, name in enumerate(NAMES):
        if operands[i] is not None:
            alone = tuple(move if j == i else None for j, move in enumerate(moves))
            expected = np.sum(cotangent * tangent_oracle(operands, alone, **keywords))
            gradient, size = found[name]
            assert gradient.shape == np.shape(operands[i])
            assert abs(np.sum(gradient * moves[i]) - expected) <= 1e-9 * size * np.sum(np.abs(moves[i]))


@each_form
@pytest.mark.parametrize(("problem", "tiled"), PROBLEMS)
def test_options_three_at_a_time(library: Library, dtype: str, problem: Problem, tiled: bool, form: str) -> None:
    assert_gradients(library, dtype, problem, form, tiled=tiled)


LENGTHS = [(9, 9), (12, 7), (5, 11), (1, 4), (4, 1)]
RULES = {
    "causal": {"is_causal": True},
    "blocks": {"block_causal": 2},
    "long blocks": {"block_causal": 7},
    "prefix": {"is_causal": True, "prefix_length": 3},
    "blocks behind a prefix": {"block_causal": 3, "prefix_length": 2},
    "prefix of all": {"is_causal": True, "prefix_length": 20},
}


@each_form
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("rule", RULES)
def test_causal(library: Library, dtype: str, rule: str, lengths: tuple[int, int], tiled: bool, form: str) -> None:
    options = RULES[rule]
    allowed = causal(*lengths, block=options.get("block_causal", 1), prefix=options.get("prefix_length", 0))
    batch = {"query_batch": (2,), "key_batch": (1,), "value_batch": (2,)}
    problem = Problem(*lengths, 3, 2, 4, 2, **batch, key_mask="batch, heads", scale="per head", normalise_output=True)
    assert_gradients(library, dtype, problem, form, allowed, tiled=tiled, **options)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("rows", [(), (4,), (2, 1)])
def test_dense_masks(library: Library, dtype: str, rows: tuple[int, ...], tiled: bool) -> None:
    allowed = np.random.default_rng(3).random((*rows, 7, 6)) < 0.6
    allowed[..., 2, :] = False
    mask = library.to_array(allowed)
    batch = {"query_batch": (2,), "key_batch": (2,), "value_batch": (1,)}
    problem = Problem(7, 6, 3, 2, 4, 2, **batch, key_mask="keys", normalise_output=True)
    assert_gradients(library, dtype, problem, "direct", allowed, tiled=tiled, attn_mask=mask)


@each_form
@pytest.mark.parametrize("lengths", [(0, 3), (3, 0), (0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("mask", ["absent", "batch, heads", "nothing"])
@pytest.mark.parametrize("rule", ["", "causal", "prefix"])
def test_no_token_and_one(
    library: Library, dtype: str, lengths: tuple[int, int], mask: str, rule: str, form: str
) -> None:
    options = RULES.get(rule, {})
    allowed = causal(*lengths, prefix=options.get("prefix_length", 0)) if rule else None
    problem = Problem(*lengths, heads=4, key_mask=mask, normalise_output=True, scale="full")
    assert_gradients(library, dtype, problem, form, allowed, **options)


@each_form
@pytest.mark.parametrize("head_dim", [1, 2, 5, 8, 17, 32])
@pytest.mark.parametrize("tiled", [False, True])
def test_head_dims_of_use(library: Library, dtype: str, head_dim: int, tiled: bool, form: str) -> None:
    assert_gradients(library, dtype, Problem(20, 23, head_dim, 3, key_mask="keys"), form, tiled=tiled)


@each_form
@pytest.mark.parametrize("batch", [(0,), (2, 0), (1, 1, 2)])
def test_empty_and_many_batch_axes(library: Library, dtype: str, batch: tuple[int, ...], form: str) -> None:
    problem = Problem(query_batch=batch, key_batch=batch, value_batch=batch, key_mask="batch, heads", scale="full")
    assert_gradients(library, dtype, problem, form)
    assert_gradients(library, dtype, problem, form, causal(5, 5), is_causal=True)


@each_form
@pytest.mark.parametrize("scale", [None, 2, -1.5, np.float32(0.5), np.asarray(0.5), np.asarray(0.0)])
def test_two_axes_are_one_head(library: Library, dtype: str, form: str, scale: Any) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in ((6, 3), (5, 3), (5, 2), (6, 2))]
    inputs = [library.to_array(x, dtype) for x in arrays]
    given = library.to_array(scale, dtype) if isinstance(scale, np.ndarray) else scale
    exact = [library.exact(x) for x in inputs]
    expected = gradients_oracle(*exact, scale=None if scale is None else float(scale))
    _, *gradients = run(library, pulled, *inputs, form=form, scale=given)
    for name, gradient in zip(NAMES, gradients, strict=True):
        kind = summed(library, dtype) if gradient is gradients[-1] and not library.is_array(given) else dtype
        assert_matches(library, kind, gradient, expected[name][0], terms=120, reference=expected[name][1])


# A state: its keys and values came before, and have gradients through it.


@each_form
@pytest.mark.parametrize("rule", ["", "causal", "prefix", "blocks"])
@pytest.mark.parametrize("kind", ["absent", "keys"])
def test_gradients_flow_into_a_state_and_out_of_it(
    library: Library, dtype: str, rule: str, kind: str, form: str
) -> None:
    """Past keys are summed into one state, which is read, given back and read again: as if all keys were given at once."""
    past, new, options = 4, 7, RULES.get(rule, {})
    batch = {"query_batch": (2,), "key_batch": (1,), "value_batch": (1,)}
    problem = Problem(2 * new, past + new, 3, 2, 4, 2, **batch, key_mask=kind, normalise_output=True)
    (query, key, value), keywords = draw(problem)
    inputs = [library.to_array(x, dtype) for x in (query, key, value)]
    exact = [library.exact(x) for x in inputs]
    block, prefix = options.get("block_causal", 1), options.get("prefix_length", 0)
    allowed = (
        causal(new, past + new, past=past, block=block, prefix=prefix) if rule else np.ones((new, past + new), bool)
    )
    allowed = np.concatenate([allowed, np.ones((new, past + new), bool)])  # the second half reads the state given back
    mask = keywords["key_mask"]
    by_output = library.to_array(np.random.default_rng(1).standard_normal((2, 4, 2 * new, 2)), dtype)
    settings = {"key_mask": mask, "normalise_output": True, "allowed": allowed}
    expected = gradients_oracle(*exact, library.exact(by_output), **settings)

    def chained(query: Any, key: Any, value: Any, by_output: Any, **masks: Any) -> tuple[Any, ...]:
        first, second = query[..., :new, :], query[..., new:, :]
        old, own = ((key[..., part, :], value[..., part, :]) for part in (slice(0, past), slice(past, None)))
        none = query[..., :0, :]
        shared = {"form": form, "normalise_output": True}
        (_, state), into = attention_vjp(none, *old, return_state=True, key_mask=masks.get("old"), form=form)
        (_, after), through = attention_vjp(
            first, *own, state=state, return_state=True, key_mask=masks.get("own"), **shared, **options
        )
        _, out_of = attention_vjp(second, own[0][..., :0, :], own[1][..., :0, :], state=after, **shared)
        last = out_of(by_output[..., new:, :])
        middle = through((by_output[..., :new, :], last.state))
        begin = into((None, middle.state))
        pairs = (middle.query, last.query), (begin.key, middle.key), (begin.value, middle.value)
        return tuple(joined(list(pair)) for pair in pairs)

    masks = (
        {} if mask is None else {"old": library.to_array(mask[..., :past]), "own": library.to_array(mask[..., past:])}
    )
    for name, gradient in zip(NAMES, run(library, chained, *inputs, by_output, **masks), strict=False):
        assert_matches(library, dtype, gradient, expected[name][0], terms=2000, reference=expected[name][1])


@each_form
def test_a_state_moves_and_is_moved(library: Library, form: str) -> None:
    """The tangents of a state given and of the state returned, against differences."""
    rng = np.random.default_rng(5)
    shapes = (2, 3, 3), (2, 4, 3), (2, 4, 2), (2, 5, 3), (2, 5, 2)
    query, key, value, old_key, old_value = (rng.standard_normal(shape) for shape in shapes)
    by = [rng.standard_normal(shape) for shape in shapes[:3]]
    state = summarise(library.to_array(old_key, "float64"), library.to_array(old_value, "float64"))
    by_sums = rng.standard_normal(state.sums.shape)

    def at(h: float) -> np.ndarray:
        moved = [library.to_array(x + h * dx, "float64") for x, dx in zip((query, key, value), by, strict=True)]
        past = replace(state, sums=library.to_array(library.exact(state.sums) + h * by_sums, "float64"))
        output, after = attention(
            *moved, state=past, is_causal=True, return_state=True, form=form, normalise_output=True
        )
        return np.concatenate([library.exact(output).ravel(), library.exact(after.sums).ravel()])

    inputs, moves = ([library.to_array(x, "float64") for x in each] for each in ((query, key, value), by))
    moving = Gradients(*moves, None, replace(state, sums=library.to_array(by_sums, "float64")))
    options = {"state": state, "is_causal": True, "return_state": True, "form": form, "normalise_output": True}
    (output, after), (by_output, by_after) = attention_jvp(inputs, moving, **options)
    assert_kind(library, "float64", by_output, (2, 3, 2))
    got = [
        np.concatenate([library.exact(x).ravel(), library.exact(s.sums).ravel()])
        for x, s in ((output, after), (by_output, by_after))
    ]
    np.testing.assert_allclose(got[0], at(0.0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(got[1], derivative(at), rtol=1e-8, atol=1e-8)


# What has no gradient, has exactly none.


@each_form
@pytest.mark.parametrize("rule", ["", "causal"])
def test_zero_rows_have_gradients_of_zero(library: Library, dtype: str, rule: str, form: str) -> None:
    """A normalised row of zeros does not move; values at its place do, and so do its neighbours."""
    (query, key, value), _ = draw(Problem(6, 7, heads=4))
    query[:, 1], key[:, 2], query[0, 0], key[0, 0] = 0.0, 0.0, 0.0, 0.0
    inputs = [library.to_array(x, dtype) for x in (query, key, value, np.ones((4, 6, 3)))]
    options = RULES.get(rule, {})
    _, to_query, to_key, to_value, _ = (library.exact(x) for x in run(library, pulled, *inputs, form=form, **options))
    assert not to_query[:, 1].any()
    assert not to_key[:, 2].any()
    assert not to_key[0, 0].any()
    assert to_query[1:, 2:].any(axis=-1).all()
    assert to_value.any(axis=-1).all() or rule
    still = [np.where(np.any(x, axis=-1, keepdims=True), 0.0, np.ones_like(x)) for x in (query, key)]
    moves = [library.to_array(x, dtype) for x in still]
    _, tangent = run(library, pushed, *inputs[:3], *moves, None, form=form, **options)
    assert not library.exact(tangent).any()


@each_form
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("kind", [name for name in MASKS if name != "absent"])
def test_what_stands_behind_the_mask_reaches_no_gradient(
    library: Library, dtype: str, form: str, kind: str, normalise: bool, bad: float
) -> None:
    batch = {"query_batch": (2,), "key_batch": (2,), "value_batch": (2,)}
    (query, key, value), keywords = draw(Problem(heads=4, key_length=9, key_mask=kind, **batch))
    mask = keywords["key_mask"]
    rows = mask[..., None, :] if mask.ndim < 3 else mask
    seen = np.broadcast_to(rows if rows.shape[-2] < 4 else rows[:, ::2] | rows[:, 1::2], (2, 2, 9))
    options = {"form": form, "normalise": normalise, "normalise_output": True, "key_mask": library.to_array(mask)}
    cotangent = library.to_array(np.random.default_rng(1).standard_normal((2, 4, 5, 3)), dtype)
    results = []
    for there in (0.0, bad):
        key[~seen], value[~seen] = there, there
        inputs = [library.to_array(x, dtype) for x in (query, key, value)]
        moves = [library.to_array(x, dtype) for x in (query, np.where(seen[..., None], key, bad), value)]
        results.append(
            (*run(library, pulled, *inputs, cotangent, **options), *run(library, pushed, *inputs, *moves, **options))
        )
    for clean, dirty in zip(*results, strict=True):
        assert np.isfinite(library.exact(dirty)).all()
        assert_same_bits(library, dirty, clean)
    for gradient in results[1][2:4]:
        assert not library.exact(gradient)[~seen].any()


@each_form
@pytest.mark.parametrize("normalise_output", [False, True])
@pytest.mark.parametrize("coefficients", [(0.5, 1.0, 1.0), (1.0, 0.0, 0.0)])
def test_a_query_that_may_attend_no_key_has_gradients_of_zero(
    library: Library, dtype: str, form: str, normalise_output: bool, coefficients: tuple[float, float, float]
) -> None:
    (query, key, value), _ = draw(Problem(heads=4))
    mask = np.ones((4, 5), dtype=np.bool_)
    mask[2:] = False  # both heads of the second key head
    inputs = [library.to_array(x, dtype) for x in (query, key, value, np.ones((4, 5, 3)))]
    options = {"form": form, "coefficients": coefficients, "normalise_output": normalise_output}
    scale = library.to_array(np.ones(4), dtype)
    _, *gradients = run(library, pulled, *inputs, key_mask=library.to_array(mask), scale=scale, **options)
    cancels = coefficients == (1.0, 0.0, 0.0)  # the scale of a weight that is a square: its gradient is rounding
    for gradient, first, moves in zip(gradients, (2, 1, 1, 2), (True, True, True, not cancels), strict=True):
        exact = library.exact(gradient)
        assert np.isfinite(exact).all()
        assert not exact[first:].any()
        assert exact[:first].any() or not moves


@each_form
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("place", ["query", "value"])
def test_a_bad_number_that_is_seen_is_not_hidden(library: Library, dtype: str, form: str, place: str) -> None:
    (query, key, value), _ = draw(Problem(heads=2))
    (query if place == "query" else value)[0, 3, 1] = np.nan
    inputs = [library.to_array(x, dtype) for x in (query, key, value, np.ones((2, 5, 3)))]
    _, *gradients = run(library, pulled, *inputs, form=form)
    to_query, to_key, *_ = (library.exact(x) for x in gradients)
    assert np.isnan(to_query[0, 3]).all()
    assert np.isnan(to_key[0]).all()
    assert np.isfinite(to_query[1]).all()
    assert np.isfinite(to_key[1]).all()


# What kinds of numbers come, and in what.


@each_form
@pytest.mark.parametrize("magnitude", [1e30, 1e-30])
def test_huge_and_tiny_rows(library: Library, dtype: str, form: str, magnitude: float) -> None:
    """The gradient to a row shrinks as the row grows, by as much."""
    (query, key, value), _ = draw(Problem(6, 7))
    cotangent = np.random.default_rng(1).standard_normal((2, 6, 3))
    found = []
    for factor in (1.0, within(dtype, magnitude)):
        inputs = [library.to_array(x, dtype) for x in (query * factor, key * factor, value, cotangent)]
        _, to_query, to_key, *_ = run(library, pulled, *inputs, form=form)
        found.append([library.exact(x) * factor for x in (to_query, to_key)])
    for plain, scaled in zip(*found, strict=True):
        np.testing.assert_allclose(scaled, plain, atol=400 * eps_of(library, dtype) * np.max(np.abs(plain)))


@each_form
@pytest.mark.parametrize("rule", ["", "causal"])
def test_half_precision_comes_and_goes_and_is_summed_in_single(library: Library, form: str, rule: str) -> None:
    xp = library.namespace
    half = next((name for name in ("bfloat16", "float16") if hasattr(xp, name)), None)
    names = ("float16", "float32") if half is None else (half, "float32")
    (query, key, value), _ = draw(Problem(40, 50, 8, 8, 4, 2))
    cotangent = np.random.default_rng(1).standard_normal((4, 40, 8))
    options = RULES.get(rule, {})
    allowed = causal(40, 50) if rule else None
    for name in names if half is not None else names[1:]:
        inputs = [library.to_array(x, name) for x in (query, key, value, cotangent)]
        expected = gradients_oracle(*(library.exact(x) for x in inputs), allowed=allowed)
        output, *gradients = run(library, pulled, *inputs, form=form, scale=1.0, **options)
        assert output.dtype == inputs[0].dtype
        eps = float(xp.finfo(inputs[0].dtype).eps)
        for key_name, gradient in zip(NAMES[:3], gradients, strict=False):
            assert gradient.dtype == inputs[0].dtype
            by = expected[key_name][0]
            error = np.abs(library.exact(gradient) - by)
            assert (error <= eps * np.abs(by) + 100 * 2.0**-23 * np.max(np.abs(by))).all()  # one rounding, at the end


@each_form
def test_the_scale_has_a_gradient_of_its_own_kind(library: Library, dtype: str, form: str) -> None:
    (query, key, value), _ = draw(Problem(heads=4, query_batch=(2,), key_batch=(2,), value_batch=(2,)))
    inputs = [library.to_array(x, dtype) for x in (query, key, value, np.ones((2, 4, 5, 3)))]
    for scale in (None, 0.7):
        assert_kind(library, summed(library, dtype), run(library, pulled, *inputs, form=form, scale=scale)[-1], ())
    for shape in ((), (4,), (2, 4, 1, 1), (1, 1, 1, 1), (1, 4, 1, 1)):
        given = library.to_array(np.full(shape, 0.7), dtype)
        assert_kind(library, dtype, run(library, pulled, *inputs, form=form, scale=given)[-1], shape)
    other = "float32" if dtype == "float64" else "float64"
    if hasattr(library.namespace, other) and other in library.dtypes:
        given = library.to_array(np.full((4,), 0.7), other)
        assert_kind(library, other, run(library, pulled, *inputs, form=form, scale=given)[-1], (4,))


# The pullback itself.


@each_form
def test_a_pullback_may_be_called_again(library: Library, dtype: str, form: str) -> None:
    """It is linear, remembers nothing of earlier calls, and does not look at the output again, which its owner may write."""
    inputs = [library.to_array(x, dtype) for x in draw(Problem(12, 12))[0]]
    first, second = (library.to_array(np.random.default_rng(i).standard_normal((2, 12, 3)), dtype) for i in (1, 2))
    output, pullback = attention_vjp(*inputs, form=form)
    with library.backend.scope(first):
        total = first + second
    one, two, both = pullback(first), pullback(second), pullback(total)
    again = pullback(first)
    with library.backend.scope(output):
        output *= 0
    written = pullback(first)
    for name in ("query", "key", "value", "scale"):
        assert_same_bits(library, getattr(again, name), getattr(one, name))
        assert_same_bits(library, getattr(written, name), getattr(one, name))
        total = library.exact(getattr(both, name))
        parts = library.exact(getattr(one, name)) + library.exact(getattr(two, name))
        np.testing.assert_allclose(parts, total, atol=400 * eps_of(library, dtype) * max(1.0, np.max(np.abs(total))))
    assert one.state is None


@each_form
def test_the_output_is_that_of_attention(library: Library, dtype: str, form: str) -> None:
    arrays, keywords = draw(Problem(12, 12, key_mask="keys", normalise_output=True))
    inputs = [library.to_array(x, dtype) for x in arrays]
    options = {"form": form, "key_mask": library.to_array(keywords["key_mask"]), "normalise_output": True}
    output = attention_vjp(*inputs, **options)[0]
    assert_same_steps(library, dtype, output, attention(*inputs, **options), terms=12)


def test_none_stands_for_zeros(library: Library, dtype: str) -> None:
    inputs = [library.to_array(x, dtype) for x in draw(Problem())[0]]
    (_, state), pullback = attention_vjp(*inputs, return_state=True, is_causal=True)
    for gradient in pullback((None, None))[:4]:
        assert not library.exact(gradient).any()
    through = pullback((None, state))
    assert not library.exact(through.query).any()
    assert library.exact(through.key).any()
    output, tangent = attention_jvp(inputs, (None, None, None))
    assert_kind(library, dtype, tangent, tuple(output.shape))
    assert not library.exact(tangent).any()
    assert library.exact(attention_jvp(inputs, (None, None, None, 1.0), scale=2.0)[1]).any()


def test_errors_say_what_is_wrong(library: Library) -> None:
    inputs = [library.to_array(x, "float32") for x in draw(Problem())[0]]
    output, pullback = attention_vjp(*inputs)
    with pytest.raises(ShapeError, match=r"the cotangent must have shape \(2, 5, 3\); got \(2, 4, 3\)"):
        pullback(output[:, 1:, :])
    if "float64" in library.dtypes:
        with pytest.raises(DTypeError, match=r"the cotangent must have dtype .*float32; got .*float64"):
            pullback(library.to_array(np.ones((2, 5, 3)), "float64"))
    with pytest.raises(BackendError, match="cotangent"):
        pullback([1.0])
    (_, state), pullback = attention_vjp(*inputs, return_state=True)
    with pytest.raises(
        OptionError, match="with return_state the cotangent must be a pair, of the output and of the state"
    ):
        pullback(output)
    with pytest.raises(OptionError, match="the cotangent of the state must be a State or None; got"):
        pullback((output, state.sums))
    with pytest.raises(ShapeError, match="the tangent of key must have shape"):
        attention_jvp(inputs, (None, output[:, 1:, :], None))
    with pytest.raises(OptionError, match="what is not given as an array has no tangent; got one of state"):
        attention_jvp(inputs, (None, None, None, None, state))
    with pytest.raises(OptionError, match="no efficient form"):
        attention_vjp(*inputs, form="efficient", attn_mask=library.to_array(np.ones((5, 5), dtype=np.bool_)))


@pytest.mark.parametrize(
    ("rule", "form"), [("", "direct"), ("", "efficient"), ("causal", "direct"), ("causal", "efficient")]
)
def test_memory_grows_with_the_tokens_alone(library: Library, rule: str, form: str) -> None:
    """Features of all tokens would be head_dim**2 / 2 numbers each, scores of all pairs as many as there are tokens."""
    if library.backend.peak_memory is None:
        assert library.name not in ("numpy", "torch", "jax")
        return
    head_dim, lengths = 16, (4096, 8192)  # long enough that both are shared out to all threads
    peaks: list[list[int]] = []
    for length in lengths:
        inputs = [
            library.to_array(np.random.default_rng(i).standard_normal((1, length, head_dim)), "float32")
            for i in range(4)
        ]
        call = lambda: pulled(*inputs, form=form, **RULES.get(rule, {}))[1]  # noqa: B023, E731
        call()
        peaks.append([library.backend.peak_memory(call)[1] for _ in range(3)])
    # Threads meet by chance, and build what they keep when they first do: what counts is more than that.
    numbers = (min(peaks[1]) - max(peaks[0])) / (lengths[1] - lengths[0]) / 4
    print(f"{library.name} {form} {rule}: {numbers:.0f} numbers a token beside a fixed {max(peaks[0]) / 1e6:.1f} MB")
    # A compiled program lays some of them out once more for its loops; all scores would be thousands, all features 153 each.
    assert numbers <= (16 if library.backend.traced else 12) * head_dim
