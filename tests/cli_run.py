"""Running the command line inside a test."""

import pytest

from taylorshift_core.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Run a command that must succeed, in silence on standard error, and return the lines it printed."""
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    return out.splitlines()


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail with 2, and return the one line it says on standard error."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("taylorshift: ")
    return line
