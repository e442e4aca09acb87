"""docs/backends.md: its tables are what the sessions of all backends recorded."""

from __future__ import annotations

import os

from record import PAGE, adapters, page, read, recorded


def test_the_page_is_written_from_the_records() -> None:
    """``python tests/record.py`` writes it, and so does the numpy session with TAYLORSHIFT_TEST_RECORD=1."""
    text = PAGE.read_text(encoding="utf-8")
    if "TAYLORSHIFT_TEST_RECORD" in os.environ:
        PAGE.write_text(page(text), encoding="utf-8")
    assert page(text) == PAGE.read_text(encoding="utf-8")


def test_every_adapter_is_on_the_page_recorded_or_said_not_to_be() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "`pip install" in line]
    assert [line.split("|")[1].strip() for line in rows] == adapters()
    assert [line.split("|")[1].strip() for line in rows if "not recorded yet" not in line] == recorded()


def test_every_record_is_of_the_adapter_it_is_named_for() -> None:
    assert [read(name)["backend"] for name in recorded()] == recorded()
