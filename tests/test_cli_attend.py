"""``taylorshift attend``: files in, a file out, a tile at a time."""

import io
import json
import pickle
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_files import KINDS
from cli_run import refusal
from hypothesis import given
from hypothesis import strategies as st
from oracle import attention_oracle
from problems import Problem, draw
from safetensors.numpy import save

from taylorshift_core import attention, explain
from taylorshift_core.cli import _tiles, main
from taylorshift_core.cli._errors import CommandError
from taylorshift_core.cli._inputs import read_inputs

FORMS = ("direct", "efficient")
EPS = {"float16": np.finfo(np.float16).eps, "float32": np.finfo(np.float32).eps, "float64": np.finfo(float).eps}
SIZES = Problem(query_length=20, key_length=33, head_dim=5, value_dim=3, heads=4, kv_heads=2)
BATCHED = Problem(
    query_length=7, key_length=9, heads=4, kv_heads=2, query_batch=(2, 1), key_batch=(1, 3), value_batch=(2, 3)
)


def files_of(problem: Problem, folder: Path, dtype: str, kind: str = "npz") -> tuple[list[str], dict[str, Any]]:
    """Write a problem in files; return the words that name them, and the rounded arrays."""
    (query, key, value), keywords = draw(problem)
    arrays = {name: array.astype(dtype) for name, array in (("query", query), ("key", key), ("value", value))}
    if keywords["key_mask"] is not None:
        arrays["key_mask"] = keywords["key_mask"]
    return KINDS[kind](folder, arrays), arrays


def assert_attends(problem: Problem, folder: Path, dtype: str, *words: str, kind: str = "npz", **options: Any) -> None:
    """Run ``attend`` and hold the file it wrote against the definition in float64."""
    files, arrays = files_of(problem, folder, dtype, kind)
    output = folder / "out.npy"
    before = {file: file.read_bytes() for file in folder.iterdir() if file != output}
    assert main(["attend", *files, "-o", str(output), *words]) == 0
    assert {file: file.read_bytes() for file in folder.iterdir() if file != output} == before
    actual = np.load(output)
    mask = arrays.pop("key_mask", None)
    expected = attention_oracle(**{n: a.astype(np.float64) for n, a in arrays.items()}, key_mask=mask, **options)
    assert actual.dtype == np.dtype(dtype)
    assert actual.shape == expected.shape
    allowed = 4 * EPS[dtype] * np.sqrt(problem.terms) * np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=0, atol=allowed)


# What it computes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", EPS)
def test_every_kind_of_file(tmp_path: Path, kind: str, form: str, precision: str) -> None:
    problem = Problem(query_length=20, key_length=33, head_dim=5, value_dim=3, key_mask="keys")
    assert_attends(problem, tmp_path, precision, "--form", form, kind=kind)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tile", [1, 7, 10, 20, 33, 100])
def test_tiles_of_any_length(tmp_path: Path, form: str, tile: int) -> None:
    assert_attends(SIZES, tmp_path, "float64", "--form", form, "--tile", str(tile))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("queries", [0, 1, 8])
@pytest.mark.parametrize("keys", [0, 1, 8])
def test_no_tokens_and_one_token(tmp_path: Path, form: str, queries: int, keys: int) -> None:
    problem = Problem(query_length=queries, key_length=keys, head_dim=1)
    assert_attends(problem, tmp_path, "float64", "--form", form, "--tile", "3")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", ["keys", "batch", "batch, 1", "batch, kv heads", "batch, heads", "nothing"])
def test_masks_batches_and_groups(tmp_path: Path, form: str, mask: str) -> None:
    sizes = {"key_length": 9, "heads": 4, "kv_heads": 2, "query_batch": (3,), "key_batch": (3,), "value_batch": (3,)}
    assert_attends(Problem(key_mask=mask, **sizes), tmp_path, "float64", "--form", form, "--tile", "4")


@pytest.mark.parametrize("form", FORMS)
def test_batches_broadcast(tmp_path: Path, form: str) -> None:
    assert_attends(BATCHED, tmp_path, "float64", "--form", form, "--tile", "4")


@pytest.mark.parametrize("form", FORMS)
def test_arrays_without_a_heads_axis(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((11, 3)) for name in ("query", "key", "value")}
    (file,) = KINDS["npz"](tmp_path, arrays)
    assert main(["attend", file, "-o", str(tmp_path / "out.npy"), "--form", form, "--tile", "4"]) == 0
    expected = attention_oracle(**arrays)
    allowed = 4 * EPS["float64"] * np.sqrt(11 + 10) * np.max(np.abs(expected))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("form", FORMS)
def test_options(tmp_path: Path, form: str) -> None:
    tiles = ("--form", form, "--tile", "7")
    problem = Problem(query_length=20, key_length=33, key_mask="keys")
    assert_attends(problem, tmp_path, "float64", *tiles, "--force", "--scale", "-0.7", scale=-0.7)
    assert_attends(problem, tmp_path, "float64", *tiles, "--force", "--no-normalise", normalise=False)
    assert_attends(problem, tmp_path, "float64", *tiles, "--force", "--normalise-output", normalise_output=True)


@pytest.mark.parametrize("form", FORMS)
def test_nan_propagates_in_silence_and_stays_behind_a_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    arrays = {name: np.ones((1, 6, 2), np.float32) for name in ("query", "key", "value")}
    arrays["query"][:, 1], arrays["value"][:, 5] = np.nan, np.inf
    words = ["-o", str(tmp_path / "out.npy"), "--form", form, "--tile", "4", "--force"]
    assert main(["attend", *KINDS["npz"](tmp_path, arrays), *words]) == 0
    assert not np.any(np.isfinite(np.load(tmp_path / "out.npy")))
    masked = arrays | {"key_mask": np.arange(6) < 5}
    assert main(["attend", *KINDS["npz"](tmp_path, masked), *words]) == 0
    rows = np.load(tmp_path / "out.npy")[0]
    np.testing.assert_array_equal(np.isnan(rows[:, 0]), np.arange(6) == 1)
    np.testing.assert_allclose(rows[[0, 2, 3, 4, 5]], 1, rtol=4 * EPS["float32"])
    assert capsys.readouterr().err == ""


def test_it_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, arrays = files_of(SIZES, tmp_path, "float32")
    output, plan = tmp_path / "out.npy", explain(**arrays)
    assert main(["attend", *files, "-o", str(output)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == f"{output}: float32 (4, 20, 3), {plan.form} form: {plan.reason}\n"


@pytest.mark.parametrize("kind", ["npz", "npy", "safetensors"])
def test_memory_does_not_grow_with_the_files(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((2, 60_000, 8), dtype=np.float32) for name in ("query", "key", "value")}
    files = KINDS[kind](tmp_path, arrays)
    words = ["attend", *files, "-o", str(tmp_path / "out.npy"), "--tile", "4096"]
    assert main(words) == 0  # loads what is loaded once
    tracemalloc.start()
    assert main([*words, "--force"]) == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(array.nbytes for array in arrays.values()) > 11e6
    assert peak < 4e6


# How it refuses

GOOD = {name: np.ones((2, 5, 3)) for name in ("query", "key", "value")}
BFLOAT16 = {name: {"dtype": "BF16", "shape": [2, 5, 3], "data_offsets": [0, 60]} for name in GOOD}
TOO_SHORT = {name: {"dtype": "F64", "shape": [2, 5, 3], "data_offsets": [0, 8]} for name in GOOD}
OBJECTS = GOOD | {"value": np.array([None, 1], dtype=object)}


def npz(arrays: Mapping[str, Any], save: Callable[..., None] = np.savez) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def with_header(header: bytes) -> bytes:
    """Return a .safetensors file of nothing but a header."""
    return struct.pack("<Q", len(header)) + header


def damaged(content: bytes) -> bytes:
    return content[:150] + bytes(255 - byte for byte in content[150:170]) + content[170:]


BAD_ARCHIVES = {
    "empty.npz": (b"", "truncated"),
    "truncated.npz": (npz(GOOD)[:-100], "truncated"),
    "damaged.npz": (damaged(npz(GOOD, np.savez_compressed)), "damaged"),
    "names.npz": (
        npz({"query": GOOD["query"], "other": np.ones(1)}),
        "no array named key or value; it holds query, other",
    ),
    "objects.npz": (npz(OBJECTS), "pickled"),
    "objects_compressed.npz": (npz(OBJECTS, np.savez_compressed), "pickled"),
    "structured.npz": (npz(GOOD | {"query": np.zeros((2, 5, 3), dtype=[("a", "f4")])}), "real floating-point dtype"),
    "integers.npz": (npz({n: a.astype(np.int32) for n, a in GOOD.items()}), "real floating-point dtype"),
    "booleans.npz": (npz({n: a.astype(np.bool_) for n, a in GOOD.items()}), "real floating-point dtype"),
    "complex.npz": (npz({n: a.astype(complex) for n, a in GOOD.items()}), "real floating-point dtype"),
    "dtypes.npz": (npz(GOOD | {"value": GOOD["value"].astype(np.float32)}), "one dtype"),
    "lengths.npz": (npz(GOOD | {"value": GOOD["value"][:, 1:]}), "same length"),
    "axes.npz": (npz({n: a.ravel() for n, a in GOOD.items()}), "axes"),
    "mask_dtype.npz": (npz(GOOD | {"key_mask": np.ones(5)}), "key_mask must be boolean"),
    "mask_shape.npz": (npz(GOOD | {"key_mask": np.ones(4, np.bool_)}), "key_mask must have shape"),
    "empty.safetensors": (b"", "truncated"),
    "truncated.safetensors": (save(GOOD)[:-1], "truncated"),
    "header.safetensors": (save(GOOD)[:30], "truncated"),
    "endless_header.safetensors": (struct.pack("<Q", 1 << 63) + b"{}", "truncated"),
    "offsets.safetensors": (
        with_header(json.dumps(TOO_SHORT).encode()) + bytes(240),
        "needs 240 bytes and 8 are there",
    ),
    "no_table.safetensors": (with_header(b"[1, 2]"), "damaged"),
    "nested.safetensors": (with_header(b"[" * 100_000), "damaged"),
    "names.safetensors": (save({"key": GOOD["key"]}), "no array named query or value; it holds key"),
    "bfloat16.safetensors": (with_header(json.dumps(BFLOAT16).encode()) + bytes(60), "BF16, which NumPy does not have"),
    "text.txt": (b"some text", "three .npy files"),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_a_bad_archive_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, expected = BAD_ARCHIVES[name]
    file = tmp_path / name
    file.write_bytes(content)
    assert expected in refusal(capsys, "attend", str(file), "-o", str(tmp_path / "out.npy"))
    assert list(tmp_path.iterdir()) == [file]


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


BAD_ARRAYS = {
    "empty": (b"", "truncated"),
    "without its last byte": (npy(GOOD["value"])[:-1], "needs 240 bytes and 239 are there"),
    "without the end of its header": (npy(GOOD["value"])[:70], "truncated"),
    "a header that does not end": (npy(GOOD["value"]).replace(b"}", b"("), "damaged"),
    "a negative shape": (npy(GOOD["value"]).replace(b"(2, 5, 3)", b"(2,-5,-3)"), "damaged"),
    "objects": (npy(OBJECTS["value"]), "pickled"),
    "a pickle": (pickle.dumps(list(range(100))), "damaged"),
    "of version 3": (npy(GOOD["value"], (3, 0)), "structured"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_a_bad_array_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, expected = BAD_ARRAYS[name]
    good, bad = tmp_path / "good.npy", tmp_path / "bad.npy"
    np.save(good, GOOD["query"])
    bad.write_bytes(content)
    line = refusal(capsys, "attend", str(good), str(good), str(bad), "-o", str(tmp_path / "out.npy"))
    assert expected in line
    assert str(bad) in line
    assert expected in refusal(
        capsys, "attend", *[str(good)] * 3, "--key-mask", str(bad), "-o", str(tmp_path / "out.npy")
    )
    assert set(tmp_path.iterdir()) == {good, bad}


def test_a_pickle_is_never_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "loaded",)

    for number, save_npz in enumerate((np.savez, np.savez_compressed)):
        file = tmp_path / f"{number}.npz"
        file.write_bytes(npz(GOOD | {"value": np.array([Bomb()], dtype=object)}, save_npz))
        assert "pickled" in refusal(capsys, "attend", str(file), "-o", str(tmp_path / "out.npy"))
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy"])
@given(data=st.data())
def test_no_damage_gives_anything_but_an_array_or_an_error(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray({".npz": npz(GOOD), ".safetensors": save(GOOD), ".npy": npy(GOOD["query"])}[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("damaged") / f"in{suffix}"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        inputs = read_inputs([file] * (3 if suffix == ".npy" else 1))
    except (CommandError, OSError):
        return
    assert np.array(inputs.query).size >= 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["query.npy", "key.npy", "-o", "out.npy"], "three .npy files"),
        (["nowhere.npz", "-o", "out.npy"], "nowhere.npz: No such file"),
        (["query.npy", "key.npy", "value.npy", "-o", "nowhere/out.npy"], "nowhere"),
        (["query.npy", "key.npy", "value.npy", "-o", "out.npz"], "out.npz"),
        (["query.npy", "key.npy", "value.npy", "-o", "folder.npy"], "folder.npy is a folder"),
        (["query.npy", "key.npy", "value.npy", "-o", "out.npy", "--tile", "0"], "--tile"),
        (["query.npy", "key.npy", "value.npy", "-o", "out.npy", "--scale", "inf"], "scale must be a finite number"),
        (["query.npy", "key.npy", "value.npy", "-o", "key.npy"], "--force"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    KINDS["npy"](tmp_path, GOOD)
    (tmp_path / "folder.npy").mkdir()
    before = {file: file.stat().st_size for file in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(capsys, "attend", *words)
    assert {file: file.stat().st_size for file in tmp_path.iterdir()} == before


def test_an_output_is_overwritten_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, _ = files_of(SIZES, tmp_path, "float64")
    output = tmp_path / "out.npy"
    output.write_text("precious")
    assert "--force" in refusal(capsys, "attend", *files, "-o", str(output))
    assert output.read_text() == "precious"
    assert main(["attend", *files, "-o", str(output), "--force"]) == 0
    assert np.load(output).shape == (4, 20, 3)


@pytest.mark.parametrize(("error", "code"), [(OSError("No space left on device"), 2), (KeyboardInterrupt(), 130)])
def test_what_breaks_off_leaves_the_old_output_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    files, _ = files_of(SIZES, tmp_path, "float64")
    output = tmp_path / "out.npy"
    output.write_text("precious")
    before = set(tmp_path.iterdir())
    calls = []

    def third_time_fails(*arrays: Any, **options: Any) -> Any:
        calls.append(set(tmp_path.iterdir()) - before)
        if len(calls) == 3:
            raise error
        return attention(*arrays, **options)

    monkeypatch.setattr(_tiles, "attention", third_time_fails)
    words = ["attend", *files, "-o", str(output), "--force", "--form", "direct", "--tile", "4"]
    assert main(words) == code
    assert len(calls) == 3
    assert all(len(extra) == 1 for extra in calls)  # it was being written beside the output
    assert set(tmp_path.iterdir()) == before
    assert output.read_text() == "precious"
