"""Which of the shared tests a library runs that is slow to compile, or to make a graph, for every shape.

A test with parameters stands for one item for each combination of choices. Of these the sample keeps so many that each
choice, or each pair of choices of two parameters, which is in any item is in one that is kept. A problem counts as as
many parameters as it has fields.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def every_few_together(rows: Sequence[Iterable[Any]], few: int) -> list[int]:
    """Return the places of rows that hold all `few` entries which any row holds together: the row with most new ones first."""
    sets = [set(itertools.combinations(sorted(row), few)) or {tuple(row)} for row in rows]
    missing: set[Any] = set().union(*sets)
    gains = {i: len(each) for i, each in enumerate(sets)}  # what is gained by a row only shrinks as others are taken
    taken = []
    while missing:
        best = max(gains, key=gains.__getitem__)
        gains[best] = len(sets[best] & missing)
        if gains[best] == max(gains.values()):
            taken.append(best)
            missing -= sets[best]
            del gains[best]
    return sorted(taken)


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
        rows = [choices_of(item.callspec.params if hasattr(item, "callspec") else {}) for item in several]
        kept |= {several[i].nodeid for i in every_few_together(rows, few)}
    return [item for item in items if item.nodeid in kept]
