"""``--json``: one object on standard output and nothing else there, from every command, with the keys that are documented."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from taylorshift_core import _calibration, crossover_length, explain
from taylorshift_core._plan import forget_prices
from taylorshift_core.cli import COMMANDS, _backends, _calibrate, _info, _speeds, main
from taylorshift_core.cli._answer import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"
SMALL = {
    "demo": ["--tokens", "30", "--heads", "2", "--head-dim", "4", "--backend", "numpy", "--save-plot", "picture.png"],
    "attend": ["query.npy", "key.npy", "value.npy", "-o", "output.npy"],
    "explain": ["--query", "2x30x4"],
    "bench": ["--query", "2x30x4", "--repeats", "2", "--dtype", "float16"],
    "crossover": [],
    "calibrate": ["--backend", "numpy", "--repeats", "1"],
    "report": ["--quick", "--only", "weight", "--no-open"],
    "info": [],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Go to a folder that holds three arrays; prices are kept there too, measured on one problem; two backends are there."""
    monkeypatch.chdir(tmp_path)
    for name in ("query", "key", "value"):
        np.save(f"{name}.npy", np.ones((2, 30, 4), np.float32))
    monkeypatch.setenv(_calibration.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(_calibrate, "CASES", _speeds.CASES[2:3])
    monkeypatch.setattr(_backends, "backend_names", lambda: ("array_api_strict", "numpy"))
    forget_prices()
    yield tmp_path
    monkeypatch.undo()
    forget_prices()


def facts(capsys: pytest.CaptureFixture[str], command: str, *more: str) -> Any:
    """Run a command with --json, and return what the whole of standard output says."""
    assert main([command, *SMALL[command], *more, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def keys(thing: Any, name: str = "") -> set[str]:
    """Return the paths to all that is neither an object nor a list of some: ``measurements[].form``."""
    if isinstance(thing, dict):
        return set().union(*(keys(each, f"{name}.{key}" if name else key) for key, each in thing.items()))
    if isinstance(thing, list) and thing and isinstance(thing[0], dict):
        return set().union(*(keys(each, f"{name}[]") for each in thing))
    return {name}


def documented(section: str) -> set[str]:
    """Return the keys in a table of the page; a plan stands for all of its own."""
    text = re.search(rf"^### {section}\n(.*?)(?=^### |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert text is not None
    cells = re.findall(r"^\| (`.*?) \|", text[1], re.MULTILINE)
    found = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    plans = {key for key in found if re.search(r"plan$|plans\[\]$", key)}
    return (found - plans) | {f"{plan}.{key}" for plan in plans for key in documented("plan")}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_one_object_of_the_documented_keys(capsys: pytest.CaptureFixture[str], command: str) -> None:
    found = keys(facts(capsys, command))
    optional = (
        {"absent[].backend", "absent[].reason"} if command == "demo" else set()
    )  # there, one backend is asked for
    assert found - {"absent"} <= documented(command)
    assert documented(command) - optional <= found


@pytest.mark.parametrize("command", COMMANDS)
def test_errors_leave_standard_output_alone(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, *SMALL[command], "--json", "--no-such-option"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("taylorshift: ")
    assert len(err.splitlines()) == 1


def test_an_error_in_the_middle_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--query", "2x30x4", "--key", "2x30x5", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_numbers_are_not_rounded(capsys: pytest.CaptureFixture[str]) -> None:
    plan = explain(*[np.ones((2, 30, 4), np.float32)] * 3)
    found = facts(capsys, "explain")["plan"]
    assert (found["predicted_seconds"], found["relative_rounding_error"]) == (plan.seconds, plan.rounding_error)
    assert facts(capsys, "crossover", "--head-dim", "5")["crossovers"][0]["fewer_operations_symmetric_tokens"] == (
        crossover_length(5)
    )
    for measured in facts(capsys, "bench")["measurements"]:
        assert measured["median_seconds"] == statistics.median(measured["runs_seconds"])


def test_what_a_library_prints_is_not_in_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = _info.load_backend

    def talkative(name: str) -> Any:
        print("welcome")
        return load(name)

    monkeypatch.setattr(_info, "load_backend", talkative)
    assert main(["info", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["backends"]
    assert "welcome" in err


def test_progress_on_a_terminal_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["bench", *SMALL["bench"], "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["measurements"]
    assert "numpy efficient" in err


def test_what_is_no_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [float("nan"), -float("inf"), 1.5, None]
    Answer({"numbers": numbers, "more": {"number": float("inf")}}, lambda _: None).write(as_json=True)
    assert json.loads(capsys.readouterr().out) == {"numbers": [None, None, 1.5, None], "more": {"number": None}}
