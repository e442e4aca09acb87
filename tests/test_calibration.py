"""The file of measured speeds: used when it is good, else left alone with one warning."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from taylorshift_core import _calibration, attention, explain
from taylorshift_core._costs import Prices
from taylorshift_core._plan import forget_prices
from taylorshift_core.cli._calibrate import write_prices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOW_DIRECT = {"direct": Prices(calls=1e9), "efficient": Prices(calls=1.0)}
TABLE = {("numpy", "cpu", "float64"): SLOW_DIRECT}
SHORT = np.ones((2, 9, 8))  # where the direct form is chosen but for a measurement


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that is looked up, not there yet."""
    monkeypatch.setenv(_calibration.VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    forget_prices()
    yield tmp_path / "cache" / _calibration.FILE
    forget_prices()


def chosen() -> str:
    return explain(SHORT, SHORT, SHORT).form


def written(path: Path, **changes: Any) -> str:
    """Write a good file, then replace entries at its top."""
    write_prices(path, TABLE)
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes)
    path.write_text(text, encoding="utf-8")
    return text


def test_a_good_file_is_used(file: Path) -> None:
    assert chosen() == "direct"
    write_prices(file, TABLE)
    assert chosen() == "direct"  # until it is looked at again
    forget_prices()
    assert chosen() == "efficient"
    assert _calibration.read(file) == TABLE


def of_float64(prices: Any) -> dict[str, Any]:
    return {"numpy": {"cpu": {"float64": prices}}}


def with_price(price: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(Prices.__dataclass_fields__, 1.0)
    return of_float64({"direct": numbers | {"products": price}, "efficient": numbers})


BAD: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(b"\x93NUMPY\xff\xfe\x00"),
    "not JSON": lambda path: path.write_text("prices: 3", encoding="utf-8"),
    "truncated": lambda path: path.write_text(written(path)[:-20], encoding="utf-8"),
    "cut in half": lambda path: path.write_text(written(path)[: len(written(path)) // 2], encoding="utf-8"),
    "another JSON": lambda path: path.write_text('{"colour": "red"}', encoding="utf-8"),
    "a list": lambda path: path.write_text("[1, 2]", encoding="utf-8"),
    "nested without end": lambda path: path.write_text("[" * 100_000, encoding="utf-8"),
    "another format": lambda path: written(path, format="torch prices"),
    "an older version": lambda path: written(path, version=0),
    "a newer version": lambda path: written(path, version=_calibration.VERSION + 1),
    "another machine": lambda path: written(path, machine=_calibration.machine() | {"cores": -1}),
    "no machine": lambda path: written(path, machine=None),
    "no prices": lambda path: written(path, prices=None),
    "prices of nothing": lambda path: written(path, prices=of_float64({})),
    "one form": lambda path: written(path, prices=of_float64({"direct": {}})),
    "a form without prices": lambda path: written(path, prices=of_float64({"direct": None, "efficient": None})),
    "negative": lambda path: written(path, prices=with_price(-1.0)),
    "a word": lambda path: written(path, prices=with_price("cheap")),
    "true": lambda path: written(path, prices=with_price(True)),
    "infinite": lambda path: written(path, prices=with_price(float("inf"))),
    "not a number": lambda path: written(path, prices=with_price(float("nan"))),
    "beyond floats": lambda path: written(path, prices=with_price(10**400)),
    "all zero": lambda path: written(
        path, prices=of_float64({form: dict.fromkeys(Prices.__dataclass_fields__, 0) for form in SLOW_DIRECT})
    ),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_any_other_file_is_left_alone_with_one_warning(file: Path, spoil: Callable[[Path], object]) -> None:
    spoil(file)
    before = None if file.is_dir() else file.read_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert chosen() == "direct"
        assert explain(SHORT, SHORT, SHORT[..., :5]).form == "direct"
        attention(SHORT, SHORT, SHORT)
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert str(file) in str(warning.message)
    assert "taylorshift calibrate" in str(warning.message)
    assert "\n" not in str(warning.message)
    assert before == (None if file.is_dir() else file.read_bytes())


def test_no_file_and_no_folder_are_no_reason_to_warn(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen() == "direct"
    (tmp_path / "a file").touch()
    for folder in (tmp_path / "nowhere", tmp_path / "a file"):
        monkeypatch.setenv(_calibration.VARIABLE, str(folder))
        forget_prices()
        assert chosen() == "direct"


def test_the_folder_is_the_users_cache_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from platformdirs import user_cache_path

    expected = Path(user_cache_path("taylorshift-core", appauthor=False)) / _calibration.FILE
    for variable in ({}, {_calibration.VARIABLE: ""}):
        monkeypatch.delenv(_calibration.VARIABLE, raising=False)
        for name, text in variable.items():
            monkeypatch.setenv(name, text)
        assert _calibration.cache_file() == expected


def test_without_platformdirs_what_is_shipped_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_calibration.VARIABLE)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    forget_prices()
    assert _calibration.cache_file() is None
    assert _calibration.measured() == {}
    assert chosen() == "direct"
    monkeypatch.undo()
    forget_prices()


@pytest.mark.parametrize("name", ["numpy", "numpy without numba"])
def test_shipped_prices_are_whole(name: str) -> None:
    assert {(name, "cpu", dtype) for dtype in ("float32", "float64")} <= _calibration.shipped().keys()


@pytest.mark.parametrize(("compiled", "name"), [("1", "numpy"), ("0", "numpy without numba")])
def test_each_way_to_compute_is_priced_by_itself(compiled: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("TAYLORSHIFT_COMPILED", compiled)
    code = "from taylorshift_core import load_backend; print(load_backend('numpy').prices)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == name


def test_a_plan_has_the_prices_that_its_backend_names(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = explain(SHORT, SHORT, SHORT, form="direct")
    table = _calibration.shipped() | {
        ("another way", "cpu", "float64"): {form: Prices(calls=5e9) for form in SLOW_DIRECT}
    }
    monkeypatch.setattr(_calibration, "shipped", lambda: table)
    assert replace(plan, backend=replace(plan.backend, prices="another way")).seconds == 5 * plan.work.calls
    assert plan.seconds < 1


def write_often(path: Path, price: float) -> None:
    table = {("numpy", "cpu", "float64"): {form: Prices(products=price, calls=price) for form in SLOW_DIRECT}}
    for _ in range(100):
        write_prices(path, table)


def test_who_reads_while_several_write_sees_one_of_their_files_whole(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # where the writers find this module
    prices = (1.0, 2.0, 3.0)
    write_often(file, 1.0)
    writers = [multiprocessing.get_context("spawn").Process(target=write_often, args=(file, each)) for each in prices]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        found = _calibration.read(file)["numpy", "cpu", "float64"]
        seen.add((found["direct"].products, found["efficient"].calls))
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert seen <= {(each, each) for each in prices}
    assert list(file.parent.iterdir()) == [file]
