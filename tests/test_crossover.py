"""Operation and memory counts against the polynomials and the table of the paper's counts, and by brute force."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from taylorshift_core import OptionError, byte_count, crossover_length, crossover_memory, operation_count

FEATURES = ("published", "symmetric")
TABLE = {  # head_dim: N0 published, N1 published, N0 symmetric, N1 symmetric
    8: (73, 47, 45, 32),
    16: (273, 159, 153, 97),
    32: (1057, 574, 561, 324),
    64: (4161, 2174, 2145, 1163),
    128: (16513, 8446, 8385, 4379),
}
LENGTHS = (0, 1, 2, 7, 100, 4096, 10**6)
HEAD_DIMS = (1, 2, 3, 5, 8, 16, 33, 64, 128)


@pytest.mark.parametrize("head_dim", TABLE)
def test_table(head_dim: int) -> None:
    row = tuple(f(head_dim, features=x) for x in FEATURES for f in (crossover_length, crossover_memory))
    assert row == TABLE[head_dim]
    assert all(type(entry) is int for entry in row)


def test_features_are_symmetric_unless_said_otherwise() -> None:
    assert crossover_length(64) == 2145
    assert crossover_memory(64) == 1163
    for count in (operation_count, byte_count):
        assert count("efficient", 100, head_dim=64) == count("efficient", 100, head_dim=64, features="symmetric")
        assert count("efficient", 100, head_dim=64) < count("efficient", 100, head_dim=64, features="published")
        assert count("direct", 100, head_dim=64) == count("direct", 100, head_dim=64, features="published")


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("d", HEAD_DIMS)
def test_operations_are_the_polynomials(n: int, d: int) -> None:
    assert operation_count("direct", n, head_dim=d) == 4 * n**2 * d + 6 * n**2
    published = n * (4 * d**3 + 10 * d**2 + 9 * d + 4)
    assert operation_count("efficient", n, head_dim=d, features="published") == published
    assert operation_count("efficient", n, head_dim=d, features="symmetric") == n * (2 * d**3 + 9 * d**2 + 12 * d + 4)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("d", HEAD_DIMS)
def test_bytes_are_the_polynomials(n: int, d: int, itemsize: int) -> None:
    """The symmetric form stores d (d + 1) / 2 products where the published one stores d²."""
    assert byte_count("direct", n, head_dim=d, itemsize=itemsize) == itemsize * (d * n + 2 * n**2)
    for features, products in (("published", d**2), ("symmetric", d * (d + 1) // 2)):
        entries = products * (d + 1) + (products + 3 * d + 1) * n
        assert byte_count("efficient", n, head_dim=d, features=features, itemsize=itemsize) == itemsize * entries


def test_an_entry_is_four_bytes_unless_said_otherwise() -> None:
    assert byte_count("direct", 10, head_dim=3) == byte_count("direct", 10, head_dim=3, itemsize=4)


@pytest.mark.parametrize("d", range(1, 200))
def test_crossovers_are_the_closed_forms(d: int) -> None:
    """The first whole length past N0 and N1, which are never whole themselves."""
    below = Fraction(3, 4) - Fraction(1, 8 * d + 12)
    assert crossover_length(d, features="published") == math.floor(d**2 + d + below) + 1
    assert crossover_length(d, features="symmetric") == math.floor(Fraction(d**2 + 3 * d, 2) + below) + 1
    square = d**4 + 12 * d**3 + 14 * d**2 + 4 * d + 1
    n = crossover_memory(d, features="published")
    assert (4 * n - (d**2 + 2 * d + 1)) ** 2 > square >= (4 * (n - 1) - (d**2 + 2 * d + 1)) ** 2


@pytest.mark.parametrize("value_dim", [None, 1, 2, 5, 40])
@pytest.mark.parametrize("head_dim", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize(("crossover", "count"), [(crossover_length, operation_count), (crossover_memory, byte_count)])
def test_crossover_is_the_first_length_at_which_efficient_is_less(
    crossover: object, count: object, features: str, head_dim: int, value_dim: int | None
) -> None:
    assert callable(crossover)
    assert callable(count)
    sizes = {"head_dim": head_dim, "value_dim": value_dim, "features": features}

    def efficient_is_less(length: int) -> bool:
        return bool(count("efficient", length, **sizes) < count("direct", length, **sizes))

    first = next(length for length in itertools.count(1) if efficient_is_less(length))
    assert crossover(**sizes) == first
    assert all(efficient_is_less(length) for length in range(first, first + 50))


@pytest.mark.parametrize("value_dim", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("head_dim", [31, 64, 128])
@pytest.mark.parametrize("features", FEATURES)
def test_crossovers_at_sizes_of_use(features: str, head_dim: int, value_dim: int) -> None:
    sizes = {"head_dim": head_dim, "value_dim": value_dim, "features": features}
    for crossover, count in ((crossover_length, operation_count), (crossover_memory, byte_count)):
        first = crossover(**sizes)
        assert count("efficient", first, **sizes) < count("direct", first, **sizes)
        assert count("efficient", first - 1, **sizes) >= count("direct", first - 1, **sizes)


@pytest.mark.parametrize("count", [operation_count, byte_count])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("form", ["direct", "efficient"])
class TestGeneralised:
    """Lengths that differ, value_dim and groups."""

    def test_left_out_sizes_are_the_equal_ones(self, count: object, form: str, features: str) -> None:
        assert callable(count)
        spelled = count(form, 50, 50, head_dim=6, value_dim=6, groups=1, features=features)
        assert count(form, 50, head_dim=6, features=features) == spelled

    def test_groups_are_more_queries_of_one_key_head(self, count: object, form: str, features: str) -> None:
        assert callable(count)
        grouped = count(form, 50, 70, head_dim=6, groups=4, features=features)
        assert grouped == count(form, 200, 70, head_dim=6, features=features)

    def test_sharing_a_key_head_is_never_more(self, count: object, form: str, features: str) -> None:
        assert callable(count)
        apart = 4 * count(form, 50, 70, head_dim=6, features=features)
        together = count(form, 50, 70, head_dim=6, groups=4, features=features)
        assert together < apart or (count is operation_count and form == "direct" and together == apart)

    def test_more_of_anything_is_not_less(self, count: object, form: str, features: str) -> None:
        assert callable(count)
        sizes = {"query_length": 20, "key_length": 30, "head_dim": 6, "value_dim": 7, "groups": 2}
        base = count(form, **sizes, features=features)
        for name, size in sizes.items():
            more = count(form, **(sizes | {name: size + 1}), features=features)
            assert more >= base, name
            assert more > base or count is byte_count, name

    def test_linear_or_bilinear_in_the_lengths(self, count: object, form: str, features: str) -> None:
        assert callable(count)

        def at(queries: int, keys: int) -> int:
            return int(operation_count(form, queries, keys, head_dim=5, value_dim=3, features=features))

        mixed = at(80, 90) - at(40, 90) - at(80, 30) + at(40, 30)  # zero where there is no product of the lengths
        assert mixed == (40 * 60 * (2 * 5 + 2 * 3 + 6) if form == "direct" else 0)


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ({"form": "fast"}, "'fast'"),
        ({"form": "auto"}, "'auto'"),
        ({"query_length": -1}, "-1"),
        ({"key_length": -3}, "-3"),
        ({"head_dim": 0}, "0"),
        ({"value_dim": 0}, "0"),
        ({"groups": 0}, "0"),
        ({"features": "all"}, "'all'"),
    ],
)
@pytest.mark.parametrize("count", [operation_count, byte_count])
def test_impossible_sizes_and_names_are_refused(count: object, arguments: dict[str, object], got: str) -> None:
    assert callable(count)
    sizes: dict[str, object] = {"form": "efficient", "query_length": 5, "head_dim": 4}
    with pytest.raises(OptionError, match=rf"must|at least.*got.*{got}"):
        count(**(sizes | arguments))


@pytest.mark.parametrize("crossover", [crossover_length, crossover_memory])
def test_impossible_crossovers_are_refused(crossover: object) -> None:
    assert callable(crossover)
    for wrong in ({"head_dim": 0}, {"head_dim": 4, "value_dim": 0}, {"head_dim": 4, "features": "all"}):
        with pytest.raises(OptionError, match="got"):
            crossover(**wrong)
