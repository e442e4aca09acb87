"""Which of the shared tests a library runs that compiles for every shape: any two choices meet, as in the whole suite.

A test with parameters stands for one item for each combination of choices. Of these the sample keeps so many that each
pair of choices of two parameters which meets in any item meets in one that is kept. A problem counts as as many
parameters as it has fields.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COMPILING = ("cupy", "dpnp", "jax")


def every_two_together(rows: Sequence[Iterable[Any]]) -> list[int]:
    """Return the places of rows that hold every pair of entries which any row holds: the row with most new ones first."""
    pairs = [set(itertools.combinations(sorted(row), 2)) or {tuple(row)} for row in rows]
    missing: set[Any] = set().union(*pairs)
    gains = {i: len(each) for i, each in enumerate(pairs)}  # what is gained by a row only shrinks as others are taken
    taken = []
    while missing:
        best = max(gains, key=gains.__getitem__)
        gains[best] = len(pairs[best] & missing)
        if gains[best] == max(gains.values()):
            taken.append(best)
            missing -= pairs[best]
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


def sample(items: Sequence[Any]) -> list[Any]:
    """Return the items of a sample, in their order; tests without parameters are all in it."""
    tests: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    kept = set()
    for several in tests.values():
        rows = [choices_of(item.callspec.params if hasattr(item, "callspec") else {}) for item in several]
        kept |= {several[i].nodeid for i in every_two_together(rows)}
    return [item for item in items if item.nodeid in kept]
