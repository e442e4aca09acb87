"""The NumPy adapter's two ways to multiply, compiled and in stacks of blocks, at lengths that cross their blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_attention
from problems import Problem

from taylorshift_backends import _numpy_compiled, _numpy_steps, _numpy_steps_back, _numpy_tiles
from taylorshift_backends._numpy_jit import compiled as compiled_function
from taylorshift_core import attention, attention_vjp, summarise

if TYPE_CHECKING:
    from conftest import Library

FORMS = ("direct", "efficient")


@pytest.fixture(params=[True, False], ids=["compiled", "stacks"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(_numpy_tiles, "COMPILED", request.param)
    return bool(request.param)


def test_numba_is_installed() -> None:
    """Without it the tests below would compare the stacks with themselves."""
    assert _numpy_tiles.COMPILED


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("head_dim", "value_dim"), [(1, 1), (2, 5), (5, 3), (16, 16), (17, 33), (33, 1), (64, 64)])
@pytest.mark.parametrize("lengths", [(128, 129), (400, 1000), (2501, 301)])
@pytest.mark.usefixtures("compiled")
def test_lengths_past_the_blocks(
    library: Library, dtype: str, head_dim: int, value_dim: int, lengths: tuple[int, int], form: str
) -> None:
    assert_attention(library, dtype, Problem(*lengths, head_dim, value_dim, heads=2, key_mask="keys"), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", ["absent", "batch, heads"])
@pytest.mark.usefixtures("compiled")
def test_batches_and_groups_past_the_blocks(library: Library, dtype: str, mask: str, form: str) -> None:
    batches = {"query_batch": (2,), "key_batch": (1,), "value_batch": (2,)}
    problem = Problem(300, 270, 8, 4, heads=4, kv_heads=2, **batches, key_mask=mask, normalise_output=True)
    assert_attention(library, dtype, problem, form)


@pytest.mark.parametrize("form", FORMS)
def test_compiled_code_runs(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """A form that never reached the compiled steps would pass all of the above."""
    called = _counted(monkeypatch, _numpy_steps, "summarise", "read", "meet")
    x = np.ones((1, 256, 4), dtype=np.float32)
    attention(x, x, x, form=form)
    assert set(called) == ({"meet"} if form == "direct" else {"summarise", "read"})


@pytest.mark.parametrize("form", FORMS)
def test_compiled_gradients_run(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Gradients where every query sees all keys are whole steps."""
    called = _counted(monkeypatch, _numpy_steps_back, "read_vjp", "summarise_vjp", "meet_vjp")
    x = np.ones((1, 256, 4), dtype=np.float32)
    output, pullback = attention_vjp(x, x, x, form=form)
    pullback(output)
    assert set(called) == ({"meet_vjp"} if form == "direct" else {"read_vjp", "summarise_vjp"})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("head_dim", "value_dim", "lengths"),
    [(1, 1, (33, 500)), (5, 20, (300, 193)), (16, 16, (192, 384)), (33, 3, (500, 40))],
)
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("threads", [1, 20])  # of 20, several share a head
def test_gradients_past_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    head_dim: int,
    value_dim: int,
    lengths: tuple[int, int],
    normalise: bool,
    form: str,
) -> None:
    """Against differences in float64 along one direction, with groups, a mask over what is no number, and a row of zeros."""
    monkeypatch.setattr(_numpy_steps_back, "SHORTEST_SUM", 32)
    monkeypatch.setattr(_numpy_steps_back, "threads_for", lambda _work: threads)
    rng, (queries, keys) = np.random.default_rng(0), lengths
    sizes = (4, queries, head_dim), (2, keys, head_dim), (2, keys, value_dim)
    at, by = ([rng.standard_normal((2, *size)) for size in sizes] for _ in range(2))
    at = [x + np.copysign(0.5, x) for x in at]  # no row is so short that its direction turns within a step
    mask = rng.random((2, keys)) > 0.3
    at[0][:, :, 7] = by[0][:, :, 7] = 0
    hidden = [np.where(mask[:, None, :, None], x, np.nan) for x in at[1:]]
    options = {"form": form, "key_mask": mask, "normalise": normalise, "normalise_output": True}
    scale, cotangent = np.asarray(0.7), rng.standard_normal((2, 4, queries, value_dim))

    def loss(step: float) -> float:
        moved = [x + step * change for x, change in zip(at, by, strict=True)]
        return float(np.sum(attention(*moved, scale=scale + step, **options) * cotangent))

    found = attention_vjp(at[0], *hidden, scale=scale, **options)[1](cotangent)
    along = sum(float(np.sum(x * change)) for x, change in zip(found[:3], by, strict=True)) + float(found.scale)
    h = 1e-3  # Richardson: what is left is of order h**4
    differences = [(loss(step) - loss(-step)) / (2 * step) for step in (h, h / 2)]
    expected = (4 * differences[1] - differences[0]) / 3
    assert abs(along - expected) <= 1e-8 * sum(float(np.sum(np.abs(x * y))) for x, y in zip(found[:3], by, strict=True))
    assert not np.any(np.swapaxes(found.key, 1, 2)[~mask])
    assert not np.any(np.swapaxes(found.value, 1, 2)[~mask])
    assert not normalise or not np.any(found.query[:, :, 7])


@pytest.mark.parametrize("form", FORMS)
def test_compiled_products_run(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """What is no whole step, causal attention behind a prefix or a gradient, is made of compiled products."""
    called = _counted(monkeypatch, _numpy_compiled, "state_tile", "read_tile", "back_tile", "meet_tile")
    x = np.ones((1, 1024, 4), dtype=np.float32)
    output, pullback = attention_vjp(x, x, x, form=form, is_causal=True, prefix_length=8)
    pullback(output)
    assert set(called) >= ({"meet_tile"} if form == "direct" else {"state_tile", "read_tile", "back_tile"})


def _counted(monkeypatch: pytest.MonkeyPatch, module: object, *names: str) -> list[str]:
    """Return a list that the names of those functions are added to when they are called."""
    called: list[str] = []
    for name in names:
        original = getattr(module, name)

        def counted(*arguments: object, name: str = name, original: Any = original) -> object:
            called.append(name)
            return original(*arguments)

        monkeypatch.setattr(module, name, counted)
    return called


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("place", ["key", "value"])
@pytest.mark.parametrize("from_token", [50, 96, 150])
@pytest.mark.usefixtures("compiled")
def test_what_comes_later_in_a_chunk_changes_no_bit(place: str, bad: float, from_token: int) -> None:
    rng = np.random.default_rng(from_token)
    tokens = {name: rng.standard_normal((2, 200, 17)) for name in ("query", "key", "value")}
    expected = attention(**tokens, form="efficient", is_causal=True)
    tokens[place] = tokens[place].copy()
    tokens[place][:, from_token:] = bad
    actual = attention(**tokens, form="efficient", is_causal=True)
    np.testing.assert_array_equal(actual[:, :from_token], expected[:, :from_token])


@pytest.mark.usefixtures("compiled")
def test_a_walk_over_grouped_heads_with_a_past() -> None:
    """What one call of the compiled walk is given at once: groups, a mask, a past, several chunks and a state to return."""
    rng = np.random.default_rng(5)
    query, key, value = (rng.standard_normal((2, heads, 300, 9)) for heads in (4, 2, 2))
    options = {
        "key_mask": rng.uniform(size=(2, 300)) < 0.7,
        "scale": rng.uniform(0.5, 1.5, 4),
        "normalise_output": True,
    }
    past = summarise(0.5 * key[..., :40, :], value[..., :40, :])
    found = [
        attention(query, key, value, form=form, is_causal=True, state=past, return_state=True, **options)
        for form in FORMS
    ]
    (direct, behind), (efficient, walked) = found
    allowed = 4 * np.finfo(float).eps * np.sqrt(340 + 55)
    np.testing.assert_allclose(efficient, direct, rtol=0, atol=allowed * np.max(np.abs(direct)))
    np.testing.assert_allclose(walked.sums, behind.sums, rtol=0, atol=allowed * np.max(np.abs(behind.sums)))


def test_compiled_code_that_cannot_be_kept_runs_all_the_same() -> None:
    """Numba finds no folder for a function without a file, as it does where none may be written."""
    names: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x\n", names)
    assert compiled_function(names["double"])(21) == 42
