"""``--help`` and shell completion: every example that is printed runs, and a real shell completes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cli_run import refusal

from taylorshift_core import _calibration, backend_names
from taylorshift_core._plan import forget_prices
from taylorshift_core.cli import COMMANDS, _backends, _calibrate, _speeds, figures, main
from taylorshift_core.cli.figures import maps, weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Go to a folder with the files that the examples name; prices are kept there too, measured on one problem; two backends are there."""
    monkeypatch.chdir(tmp_path)
    arrays = {name: np.ones((2, 30, 4), np.float32) for name in ("query", "key", "value")}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    np.savez("arrays.npz", **arrays)
    monkeypatch.setenv(_calibration.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(_calibrate, "CASES", _speeds.CASES[2:3])
    monkeypatch.setattr(_backends, "backend_names", lambda: ("array_api_strict", "numpy"))
    monkeypatch.setattr(figures, "all_figures", lambda: (weight.FIGURE, maps.FIGURE))
    monkeypatch.setattr("webbrowser.open", lambda _address: True)
    forget_prices()
    yield tmp_path
    monkeypatch.undo()
    forget_prices()


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command line prints that ends the program by itself."""
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_example_of_the_help_runs(capsys: pytest.CaptureFixture[str], folder: Path, command: str | None) -> None:
    lines = printed(capsys, *filter(None, [command]), "--help").splitlines()
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("  taylorshift")]
    assert len(examples) >= 2
    assert lines[-1].startswith(" " * 6)  # what the last one is good for ends the help
    for example in examples:
        before = set(folder.iterdir())
        if {"--help", "--print-completion"} & set(example):
            assert printed(capsys, *example)
        else:
            assert main(example) == 0
            assert command is None or command == "demo" or example[0] == command
        made = set(folder.iterdir()) - before
        assert all(
            name in {path.name for path in made}
            for name in ("output.npy", "picture.png", "report.html")
            if name in example
        ) or ("--force" in example)


# Completion

COMPLETIONS = {
    ("",): list(COMMANDS),
    ("expl",): ["explain"],
    ("--pri",): ["--print-completion"],
    ("explain", "--ca"): ["--causal"],
    ("explain", "--dtype", ""): ["float16", "float32", "float64"],
    ("bench", "--backend", ""): list(backend_names()),
    ("attend", "que"): ["query.npy"],
    ("demo", "--text", "val"): ["value.npy"],
}


def completed(words: Sequence[str], script: Path, folder: Path) -> list[str]:
    """Return what bash offers for the last of the words behind `taylorshift`."""
    program = """
        source "$1"; shift
        COMP_WORDS=(taylorshift "$@"); COMP_CWORD=$#; COMPREPLY=()
        [[ $(complete -p taylorshift) =~ -F\\ ([^ ]+) ]] && "${BASH_REMATCH[1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "--norc", "-c", program, "bash", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=folder)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.skipif(sys.platform == "win32", reason="no bash that a test could rely on")
def test_bash_completes(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    script = folder / "completion"
    script.write_text(printed(capsys, "--print-completion", "bash"), encoding="utf-8")
    for words, expected in COMPLETIONS.items():
        assert sorted(completed(words, script, folder)) == sorted(expected), words


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_command(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    script = printed(capsys, f"--print-completion={shell}")
    assert all(word in script for word in (*COMMANDS, "--causal" if shell == "zsh" else "-l causal", "float16"))


def test_completion_says_what_it_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "needs shtab" in refusal(capsys, "--print-completion", "bash")
    assert "powershell" in refusal(capsys, "--print-completion", "powershell")
