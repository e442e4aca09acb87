"""The plan of a walk: what it counts is what it says, and no other walk costs less."""

from __future__ import annotations

from itertools import pairwise

import pytest

from taylorshift_core.features import n_features
from taylorshift_core.walk import Walk, chunk_of_gradients, plan_walk, scores_of_a_state, split_walk

TILE = 192
each_length = pytest.mark.parametrize("length", [1, 95, 96, 97, 500, 1000, 3000])
each_width = pytest.mark.parametrize(("width", "columns"), [(2, 2), (17, 17), (33, 2), (33, 33)])


def counted(walk: Walk, start: int = 0, stop: int | None = None) -> tuple[int, int, int]:
    """Return pairs met by scores, tokens summed, and queries that read, walking as the doc says, token by token."""
    pairs = reads = 0
    stop = walk.length if stop is None else stop
    for query in range(start, stop):
        chunk = query // walk.chunk * walk.chunk
        summed = 0 if chunk < walk.first else min(chunk, walk.last)
        pairs += query + 1 - summed
        reads += summed > 0
    return pairs, min(stop, walk.last), reads


@each_length
@each_width
@pytest.mark.parametrize("options", [{}, {"with_state": True}, {"form": "direct"}])
def test_a_walk_counts_what_it_does(length: int, width: int, columns: int, options: dict[str, bool]) -> None:
    walk = plan_walk(length, width, columns, TILE, **options)
    pairs, sums, reads = counted(walk)
    assert walk.reads == reads
    assert walk.sums == sums
    assert abs(walk.scores - pairs) <= length / 2 + walk.chunk**2  # diagonals, and a last chunk that is not whole
    assert walk.triangles <= walk.scores
    assert walk.kept >= max(min(walk.chunk, length), min(walk.first, length), length - walk.last * (walk.last > 0))


@pytest.mark.parametrize("length", [1, 96, 97, 300, 500, 1000, 1500])
@each_width
def test_no_other_walk_costs_much_less(length: int, width: int, columns: int) -> None:
    """All ends in whole chunks are tried, counted token by token."""
    equal = scores_of_a_state(width, columns)

    def cost(walk: Walk) -> float:
        pairs, sums, reads = counted(walk)
        return pairs + equal * (sums + reads)

    chunk = TILE // 2
    ends = range(chunk, length, chunk)
    others = [Walk(length, chunk, first, last) for first in ends for last in ends if first <= last]
    others.append(Walk(length, chunk, length, 0))
    assert cost(plan_walk(length, width, columns, TILE)) <= 1.05 * min(map(cost, others))


def test_a_state_costs_what_it_multiplies() -> None:
    """A token at head_dim 64: 2145 features times 65 columns, against 65 and 65 multiplications a score."""
    assert scores_of_a_state(65, 65) == pytest.approx(1.07 * n_features(65) * 65 / 130)


@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_a_state_pays_from_so_many_tokens(head_dim: int) -> None:
    """From 3.4 times as many tokens as a state costs in scores, or somewhat more: chunks have their own scores."""
    equal = scores_of_a_state(head_dim + 1, head_dim + 1)
    first = next(n for n in range(TILE, 10**5, 8) if plan_walk(n, head_dim + 1, head_dim + 1, TILE).sums)
    assert 3.4 * equal < first < 5 * equal


def test_a_past_is_read_from_the_start() -> None:
    walk = plan_walk(5000, 17, 17, TILE, past=True, with_state=True)
    assert (walk.first, walk.reads, walk.sums) == (0, 5000, 5000)


@each_length
@each_width
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("form", ["direct", "efficient"])
def test_parts_are_even_and_leave_nothing_out(length: int, width: int, columns: int, parts: int, form: str) -> None:
    walk, equal = plan_walk(length, width, columns, TILE, form=form), scores_of_a_state(width, columns)
    cuts = split_walk(walk, equal, 2, parts)
    assert (cuts[0], cuts[-1]) == (0, length)
    assert all(cut % walk.chunk == 0 for cut in cuts[:-1])
    assert 1 <= len(cuts) - 1 <= parts
    chunk_cost = 2 * walk.chunk * (length + equal) + equal * walk.chunk
    costs = [walk.cost(equal, 2, start, stop) for start, stop in pairwise(cuts)]
    assert max(costs) - min(costs[:-1], default=max(costs)) <= 2 * chunk_cost


@pytest.mark.parametrize("head_dim", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("length", [509, 4096, 20_000, 65_536])
def test_states_of_all_chunks_of_gradients_are_no_larger_than_the_tokens(head_dim: int, length: int) -> None:
    width = head_dim + 1
    chunk = chunk_of_gradients(length, width, width, TILE, past=False)
    if chunk < length:
        assert length // chunk * n_features(width) * width <= length * 2 * width
    if length in (4096, 65_536):  # has divisors of any size: no chunk is left over
        assert length % chunk == 0


def test_gradients_that_read_a_past_are_made_in_chunks_however_few_tokens_there_are() -> None:
    lengths = [chunk_of_gradients(500, 17, 17, TILE, past=past) for past in (False, True)]
    assert lengths[0] == 500 > lengths[1]
