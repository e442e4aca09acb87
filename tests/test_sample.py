"""The sample that compiling libraries run: smaller, and any two choices meet in it that meet anywhere."""

from __future__ import annotations

import itertools
from typing import Any

from problems import FORMS, every_three_together
from sample import choices_of, every_two_together


def _pairs(rows: list[list[Any]]) -> set[Any]:
    return {pair for row in rows for pair in itertools.combinations(sorted(row), 2)}


def test_any_two_choices_meet() -> None:
    names = {"problem": list(every_three_together()), "form": FORMS, "dtype": ("float64", "float32")}
    rows = [choices_of(dict(zip(names, row, strict=True))) for row in itertools.product(*names.values())]
    kept = [rows[i] for i in every_two_together(rows)]
    assert _pairs(kept) == _pairs(rows)
    assert len(kept) < 80 < len(rows)


def test_one_parameter_keeps_all_its_choices() -> None:
    rows = [choices_of({"form": form}) for form in FORMS]
    assert every_two_together(rows) == [0, 1, 2]
    assert every_two_together([[]]) == [0]
