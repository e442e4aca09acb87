"""The file of a state: whole or refused, never half written, and plain .safetensors to others."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from taylorshift_core import OptionError, State, StateFileError, summarise

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def state() -> State:
    rng = np.random.default_rng(0)
    return summarise(
        rng.standard_normal((2, 5, 3)).astype(np.float32), rng.standard_normal((2, 5, 2)).astype(np.float32)
    )


@pytest.fixture
def path(state: State, tmp_path: Path) -> Path:
    state.save(tmp_path / "state.safetensors")
    return tmp_path / "state.safetensors"


def test_a_state_prints_in_one_line() -> None:
    state = summarise(np.ones((2, 50, 3)), np.ones((2, 50, 4)))
    weighting = "Weighting(beta=1.0, gamma=1.0, normalise=True)"
    assert repr(state) == f"State(sums=<float64 of shape (2, 10, 5)>, head_dim=3, weighting={weighting})"


def test_other_readers_take_it(state: State, path: Path) -> None:
    np.testing.assert_array_equal(load_file(path)["sums"], state.sums)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["format"] == "taylorshift_core.State"
        assert json.loads(file.metadata()["settings"])["head_dim"] == 3


def test_a_truncated_file_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(StateFileError, match=r"state\.safetensors must be a whole file that State.save wrote; got"):
            State.load(path)


def test_a_file_with_one_bit_changed_is_refused_or_the_same(state: State, path: Path) -> None:
    """All bits but those of blanks, and names that nobody reads, matter."""
    content, harmless = path.read_bytes(), 0
    for place in range(len(content)):
        for bit in (0, 5):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                loaded = State.load(path)
            except StateFileError:
                continue
            harmless += 1
            assert loaded.sums.tobytes() == state.sums.tobytes()
            assert (loaded.head_dim, loaded.weighting) == (state.head_dim, state.weighting)
    assert harmless < 40


def test_more_bytes_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(StateFileError, match="bytes of sums"):
        State.load(path)


def test_a_later_version_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version": "1"', b'"version": "2"'))
    with pytest.raises(StateFileError, match="got version 2, which this release cannot read"):
        State.load(path)


FOREIGN = {
    "empty": b"",
    "text": b"Dear reader, this is no state at all, but a letter of more than eight bytes.",
    "a pickle": pickle.dumps({"sums": [1.0]}),
    "a header of no object": (2).to_bytes(8, "little") + b"[]",
    "deep": (2 * 10**5).to_bytes(8, "little") + b"[" * 10**5 + b"]" * 10**5,
    "not UTF-8": (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "foreign").write_bytes(FOREIGN[kind])
    with pytest.raises(StateFileError, match=r"foreign must be a whole file that State.save wrote"):
        State.load(tmp_path / "foreign")


def test_safetensors_of_something_else_are_refused(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        save_file({"sums": np.zeros((10, 3), dtype=np.float32)}, tmp_path / "other", metadata=metadata)
        with pytest.raises(StateFileError, match="without the header of a state"):
            State.load(tmp_path / "other")


def test_no_file_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        State.load(tmp_path / "nothing")


def test_nothing_is_overwritten_unasked(state: State, path: Path) -> None:
    with pytest.raises(OptionError, match=r"path must be that of a new file; got .*state\.safetensors, which exists"):
        (state + state).save(path)
    np.testing.assert_array_equal(State.load(path).sums, state.sums)
    (state + state).save(path, overwrite=True)
    np.testing.assert_array_equal(State.load(path).sums, 2 * state.sums)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from taylorshift_core import summarise
at, path = sys.argv[1:]
def killed(*_arguments, **_keywords):
    os.kill(os.getpid(), signal.SIGKILL)
if at == "before the bytes are safe":
    os.fsync = killed
else:
    Path.replace = killed
summarise(np.ones((4, 3)), np.ones((4, 2))).save(path, overwrite=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("at", ["before the bytes are safe", "before the file is in place"])
def test_killed_while_saving_leaves_the_old_file(state: State, path: Path, at: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, at, path], check=False, timeout=60)
    assert done.returncode == -9
    np.testing.assert_array_equal(State.load(path).sums, state.sums)
    state.save(path, overwrite=True)


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_a_file_has_the_mode_of_any_other(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
