"""Ten million tokens from disk: what a process holds while it sums them and attends to them, head_dim 32, float32."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LENGTH, HEAD_DIM, CHUNK = 10_000_000, 32, 100_000
MOST = 256e6  # bytes in memory at once
PEAK = """
def peak():  # bytes: what the system says that this process held at most
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
"""
SUMMARISE = f"""
import json, sys
import numpy as np
from taylorshift_core import summarise_chunks
{PEAK}
before = peak()
summarise_chunks([(np.ones((8, 8), np.float32),) * 2])  # loads what there is: numba with its compiler
loaded = peak() - before
kind, folder, length, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if kind == "memmap":
    source = [np.load(f"{{folder}}/{{name}}.npy", mmap_mode="r") for name in ("key", "value")]
elif kind == "zarr":
    import zarr
    source = [zarr.open_array(f"{{folder}}/{{name}}.zarr", mode="r") for name in ("key", "value")]
elif kind == "h5py":
    import h5py
    file = h5py.File(f"{{folder}}/tokens.h5")
    source = [file[name] for name in ("key", "value")]
elif kind == "blosc2":
    import blosc2
    source = [blosc2.open(f"{{folder}}/{{name}}.b2nd", mode="r") for name in ("key", "value")]
else:
    def chunks():
        for first in range(0, length, 100_000):
            yield tuple(np.fromfile(f"{{folder}}/{{name}}.npy", np.float32, 100_000 * size,
                                    offset=128 + first * size * 4).reshape(-1, size) for name in ("key", "value"))
    source = [chunks()]
state = summarise_chunks(*source)
print(json.dumps({{"peak": peak(), "loaded": loaded, "tokens": float(state.token_count), "sums": state.sums[::50, ::8].tolist()}}))
"""
ATTEND = f"""
import sys
from taylorshift_core.cli import main
{PEAK}
code = main(sys.argv[1:])
print("peak", peak())
sys.exit(code)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write queries, keys and values, the same hundred thousand tokens over and over."""
    place = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    for name in ("query", "key", "value"):
        block = rng.standard_normal((CHUNK, HEAD_DIM), dtype=np.float32)
        written = np.lib.format.open_memmap(place / f"{name}.npy", "w+", np.float32, (LENGTH, HEAD_DIM))
        for first in range(0, LENGTH, CHUNK):
            written[first : first + CHUNK] = block
            written.flush()
        del written
    yield place
    shutil.rmtree(place)


def _write(kind: str, folder: Path) -> None:
    for name in ("key", "value"):
        source = np.load(folder / f"{name}.npy", mmap_mode="r")
        if kind == "zarr":
            zarr = pytest.importorskip("zarr")
            made = zarr.create_array(folder / f"{name}.zarr", shape=source.shape, chunks=(CHUNK, HEAD_DIM), dtype="f4")
        elif kind == "h5py":
            file = pytest.importorskip("h5py").File(folder / "tokens.h5", "a")
            made = file.create_dataset(name, source.shape, "f4", chunks=(CHUNK // 10, HEAD_DIM))
        elif kind == "blosc2":
            blosc2 = pytest.importorskip("blosc2")
            made = blosc2.empty(
                source.shape, np.float32, urlpath=str(folder / f"{name}.b2nd"), chunks=(CHUNK, HEAD_DIM)
            )
        else:
            return
        for first in range(0, LENGTH, CHUNK):
            made[first : first + CHUNK] = np.array(source[first : first + CHUNK])
        if kind == "h5py":
            file.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what was held")
@pytest.mark.parametrize("kind", ["memmap", "zarr", "h5py", "blosc2", "chunks"])
def test_sums(folder: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of source gives the sums of the block times how often it stands there."""
    _write(kind, folder)
    words = [sys.executable, "-c", SUMMARISE, kind, folder, str(LENGTH), str(HEAD_DIM)]
    found: dict[str, Any] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    from taylorshift_core import summarise

    block = [np.load(folder / f"{name}.npy", mmap_mode="r")[:CHUNK].astype(np.float64) for name in ("key", "value")]
    expected = summarise(*block).sums[::50, ::8] * (LENGTH // CHUNK)
    with capsys.disabled():
        print(f"\n{LENGTH:,} tokens from {kind}: {found['peak'] / 1e6:.0f} MB at most", end="")
        print(f", of which {found['loaded'] / 1e6:.0f} MB for what the adapter loads", end="")
    np.testing.assert_allclose(found["sums"], expected, atol=1e-6 * np.abs(expected).max())
    assert found["tokens"] == LENGTH
    assert found["peak"] - found["loaded"] < MOST


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what was held")
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_command(folder: Path, checkpoint: bool, capsys: pytest.CaptureFixture[str]) -> None:
    output, inputs = folder / "output.npy", [str(folder / f"{name}.npy") for name in ("query", "key", "value")]
    words = ["attend", *inputs, "-o", str(output), "--force", "--form", "efficient"]
    words += ["--checkpoint", str(folder / "sums")] if checkpoint else []
    run = subprocess.run([sys.executable, "-c", ATTEND, *words], stdout=subprocess.PIPE, check=True, text=True)
    peak = int(run.stdout.split()[-1])
    with capsys.disabled():
        print(f"\ntaylorshift attend of {LENGTH:,} tokens: {peak / 1e6:.0f} MB at most", end="")
    assert peak < MOST
    query, key, value = (np.load(path, mmap_mode="r")[:CHUNK].astype(np.float64) for path in inputs)
    unit_query, unit_keys = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query[:50], key))
    weights = 1 + (scores := unit_query @ unit_keys.T) + scores**2 / 2
    expected = weights @ value / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.load(output, mmap_mode="r")[-CHUNK:][:50], expected, atol=1e-4 * np.abs(value).max())
