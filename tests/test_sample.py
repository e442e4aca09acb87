"""The sample that compiling libraries run: smaller, and any two choices, or each, are in it that are anywhere."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from problems import FORMS, every_three_together
from sample import choices_of, every_few_together, sample_of_other_dtypes


def _sets(rows: list[list[Any]], few: int) -> set[Any]:
    return {each for row in rows for each in itertools.combinations(sorted(row), few)}


class _Item:
    """As much of a test as a sample looks at."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.nodeid, self.callspec = f"test[{params}]", SimpleNamespace(params=params)


@pytest.mark.parametrize(("few", "most"), [(1, 20), (2, 80)])
def test_any_few_choices_meet(few: int, most: int) -> None:
    names = {"problem": list(every_three_together()), "form": FORMS, "dtype": ("float64", "float32")}
    rows = [choices_of(dict(zip(names, row, strict=True))) for row in itertools.product(*names.values())]
    kept = [rows[i] for i in every_few_together(rows, few)]
    assert _sets(kept, few) == _sets(rows, few)
    assert len(kept) < most < len(rows)


def test_one_parameter_keeps_all_its_choices() -> None:
    rows = [choices_of({"form": form}) for form in FORMS]
    for few in (1, 2):
        assert every_few_together(rows, few) == [0, 1, 2]
        assert every_few_together([[]], few) == [0]


def test_some_dtypes_are_whole_and_any_two_choices_meet_in_the_others() -> None:
    names = {"dtype": ("float64", "float32", "float16"), "form": FORMS, "length": (1, 2, 3), "tiled": (False, True)}
    items = [_Item(dict(zip(names, row, strict=True))) for row in itertools.product(*names.values())]
    kept = sample_of_other_dtypes([*items, _Item({})], ("float64",), 2)
    by_dtype = {
        dtype: [x for x in kept if x.callspec.params.get("dtype") == dtype] for dtype in (None, *names["dtype"])
    }
    assert [len(by_dtype[dtype]) for dtype in (None, "float64")] == [1, 18]
    others = [choices_of(x.callspec.params) for dtype in names["dtype"][1:] for x in by_dtype[dtype]]
    assert _sets(others, 2) == _sets([choices_of(x.callspec.params) for x in items[18:]], 2)
    assert len(others) < 18
