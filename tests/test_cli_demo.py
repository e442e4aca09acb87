"""The demonstration: what ``taylorshift`` alone measures, prints and draws."""

import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_run import refusal, run
from matplotlib.figure import Figure
from oracle import attention_oracle

import taylorshift_core
from taylorshift_core import MissingLibraryError, attention_weights, explain, load_backend
from taylorshift_core.cli import _backends, _measure, _plots, _reference, _text, main


def quick_demo(capsys: pytest.CaptureFixture[str], *words: str, tokens: int = 150) -> list[str]:
    sizes = ("--tokens", str(tokens), "--heads", "2", "--head-dim", "4", "--repeats", "2")
    return run(capsys, *sizes, "--backend", "numpy", *words)


def test_the_demonstration_prints_time_memory_error_and_choice(capsys: pytest.CaptureFixture[str]) -> None:
    lines = quick_demo(capsys)
    assert lines[0].startswith("150 bytes of the Python language reference: 2 heads, head_dim 4")
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines if line.strip().startswith("numpy ")]
    assert [row[1] for row in rows] == ["direct", "efficient"]
    allowed = 4 * np.finfo(np.float32).eps * np.sqrt(150 + 15)
    for row in rows:
        assert re.fullmatch(r"[\d.]+ (s|ms|µs)", row[3])
        assert re.fullmatch(r"[\d.]+ to [\d.]+ (s|ms|µs)", row[4])
        assert re.fullmatch(r"[\d.]+ (B|KiB|MiB)", row[5])
        assert 0 < float(row[6]) <= allowed
    plan = explain(*_text.project(_text.read_text(None, 150).content, 2, 4, 0))
    assert [row[2] for row in rows] == [("yes" if row[1] == plan.form else "no") for row in rows]
    assert any(plan.reason in line for line in lines)


def test_the_demonstration_chooses_by_length(capsys: pytest.CaptureFixture[str]) -> None:
    for tokens, chosen in ((4, ["yes", "no"]), (3000, ["no", "yes"])):
        rows = [line.split() for line in quick_demo(capsys, tokens=tokens) if line.strip().startswith("numpy ")]
        assert [row[2] for row in rows] == chosen


def test_the_demonstration_takes_any_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "some.bin"
    file.write_bytes(bytes(range(256)))
    assert quick_demo(capsys, "--text", str(file), tokens=1000)[0].startswith(f"256 bytes of {file}:")
    file.write_bytes(b"")
    assert "no text" in refusal(capsys, "--text", str(file))


def test_the_demonstration_names_what_it_did_not_measure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Any:
        if name == "abacus":
            raise MissingLibraryError(name)
        return load_backend(name)

    monkeypatch.setattr(_backends, "backend_names", lambda: ("abacus", "numpy"))
    monkeypatch.setattr(_backends, "load_backend", load)
    lines = run(capsys, "--tokens", "20", "--heads", "1", "--head-dim", "4", "--repeats", "1")
    assert "Not measured: abacus (not installed). `taylorshift info` says what to install." in lines


def test_the_text_is_the_beginning_of_the_language_reference() -> None:
    from pydoc_data.topics import topics

    text = _text.read_text(None, 5000)
    assert len(text.content) == 5000
    assert text.content.startswith(next(iter(topics.values())).encode()[:100])


def test_the_projection_is_fixed_by_its_seed_and_sees_bytes_and_positions() -> None:
    arrays = _text.project(b"abca" * 8, heads=2, head_dim=3, seed=5)
    again, other = (_text.project(b"abca" * 8, heads=2, head_dim=3, seed=seed) for seed in (5, 6))
    for array, same, different in zip(arrays, again, other, strict=True):
        assert array.shape == (2, 32, 3)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, same)
        assert not np.any(array == different)
    changed = _text.project(b"abcb" * 8, heads=2, head_dim=3, seed=5)
    unequal = np.any(arrays[2] != changed[2], axis=(0, 2))
    np.testing.assert_array_equal(unequal, [False, False, False, True] * 8)
    assert np.any(arrays[2][:, 0] != arrays[2][:, 3])  # the same byte elsewhere


def test_the_reference_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, 300, 5)).astype(np.float32) for _ in range(3))
    heads_done: list[None] = []
    actual = _reference.definition(query, key, value, lambda: heads_done.append(None))
    expected = attention_oracle(*(array.astype(np.float64) for array in (query, key, value)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * np.finfo(float).eps * np.sqrt(300))
    assert len(heads_done) == 2


def test_a_wrong_result_shows_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(*arrays: Any, **options: Any) -> Any:
        return 2 * taylorshift_core.attention(*arrays, **options)

    monkeypatch.setattr(_measure, "attention", doubled)
    arrays = _text.project(b"a text", 1, 4, 0)
    reference = _reference.definition(*arrays, lambda: None)
    measured = _measure.measure(load_backend("numpy"), arrays, "direct", reference, 1, lambda: None)
    assert measured.error == pytest.approx(1.0, rel=1e-5)


def test_memory_is_watched_in_a_run_that_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def spy(*arrays: Any, **options: Any) -> Any:
        traced.append(tracemalloc.is_tracing())
        scratch = np.ones(1 << 20, np.uint8)
        return taylorshift_core.attention(*arrays, **options) + scratch[:1] * np.float32(0)

    monkeypatch.setattr(_measure, "attention", spy)
    arrays = _text.project(b"a text", 1, 4, 0)
    reference = _reference.definition(*arrays, lambda: None)
    advances: list[None] = []
    measured = _measure.measure(load_backend("numpy"), arrays, "direct", reference, 3, lambda: advances.append(None))
    assert traced == [False, True, False, False, False, False]  # the first and the third compile
    assert len(advances) == 4
    assert len(measured.seconds) == 3
    assert measured.median == sorted(measured.seconds)[1]
    assert measured.temporary is not None
    assert 1 << 20 <= measured.temporary < 2 << 20


def test_slow_runs_are_repeated_three_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(_measure.time, "perf_counter", lambda: next(clock))
    advances: list[None] = []
    assert _measure.time_runs(lambda: None, 5, lambda: advances.append(None)) == [1, 1, 1]
    assert len(advances) == 5


def test_memory_nobody_can_tell_is_unknown() -> None:
    backend = SimpleNamespace(name="abacus", peak_memory=None, to_numpy=np.asarray)
    result, temporary = _measure.watch(backend, lambda: np.ones(3))
    assert temporary is None
    np.testing.assert_array_equal(result, np.ones(3))


# Its picture


def test_the_picture_is_written_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    assert quick_demo(capsys, "--save-plot", str(file))[-1] == f"Picture: {file}"
    first = file.read_bytes()
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    file.write_bytes(b"precious")
    assert "--force" in refusal(capsys, "--save-plot", str(file))
    assert file.read_bytes() == b"precious"
    quick_demo(capsys, "--save-plot", str(file), "--force")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [file]


def test_a_picture_that_breaks_off_leaves_the_old_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full_disk(_figure: Figure, part: Path, **_: object) -> None:
        part.write_bytes(b"half")
        msg = "No space left on device"
        raise OSError(msg)

    file = tmp_path / "picture.png"
    file.write_bytes(b"precious")
    monkeypatch.setattr(Figure, "savefig", full_disk)
    assert main(["--tokens", "9", "--backend", "numpy", "--repeats", "1", "--save-plot", str(file), "--force"]) == 2
    assert capsys.readouterr().err == "taylorshift: No space left on device\n"
    assert file.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [file]


def test_the_picture_shows_the_weights_and_the_times() -> None:
    content = b"A line\nof text with \xff in it $ and $"
    query, key, _ = _text.project(content, 1, 4, 0)
    weights = attention_weights(query[0], key[0])
    seconds = {"direct": [[3.0, 1.0, 2.0], [9.0, 8.0, 7.0]], "efficient": [[4.0, 4.0, 4.0], [5.0, 5.0, 6.0]]}
    figure = _plots.draw(weights, content, _plots.Times("numpy", [10, 20], seconds, crossover=15))
    figure.canvas.draw()
    left, right = figure.axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), 100 * weights)
    labels = "".join(label.get_text() for label in left.get_xticklabels())
    assert labels == "A␣line↵of␣text␣with␣·␣in␣it␣$␣and␣$"
    lines = {line.get_label(): line for line in right.lines}
    np.testing.assert_array_equal(lines["direct form"].get_xydata(), [[10, 2], [20, 8]])
    np.testing.assert_array_equal(lines["efficient form"].get_xydata(), [[10, 4], [20, 5]])
    (crossing,) = [line for label, line in lines.items() if "crossover" in str(label)]
    assert list(crossing.get_xdata()) == [15, 15]
    assert (right.get_xscale(), right.get_yscale()) == ("log", "log")
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in (left, right))
    assert "tokens" in right.get_xlabel()
    assert "seconds" in right.get_ylabel()


def test_the_picture_takes_a_line_of_prose() -> None:
    prose = b"This is a line of prose, quite long enough to be shown in the map (as it is)."
    where = _plots.stretch(b"*****\n== 1 ==\n" + prose)
    assert (b"*****\n== 1 ==\n" + prose)[where] == prose[:64]
    assert _plots.stretch(b"short") == slice(0, 64)
