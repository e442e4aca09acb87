"""Which of the shared tests a library runs in its other dtypes, or in all where each shape is compiled or makes a graph.

A test with parameters stands for one item for each combination of choices. Of these the sample keeps so many that each
choice, or each pair of choices of two parameters, which is in any item is in one that is kept. A problem counts as as
many parameters as it has fields.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def every_few_together(rows: Sequence[Iterable[Any]], few: int) -> list[int]:
    """Return the places of rows that hold all `few` entries which any row holds together: the row with most new ones first."""
    sets = [set(itertools.combinations(sorted(row), few)) or {tuple(row)} for row in _numbered(rows)]
    missing: set[Any] = set().union(*sets)
    gains = [(-len(each), i) for i, each in enumerate(sets)]  # what is gained by a row only shrinks as others are taken
    heapq.heapify(gains)
    taken = []
    while missing:
        best = gains[0][1]
        heapq.heapreplace(gains, (-len(sets[best] & missing), best))
        if gains[0][1] == best:
            taken.append(best)
            missing -= sets[best]
            heapq.heappop(gains)
    return sorted(taken)


def _numbered(rows: Sequence[Iterable[Any]]) -> list[list[int]]:
    """Return the rows with a number for each entry, which compares and hashes faster."""
    numbers: dict[Any, int] = {}
    return [[numbers.setdefault(entry, len(numbers)) for entry in row] for row in rows]


def choices_of(parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the parameters of one item as (name, choice), those of a problem one by one."""
    choices = []
    for name, value in parameters.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            choices += [
                (f"{name}.{field.name}", repr(getattr(value, field.name))) for field in dataclasses.fields(value)
            ]
        else:
            choices.append((name, repr(value)))
    return choices


def sample(items: Sequence[Any], few: int) -> list[Any]:
    """Return the items in which any `few` choices meet, in their order; tests without parameters are all in it."""
    tests: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    kept = set()
    for several in tests.values():
        rows = [choices_of(_parameters(item)) for item in several]
        kept |= {several[i].nodeid for i in every_few_together(rows, few)}
    return [item for item in items if item.nodeid in kept]


def sample_of_other_dtypes(items: Sequence[Any], whole: Sequence[str], few: int) -> list[Any]:
    """Return all items of the dtypes in `whole`, or of none, and of other dtypes a sample in which any `few` choices meet."""
    others = {item.nodeid: item for item in items if _parameters(item).get("dtype", whole[0]) not in whole}
    kept = {item.nodeid for item in sample(list(others.values()), few)}
    return [item for item in items if item.nodeid in kept or item.nodeid not in others]


def _parameters(item: Any) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}
