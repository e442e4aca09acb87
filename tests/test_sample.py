"""The sample that compiling libraries run: smaller, and any two choices, or each, are in it that are anywhere."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from problems import FORMS, every_three_together
from sample import choices_of, every_few_together


def _sets(rows: list[list[Any]], few: int) -> set[Any]:
    return {each for row in rows for each in itertools.combinations(sorted(row), few)}


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
