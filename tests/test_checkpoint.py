"""Sums that are killed at any moment, again and again, and end in the same bits."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cli_run import refusal
from problems import Problem, draw

from taylorshift_core import State, _chunks, summarise, summarise_chunks
from taylorshift_core.cli import main

if TYPE_CHECKING:
    from pathlib import Path

WORK = """
import sys
import numpy as np
from taylorshift_core import summarise_chunks
folder = sys.argv[1]
key, value = (np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("key", "value"))
options = {"chunk_length": 100, "checkpoint": f"{folder}/sum", "checkpoint_every": 2}
state = summarise_chunks(key, value, advance=lambda _: print("chunk", flush=True), **options)
np.save(f"{folder}/result.npy", state.sums)
"""
TOKENS = 30_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with keys and values of 8 heads, in 300 chunks."""
    rng = np.random.default_rng(0)
    for name, size in (("key", 16), ("value", 8)):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((8, TOKENS, size)).astype(np.float32))
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_at_random_points_and_resumed_is_the_same_to_the_bit(folder: Path) -> None:
    key, value = (np.load(folder / f"{name}.npy") for name in ("key", "value"))
    expected = summarise_chunks(key, value, chunk_length=100).sums
    moments, done = random.Random(0), [0]
    for _ in range(7):
        with subprocess.Popen([sys.executable, "-c", WORK, folder], stdout=subprocess.PIPE, text=True) as work:
            assert work.stdout is not None
            for _ in range(done[-1] // 100 + moments.randrange(3, 25)):
                assert work.stdout.readline() == "chunk\n"
            time.sleep(moments.uniform(0, 0.005))
            work.kill()
        assert work.returncode == -9
        done.append(int(State.load(folder / "sum").token_count[0]))
    assert done == sorted(done)
    assert 0 < done[1] < done[-1] < TOKENS
    subprocess.run([sys.executable, "-c", WORK, folder], stdout=subprocess.DEVNULL, check=True, timeout=60)
    np.testing.assert_array_equal(np.load(folder / "result.npy"), expected)
    assert State.load(folder / "sum").sums.tobytes() == expected.tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_command_killed_at_random_moments_writes_the_same_bits(folder: Path) -> None:
    """Some checkpoints after it starts, and a random time later; the same words go on each time."""
    shutil.copy(folder / "key.npy", folder / "query.npy")
    words = [sys.executable, "-m", "taylorshift_core", "attend"]
    words += [*(str(folder / f"{name}.npy") for name in ("query", "key", "value")), "--tile", "100"]
    words += ["--form", "efficient", "--force", "-o"]
    subprocess.run([*words, folder / "whole.npy"], stdout=subprocess.DEVNULL, check=True, timeout=120)
    words += [folder / "resumed.npy", "--checkpoint", folder / "sums"]
    moments, sums = random.Random(1), [0.0]
    for _ in range(6):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as work:
            for _ in range(moments.randrange(1, 5)):
                seen = _changed(folder / "sums")
                while _changed(folder / "sums") == seen and work.poll() is None:
                    time.sleep(0.0005)
            time.sleep(moments.uniform(0, 0.01))
            work.kill()
        for output in folder.glob("resumed.npy"):  # there is none, or a whole one
            assert output.read_bytes() == (folder / "whole.npy").read_bytes()
        sums.append(float(State.load(folder / "sums").token_count[0]))
    assert sums == sorted(sums)
    assert 0 < sums[1] < sums[-1]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True, timeout=120)
    assert (folder / "resumed.npy").read_bytes() == (folder / "whole.npy").read_bytes()


def _changed(path: Path) -> int:
    """Return when a file was last written, 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


HELD = """
import resource, sys
import numpy as np
from taylorshift_core import summarise_chunks
key = np.load(sys.argv[1], mmap_mode="r")
summarise_chunks(key[:, :5000], key[:, :5000], chunk_length=5000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
summarise_chunks(key, key, chunk_length=5000)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="units of the peak differ, and Windows has none")
def test_a_source_longer_than_what_may_be_held(tmp_path: Path) -> None:
    """A chunk and a state are all that is ever in memory: what was read of a memory map is given back."""
    np.save(tmp_path / "key.npy", np.random.default_rng(0).standard_normal((1, 400_000, 32)).astype(np.float32))
    words = [sys.executable, "-c", HELD, tmp_path / "key.npy"]
    grown = int(subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=120).stdout)
    assert grown < 16_000_000 < (tmp_path / "key.npy").stat().st_size / 3


def test_changes_of_a_private_memory_map_stay(tmp_path: Path) -> None:
    np.save(tmp_path / "key.npy", np.ones((1000, 8)))
    private = np.load(tmp_path / "key.npy", mmap_mode="c")
    private[:] = 2.0
    state = summarise_chunks(private, private, chunk_length=100)
    assert (private == 2.0).all()
    assert float(state.sums[-1, 0]) != 0.0
    shared = np.load(tmp_path / "key.npy", mmap_mode="r+")
    shared[:] = 3.0
    summarise_chunks(shared, shared, chunk_length=100)
    assert (shared == 3.0).all()


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("chunks", [1, 20, 40])
def test_the_command_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: tuple[int, ...], chunks: int
) -> None:
    problem = Problem(
        50, 50, 3, 2, 4, 2, query_batch=batch, key_batch=batch, value_batch=batch, key_mask="batch, heads"
    )
    (query, key, value), keywords = draw(problem)
    np.savez(tmp_path / "in.npz", query=query, key=key, value=value, key_mask=keywords["key_mask"])
    words = ["attend", str(tmp_path / "in.npz"), "--tile", "2", "-o"]
    assert main([*words, str(tmp_path / "whole.npy"), "--form", "efficient"]) == 0
    words += [str(tmp_path / "resumed.npy"), "--checkpoint", str(tmp_path / "sum")]
    entries, left = (batch or (1,))[0], chunks

    def interrupted(*arrays: Any, **options: Any) -> State:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return summarise(*arrays, **options)

    with monkeypatch.context() as patch:
        patch.setattr(_chunks, "summarise", interrupted)
        assert main(words) == (130 if chunks < 25 * entries else 0)
    reads: list[Any] = []
    monkeypatch.setattr(_chunks, "summarise", lambda *a, **k: reads.append(a) or summarise(*a, **k))
    assert main([*words, "--force"]) == 0
    done = chunks // 25 * 25 + chunks % 25 // 16 * 16  # whole batch entries, and of the last what was saved
    assert len(reads) == max(0, 25 * entries - done)
    assert (tmp_path / "resumed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert sorted(each.name for each in tmp_path.glob("sum*")) == (["sum.0", "sum.1"] if batch else ["sum"])


def test_the_direct_form_has_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("attend", "in.npz", "-o", str(tmp_path / "out.npy"), "--form", "direct", "--checkpoint", "sum")
    np.savez(tmp_path / "in.npz", **{name: np.ones((1, 2, 3)) for name in ("query", "key", "value")})
    assert "--checkpoint keeps the sums of the efficient form" in refusal(
        capsys, words[0], str(tmp_path / "in.npz"), *words[2:]
    )
