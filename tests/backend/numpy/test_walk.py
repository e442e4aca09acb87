"""The compiled walk of causal attention: by scores at both ends, through a state between them, shared out to threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_matches
from oracle import attention_oracle, causal
from problems import Problem
from ways import assert_way, rounded

from taylorshift_backends import _numpy_loops, _numpy_tiles, _numpy_walk
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_core import attention, summarise
from taylorshift_core.walk import plan_walk, split_walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Library

Array = Any
FORMS = ("direct", "efficient")
each_form = pytest.mark.parametrize("form", FORMS)
unwarned = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SIZES = {
    "all by scores": (500, 33, 17),
    "several chunks by scores at both ends": (1000, 33, 17),
    "chunks of a tile": (1700, 50, 20),
    "two panels of columns": (400, 9, 37),
}


def in_form(form: str) -> Callable[..., Array]:
    return lambda *arrays, **options: attention(*arrays, form=form, is_causal=True, **options)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """So many threads for any work, whatever the machine has."""
    monkeypatch.setattr(_numpy_walk, "threads_for", lambda _: request.param)
    return int(request.param)


def test_sizes_are_what_they_are_called() -> None:
    walks = [plan_walk(n, d + 1, e + 1, TOKENS) for n, d, e in SIZES.values()]
    assert walks[0].reads == walks[0].sums == 0
    assert walks[1].first > 2 * walks[1].chunk
    assert walks[1].length - walks[1].last > 2 * walks[1].chunk
    assert walks[1].first < walks[1].last
    assert walks[2].chunk == TOKENS > walks[1].chunk
    assert 0 < walks[2].first < walks[2].last


@each_form
@pytest.mark.parametrize("mask", ["absent", "keys"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_walk_is_the_definition(
    library: Library, dtype: str, sizes: tuple[int, int, int], mask: str, form: str
) -> None:
    length, head_dim, value_dim = sizes
    problem = Problem(length, length, head_dim, value_dim, heads=2, kv_heads=1, key_mask=mask, normalise_output=True)
    assert_way(library, dtype, in_form(form), problem, causal(length, length))


@each_form
@pytest.mark.parametrize(("block", "prefix"), [(1, 0), (4, 0), (1, 8)])
@pytest.mark.parametrize(("queries", "keys"), [(300, 300), (300, 240), (240, 300)])
def test_rules_that_are_no_walk(
    library: Library, dtype: str, queries: int, keys: int, block: int, prefix: int, form: str
) -> None:
    """Blocks, prefixes, and queries behind the last key; keys behind the last query are seen by none."""
    rule = {"block_causal": block, "prefix_length": prefix, "is_causal": block == 1}
    problem = Problem(queries, keys, 9, 5, heads=2, kv_heads=1)
    way = lambda *arrays, **options: attention(*arrays, form=form, **rule, **options)  # noqa: E731
    assert_way(library, dtype, way, problem, causal(queries, keys, block=block, prefix=prefix))


@each_form
@pytest.mark.parametrize("threads", [2, 3, 4, 7], indirect=True)
@pytest.mark.parametrize("kv_heads", [1, 2, 3])
def test_few_heads_are_shared_out_by_tokens(
    monkeypatch: pytest.MonkeyPatch, library: Library, dtype: str, kv_heads: int, threads: int, form: str
) -> None:
    """And come to the same output; that they are shared out is seen by the cuts that were asked for."""
    parts = []

    def counted(walk: Any, equal: float, groups: int, n: int) -> tuple[int, ...]:
        cuts = split_walk(walk, equal, groups, n)
        parts.append(len(cuts) - 1)
        return cuts

    monkeypatch.setattr(_numpy_walk, "split_walk", counted)
    problem = Problem(900, 900, 9, 5, heads=2 * kv_heads, kv_heads=kv_heads, key_mask="keys", normalise_output=True)
    assert_way(library, dtype, in_form(form), problem, causal(900, 900))
    assert [n > 1 for n in parts] == [threads >= 2 * kv_heads]


@each_form
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("past", [0, 40])
@pytest.mark.usefixtures("threads")
def test_a_state_goes_in_and_out(library: Library, dtype: str, past: int, form: str) -> None:
    """One that stands for no keys is as if there were none."""
    length = 503
    (query, key, value), options = rounded(
        library, dtype, Problem(length, past + length, 17, 20, 2, 1, key_mask="keys")
    )
    mask = options["key_mask"]
    assert mask[-1]  # or nobody would see that the last key is left out of the state
    before = summarise(key[..., :past, :], value[..., :past, :], key_mask=mask[..., :past])
    new = query, key[..., past:, :], value[..., past:, :]
    settings = {"key_mask": mask[..., past:], "state": before, "form": form, "is_causal": True}
    output, behind = attention(*new, return_state=True, **settings)
    without = attention(*new, **settings)
    allowed = causal(length, past + length, past=past)
    expected = attention_oracle(
        *(library.exact(x) for x in (query, key, value)), key_mask=library.exact(mask), allowed=allowed
    )
    reference = float(np.max(np.abs(library.exact(value))))
    for each in (output, without):
        assert_matches(library, dtype, each, expected, terms=past + length + 171, reference=reference)
    whole = summarise(key, value, key_mask=mask).sums
    eps = float(np.finfo(whole.dtype).eps)
    np.testing.assert_allclose(
        behind.sums, whole, rtol=0, atol=4 * eps * np.sqrt(length) * float(np.max(np.abs(whole)))
    )


@unwarned
@each_form
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("place", ["key", "value"])
@pytest.mark.parametrize("from_token", [30, 96, 350, 640, 699])
@pytest.mark.usefixtures("threads")
def test_what_comes_later_changes_no_bit(place: str, from_token: int, form: str) -> None:
    """In the chunks before the first sum, in those between, and behind the last."""
    rng = np.random.default_rng(from_token)
    tokens = {name: rng.standard_normal((1, 700, 17)) for name in ("query", "key", "value")}
    expected = attention(**tokens, form=form, is_causal=True)
    tokens[place] = tokens[place].copy()
    tokens[place][:, from_token:] = np.nan
    actual = attention(**tokens, form=form, is_causal=True)
    np.testing.assert_array_equal(actual[:, :from_token], expected[:, :from_token])
    assert np.isnan(actual[:, from_token:]).any(axis=-1).all()


@each_form
@pytest.mark.parametrize("small", [True, False])
def test_arrays_that_are_not_contiguous(monkeypatch: pytest.MonkeyPatch, small: bool, form: str) -> None:
    """Tokens before heads in memory: small ones are copied whole, others a head at a time."""
    monkeypatch.setattr(_numpy_loops, "_SMALL", 10**6 if small else 0)
    tokens = np.random.default_rng(0).standard_normal((3, 2, 150, 4, 6)).astype(np.float32)
    mask = np.random.default_rng(1).random((2, 150)) < 0.7
    apart = [np.swapaxes(x, 1, 2) for x in tokens]
    together = [np.ascontiguousarray(x) for x in apart]
    options = {"form": form, "is_causal": True, "key_mask": mask, "scale": np.asarray([0.5, 1.0, 1.5, 2.0])}
    np.testing.assert_array_equal(attention(*apart, **options), attention(*together, **options))
    grouped = attention(apart[0], *(x[:, ::2] for x in apart[1:]), **options)
    np.testing.assert_array_equal(grouped, attention(together[0], *(x[:, ::2].copy() for x in together[1:]), **options))


@each_form
def test_both_forms_walk(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """What never reached the compiled walk would pass all of the above; masks that heads share walk as well."""
    called = []
    job = _numpy_walk.walk_job
    monkeypatch.setattr(_numpy_walk, "walk_job", lambda dtype: (called.append(dtype), job(dtype))[1])
    x = np.ones((2, 100, 4), dtype=np.float32)
    attention(x, x, x, form=form, is_causal=True)
    attention(x, x, x, form=form, is_causal=True, key_mask=np.ones(100, dtype=np.bool_))
    assert called == 2 * [np.float32]
    monkeypatch.setattr(_numpy_tiles, "COMPILED", False)
    attention(x, x, x, form=form, is_causal=True)
    assert len(called) == 2
