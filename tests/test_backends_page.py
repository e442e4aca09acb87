"""docs/backends.md: its tables are what the sessions of all backends recorded."""

from __future__ import annotations

import os

from record import PAGE, RECORDS, adapters, page, read


def test_the_page_is_written_from_the_records() -> None:
    """``python tests/record.py`` writes it, and so does the numpy session with TAYLORSHIFT_TEST_RECORD=1."""
    text = PAGE.read_text(encoding="utf-8")
    if "TAYLORSHIFT_TEST_RECORD" in os.environ:
        PAGE.write_text(page(text), encoding="utf-8")
    assert page(text) == PAGE.read_text(encoding="utf-8")


def test_every_adapter_has_a_record_and_no_other() -> None:
    assert sorted(path.stem for path in RECORDS.glob("*.json")) == adapters()
    assert [read(name)["backend"] for name in adapters()] == adapters()
