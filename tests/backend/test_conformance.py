"""The conformance kit on the backend of this session, and what the docs say that it finds."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
from record import read, record, write
from ways import THIN

from taylorshift_core.testing import Report, measure_backend

if TYPE_CHECKING:
    from conftest import Library


@pytest.fixture(scope="module")
def report(library: Library) -> Report:
    """Every function is called as the library is tested: JAX under jit, Dask with compute forbidden."""
    thin = THIN.get(library.name, 1)
    return measure_backend(library.backend, transform=lambda function: partial(library.call, function), thin=thin)


def test_the_kit_passes(library: Library, report: Report) -> None:
    print(report)
    report.check()
    assert set(library.dtypes) <= set(report.dtypes)
    rows = {"direct", "direct, causal", "efficient", "efficient, causal", "state", "state, causal"}
    gradients = {"gradients, direct", "gradients, efficient"} if library.backend.no_gradients is None else set()
    assert set(report.errors) == rows | gradients


def test_the_docs_say_what_this_session_found(library: Library, report: Report) -> None:
    """Written by a session with TAYLORSHIFT_TEST_RECORD=1; errors may differ by how a processor sums."""
    found = record(library.backend, report)
    if "TAYLORSHIFT_TEST_RECORD" in os.environ:
        write(found)
    written = read(library.name)
    of_this_machine = {"machine", "devices", "errors"}
    assert {name: x for name, x in written.items() if name not in of_this_machine} == {
        name: x for name, x in found.items() if name not in of_this_machine
    }
    for name, row in report.errors.items():
        assert set(written["errors"][name]) == set(row)
        for dtype, error in row.items():
            assert error / 8 <= written["errors"][name][dtype] <= error * 8
