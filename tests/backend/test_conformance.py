"""The conformance kit on the backend of this session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ways import THIN

from taylorshift_core.testing import check_backend

if TYPE_CHECKING:
    from conftest import Library


def test_the_kit_passes(library: Library) -> None:
    report = check_backend(library.backend, thin=THIN.get(library.name, 1))
    print(report)
    assert set(library.dtypes) <= set(report.dtypes)
    rows = {"direct", "direct, causal", "efficient", "efficient, causal", "state", "state, causal"}
    gradients = {"gradients, direct", "gradients, efficient"} if library.backend.no_gradients is None else set()
    assert set(report.errors) == rows | gradients
