"""The command line: what it prints, how it refuses, and the demonstration."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_run import refusal, run

import taylorshift_core
from taylorshift_core import MissingLibraryError, backend_names
from taylorshift_core.cli import COMMANDS, _backends, _demo, _format, _info, main

COMMAND = (sys.executable, "-m", "taylorshift_core")


def cells(lines: list[str], first: str) -> list[str]:
    """Return the cells of the table row that begins with `first`."""
    (row,) = [line for line in lines if re.split(r"\s{2,}", line.strip())[0] == first]
    return re.split(r"\s{2,}", row.strip())


# What it prints


@pytest.mark.parametrize(
    ("head_dim", "numbers"),
    [
        (8, [73, 47, 45, 32]),
        (16, [273, 159, 153, 97]),
        (32, [1057, 574, 561, 324]),
        (64, [4161, 2174, 2145, 1163]),
        (128, [16513, 8446, 8385, 4379]),
    ],
)
def test_crossover_prints_the_table_of_the_paper_and_ours(
    capsys: pytest.CaptureFixture[str], head_dim: int, numbers: list[int]
) -> None:
    whole, one = run(capsys, "crossover"), run(capsys, "crossover", "--head-dim", str(head_dim))
    assert [int(cell) for cell in cells(whole, str(head_dim))] == [head_dim, head_dim, *numbers]
    assert cells(one, str(head_dim)) == cells(whole, str(head_dim))


def test_crossover_takes_several_head_dims_and_a_value_dim(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "crossover", "--head-dim", "5", "--head-dim", "7", "--value-dim", "3")
    lengths = [taylorshift_core.crossover_length(d, value_dim=3, features="symmetric") for d in (5, 7)]
    assert [cells(lines, d)[1] for d in ("5", "7")] == ["3", "3"]
    assert [int(cells(lines, d)[4]) for d in ("5", "7")] == lengths


def test_info_names_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "info")
    assert {cells(lines, name)[0] for name in backend_names()} == set(backend_names())
    assert cells(lines, "numpy")[1:3] == [np.__version__, "cpu"]


def test_info_says_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise MissingLibraryError(name)

    monkeypatch.setattr(_info, "load_backend", load)
    lines = run(capsys, "info")
    assert cells(lines, "numpy")[1:] == ["not installed", "–", 'pip install "taylorshift-core[numpy]"']


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in ((["--version"], taylorshift_core.__version__), (["--help"], "crossover")):
        with pytest.raises(SystemExit) as exit_:
            main(words)
        assert exit_.value.code == 0
        assert expected in capsys.readouterr().out


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == f"taylorshift-core {taylorshift_core.__version__}\n"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([12.3456], "12.3 s"),
        ([0.5], "500 ms"),
        ([3.21e-5], "32.1 µs"),
        ([1234.5], "1234 s"),
        ([0.0996, 1.5], "0.0996 to 1.5 s"),
    ],
)
def test_durations(numbers: list[float], expected: str) -> None:
    assert _format.duration(*numbers) == expected


@pytest.mark.parametrize(
    ("n_bytes", "expected"), [(None, "–"), (17, "17 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 31, "10.0 GiB")]
)
def test_amounts_of_memory(n_bytes: int | None, expected: str) -> None:
    assert _format.memory(n_bytes) == expected


# How it refuses


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["atend"], "'atend'"),
        (["--tokens", "many"], "--tokens"),
        (["--heads", "0"], "--heads"),
        (["--token", "5"], "--token"),
        (["--seed", "-1"], "--seed"),
        (["--head-dim", "99999999999"], "heads * head_dim"),
        (["--text", "nowhere.txt"], "nowhere.txt: No such file"),
        (["--backend", "abacus"], "abacus"),
        (["--save-plot", "picture.bmp"], ".png"),
        (["--save-plot", "nowhere/picture.png"], "nowhere"),
        (["crossover", "--head-dim", "-3"], "--head-dim"),
        (["attend", "in.npz"], "--output"),
        (["attend", "in.npz", "-o", "out.npy", "--form", "fast"], "fast"),
    ],
)
def test_wrong_use_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_backend_named_must_be_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backends, "load_backend", lambda name: SimpleNamespace(name=name, devices=lambda: ()))
    assert "no device" in refusal(capsys, "--backend", "numpy")
    assert "no backend" in refusal(capsys)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141), (MemoryError, 2)])
def test_what_stops_a_command_gives_no_traceback(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr("taylorshift_core.cli._abandon_output", lambda: None)
    monkeypatch.setattr(_demo, "read_text", stop)
    assert main([]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ("taylorshift: not enough memory\n" if code == 2 else "")


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is another error on Windows")
def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "crossover"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("words", [[], ["info"], ["--version"]])
def test_without_rich_every_command_says_what_to_install(words: list[str]) -> None:
    program = (
        f"import sys; sys.modules['rich'] = None; from taylorshift_core.cli import main; sys.exit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == ""
    expected = 'the command line needs rich; install it with: pip install "taylorshift-core[cli]"'
    assert done.stderr == f"taylorshift: {expected}\n"
    assert done.returncode == 2


def test_without_matplotlib_a_picture_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(_demo, "read_text", None)  # would fail if it were called
    assert "needs matplotlib" in refusal(capsys, "--save-plot", str(tmp_path / "picture.png"))


def test_loading_the_commands_loads_no_array_library_and_no_matplotlib() -> None:
    program = (
        "import sys, json; from taylorshift_core.cli import main; main(['crossover']);"
        "sys.stderr.write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(json.loads(done.stderr))
    assert "numpy" in loaded
    assert loaded.isdisjoint({"torch", "jax", "dask", "array_api_strict", "matplotlib", "safetensors", "shtab"})


def test_every_command_describes_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"usage: taylorshift {command}" in capsys.readouterr().out
