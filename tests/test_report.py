"""``taylorshift report`` and what its figures are made of: numbers, drawings and the page."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import report as benchmark_report
from cli_run import refusal, run
from matplotlib import rc_context
from matplotlib.figure import Figure as Picture
from oracle import attention_oracle

from taylorshift_core import crossover_length, load_backend
from taylorshift_core.cli import _report
from taylorshift_core.cli._speeds import Case
from taylorshift_core.cli.figures import NAMES, all_figures, bench, crossing, page, published, survey
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT, SOFTMAX, ours, softmax_in_numpy
from taylorshift_core.cli.figures.effort import Effort
from taylorshift_core.cli.figures.figure import Figure, Measured
from taylorshift_core.cli.figures.memory import peak_in_processes
from taylorshift_core.cli.figures.render import png, svg
from taylorshift_core.cli.figures.theme import DARK, LIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from taylorshift_core.cli.figures.figure import Row

TINY = Effort(
    seconds=1000,
    turn=0,
    fewest=1,
    most=1,
    heads=1,
    head_dims=(4, 8),
    lengths=(16, 64),
    crossover_dims=(4,),
    crossover_at=(0.5, 2),
    width=16,
    head_counts=(2, 4),
    heads_length=32,
    error_dtypes=("float16", "float32", "float64"),
    error_lengths=(4, 64),
    sizes_dims=(4,),
    sizes_lengths=(4, 64),
    draws=2,
    product=32,
    copied_megabytes=1,
    roofline_length=32,
    contexts=(4, 16),
    libraries_length=16,
    training_lengths=(16, 64),
)
ABOUT = {
    "processor": "abacus",
    "cores": 3,
    "system": "wood",
    "python": "3",
    "versions": {"taylorshift-core": "7", "numpy": "9"},
    "threads": [],
    "variables": {},
}
FIGURES = {figure.name: figure for figure in all_figures()}


def timed(contestant: str, seconds: float, **about: Any) -> Row:
    return {"contestant": contestant, "low": 0.8 * seconds, "median": seconds, "high": 1.5 * seconds} | about


def curves(head_dim: int) -> list[Row]:
    """A line and a parabola that cross at 300 tokens, and another parabola that crosses the line at 200."""
    rows = []
    for length in (100, 400, 800):
        about = {"of": "time", "heads": 2, "head_dim": head_dim, "length": length}
        ways = ((EFFICIENT, 300 * length), (DIRECT, length**2), (SOFTMAX, 1.5 * length**2))
        rows += [timed(name, 1e-6 * cost, **about) for name, cost in ways]
    return rows


def held(name: str, length: int, n_bytes: int, head_dim: int = 32) -> Row:
    return {"contestant": name, "of": "memory", "heads": 2, "head_dim": head_dim, "length": length, "bytes": n_bytes}


def limits(rate: float, bandwidth: float) -> list[Row]:
    """A second of each."""
    return [
        timed("matrix product", 1.0, of="limit", work=rate),
        timed("copy", 1.0, of="limit", work=bandwidth),
    ]


MADE_UP: dict[str, list[Row]] = {
    "crossover": [
        *curves(32),
        *(held("published direct", n, n * n) for n in (100, 400, 800)),
        *(held("published efficient", n, 500 * n) for n in (100, 400, 800)),
    ],
    "length": [*curves(16), *curves(32), held(EFFICIENT, 100, 5_000_000), held(EFFICIENT, 800, 6_000_000)],
    "heads": [
        timed(name, seconds, heads=heads, head_dim=64 // heads, length=100)
        for name, heads, seconds in ((EFFICIENT, 2, 0.9), (EFFICIENT, 8, 0.3), (DIRECT, 2, 0.4), (DIRECT, 8, 0.6))
    ],
    "roofline": [
        *limits(8e10, 1e10),
        timed(EFFICIENT, 0.5, of="form", head_dim=32, work=2e10, bytes=1e8),
        timed(DIRECT, 0.25, of="form", head_dim=32, work=1e10, bytes=1e8),
    ],
    "decoding": [
        timed(name, seconds, context=context, bytes=1000)
        for name, context, seconds in (
            ("state (NumPy)", 10, 2e-4),
            ("state (NumPy)", 1000, 3e-4),
            ("softmax, cache (NumPy)", 10, 1e-4),
            ("softmax, cache (NumPy)", 1000, 9e-4),
        )
    ],
    "libraries": [
        timed(f"{library} {form}", seconds, library=library, form=form, heads=1, head_dim=32, length=50)
        for library, form, seconds in (("numpy", "direct", 0.3), ("numpy", "efficient", 0.2), ("abacus", "direct", 9.0))
    ],
    "training": [
        timed(name, factor * length, heads=1, head_dim=32, length=length)
        for name, factor in ((EFFICIENT, 3e-3), (DIRECT, 1e-3), ("numpy efficient, forward alone", 1e-3))
        for length in (100, 200)
    ],
}
FINDINGS = {
    "crossover": "at 1 of 1 head_dims; at 32 from 300 tokens, where the paper says 1,700",
    "length": "overtakes the direct form at 300 tokens (head_dim 16), at 300 tokens (head_dim 32)",
    "heads": "With 8 heads instead of 2 at the same width, the efficient form takes 0.33 times as long and "
    "the direct form takes 1.5 times as long",
    "roofline": "runs at 50 % at head_dim 32 of the rate",
    "decoding": "After 1,000 tokens a step through the state takes 300 µs, 1.50 times as long as after 10; "
    "softmax, cache (NumPy): 3 times as long",
    "libraries": "Of 2 libraries here, numpy is the fastest: 200 ms in the efficient form",
    "training": "take 3.0 times the forward pass (200 tokens, efficient form); the efficient form overtakes the "
    "direct form at no length up to 200 tokens",
}


def made_up(name: str) -> Measured:
    return Measured(FIGURES[name], MADE_UP[name], 3, 4, ABOUT, "1999-12-31")


def drawn(measured: Measured) -> Picture:
    picture = Picture()
    axes = picture.subplots(*measured.figure.panels, squeeze=False).ravel()
    with rc_context(LIGHT.settings):
        measured.figure.draw(measured.rows, list(axes), LIGHT)
    return picture


def points(picture: Picture) -> dict[tuple[int, str], list[list[float]]]:
    """Return by panel and label what is drawn: curves with bars and without."""
    found = {}
    for place, axes in enumerate(picture.axes):
        for line in axes.lines:
            if not str(line.get_label()).startswith("_"):
                found[place, str(line.get_label())] = line.get_xydata().tolist()
        for bars in axes.containers:
            found[place, str(bars.get_label())] = bars.lines[0].get_xydata().tolist()
    return found


# Findings and drawings


@pytest.mark.parametrize("name", FINDINGS)
def test_a_title_says_what_the_numbers_say(name: str) -> None:
    assert FINDINGS[name] in made_up(name).finding


def test_curves_go_through_the_medians_and_bars_reach_to_the_quartiles() -> None:
    picture = drawn(made_up("length"))
    found = points(picture)
    for panel in (0, 1):
        expected = [[n, 1e3 * 1e-6 * n * n] for n in (100, 400, 800)]
        np.testing.assert_allclose(found[panel, DIRECT], expected)
        (bars,) = (each for each in picture.axes[panel].containers if each.get_label() == DIRECT)
        ends = [segment[:, 1].tolist() for segment in bars.lines[2][0].get_segments()]
        np.testing.assert_allclose(ends, [[0.8 * y, 1.5 * y] for _, y in expected])
    np.testing.assert_allclose(found[0, f"ahead of {DIRECT}"], [[300, 0], [300, 1]])
    np.testing.assert_allclose(found[0, f"ahead of {SOFTMAX}"], [[200, 0], [200, 1]])
    assert f"ahead of\n{DIRECT} from 300, {SOFTMAX} from 200" in picture.axes[0].get_title()
    np.testing.assert_allclose(found[4, EFFICIENT], [[100, 5], [800, 6]])


def test_crossings_are_drawn_beside_what_is_counted() -> None:
    picture = drawn(made_up("crossover"))
    found = points(picture)
    np.testing.assert_allclose(found[0, f"measured, against {DIRECT}"], [[32, 300]])
    np.testing.assert_allclose(found[0, f"measured, against {SOFTMAX}"], [[32, 200]])
    assert [32, crossover_length(32)] in found[0, "N0 counted, symmetric features"]
    assert [32, crossover_length(32, features="published")] in found[0, "N0 counted, published features"]
    np.testing.assert_allclose(found[1, "measured, both forms as published"], [[32, 500]])
    assert found[0, "the paper's headline: faster from about 1,700"] == [[32, 1700]]
    assert found[1, "the paper's headline: less memory from about 800"] == [[32, 800]]


@pytest.mark.parametrize(("factor", "sign", "at"), [(0.1, "≤", 100), (10, "≥", 800)])
def test_a_crossing_that_was_not_seen_is_drawn_as_a_bound(factor: float, sign: str, at: int) -> None:
    slower = dict.fromkeys(("low", "median", "high"), factor)
    rows = [
        row | {which: row[which] * by for which, by in slower.items()} if row["contestant"] == EFFICIENT else row
        for row in curves(32)
    ]
    picture = drawn(replace(made_up("crossover"), rows=[*rows, *MADE_UP["crossover"][9:]]))
    np.testing.assert_allclose(points(picture)[0, f"measured, against {DIRECT}"], [[32, at]])
    assert sign in {text.get_text() for text in picture.axes[0].texts}


def test_a_head_dim_without_a_crossing_counts_as_measured() -> None:
    late = [row | {"head_dim": 16} for row in curves(32) if row["contestant"] != EFFICIENT or row["length"] < 300]
    text = replace(made_up("crossover"), rows=[*MADE_UP["crossover"], *late]).finding
    assert "at 1 of 2 head_dims" in text


def test_the_quartiles_of_a_crossing_are_where_one_is_slow_and_the_other_fast() -> None:
    middle, first, last = crossing.crossing_of(curves(32), EFFICIENT, DIRECT)
    assert middle == pytest.approx(300)
    assert first == pytest.approx(300 * 0.8 / 1.5)
    assert last == pytest.approx(300 * 1.5 / 0.8)


def test_words_say_where_a_crossing_is() -> None:
    line, square = ([timed(name, n**power, length=n) for n in (100, 400)] for name, power in (("a", 1), ("b", 2)))
    assert crossing.where([*line, *square], "a", "b") == "before 100 tokens"
    assert crossing.where([*line, *square], "b", "a") == "at no length up to 400 tokens"
    assert crossing.where(curves(32), EFFICIENT, DIRECT) == "at 300 tokens"


def test_the_roof_is_what_was_measured_and_marks_are_rates() -> None:
    found = points(drawn(made_up("roofline")))
    roof = np.asarray(found[0, "limit: 10 GB/s, 80 GFLOP/s"])
    np.testing.assert_allclose(roof[:, 1], np.minimum(80, 10 * roof[:, 0]))
    np.testing.assert_allclose(found[0, EFFICIENT], [[200, 40]])
    np.testing.assert_allclose(found[0, DIRECT], [[100, 40]])


@pytest.mark.parametrize("name", MADE_UP)
def test_axes_are_labelled_and_contestants_differ_without_colour(name: str) -> None:
    for axes in drawn(made_up(name)).axes:
        if axes.get_visible():
            assert axes.get_xlabel()
            assert axes.get_ylabel() or name == "libraries"
        marks = [(bars.lines[0].get_marker(), bars.lines[0].get_linestyle()) for bars in axes.containers]
        assert len(set(marks)) == len(marks)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_stand_out_from_the_ground(theme: Any) -> None:
    """By the contrast of the Web Content Accessibility Guidelines: 4.5 for words, 3 for lines."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(colour: str) -> float:
        low, high = sorted((luminance(colour), luminance(theme.ground)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.ink) >= 4.5
    assert all(contrast(colour) >= 3 for colour in theme.colours)


def test_pictures_for_both_grounds_hold_title_and_foot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Picture] = []
    save = Picture.savefig
    monkeypatch.setattr(Picture, "savefig", lambda self, *a, **k: (seen.append(self), save(self, *a, **k)))
    for theme in (LIGHT, DARK):
        png(tmp_path / f"{theme.name}.png", made_up("heads"), theme, "a foot")
    light, dark = (file.read_bytes() for file in (tmp_path / "light.png", tmp_path / "dark.png"))
    assert light.startswith(b"\x89PNG")
    assert light != dark
    for picture in seen:
        assert picture.get_suptitle().replace("\n", " ") == made_up("heads").finding
        assert picture.get_supxlabel() == "a foot"


# The page


class Page(HTMLParser):
    """Collects what a page refers to, its names and its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.labels: list[str] = []
        self.cells: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, text in attributes:
            if name == "id":
                self.ids.append(str(text))
            if name in {"src", "href", "xlink:href"}:
                self.addresses.append(str(text))
            if name == "aria-label":
                self.labels.append(str(text))
        self._cell = tag == "td"

    def handle_data(self, text: str) -> None:
        if self._cell:
            self.cells.append(text)
            self._cell = False


def test_the_page_needs_no_other_and_shows_the_numbers_measured() -> None:
    shown = ("crossover", "roofline")
    found = [made_up(name) for name in shown]
    text = page.page(found, "type this --only NAME")
    seen = Page(text)
    assert len(set(seen.ids)) == len(seen.ids)
    outside = [address for address in seen.addresses if not address.startswith(("#", "data:"))]
    assert outside == ["https://arxiv.org/abs/2403.02920"]
    assert {address[1:] for address in seen.addresses if address.startswith("#")} <= set(seen.ids)
    assert "url(http" not in text
    kept = json.loads(re.search(r'id="measured">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert kept == {name: MADE_UP[name] for name in shown}
    shown_numbers = [float(cell) for cell in seen.cells if re.fullmatch(r"[\d.e+-]+", cell)]
    numbers = [
        entry for name in shown for row in MADE_UP[name] for entry in row.values() if isinstance(entry, int | float)
    ]
    for number in numbers:
        assert any(shown == pytest.approx(number, rel=1e-3) for shown in shown_numbers), number
    assert len(shown_numbers) == len(numbers)
    for each in found:
        assert f'href="#{each.figure.name}"' in text
        assert any(each.finding in label for label in seen.labels)
        assert f"type this --only {each.figure.name}" in text
    assert "abacus, 3 cores" in text
    assert "after 3 of 4 measurements" in text


def test_pictures_on_the_page_take_its_colours() -> None:
    text = svg(made_up("heads"))
    assert "var(--c0)" in text
    assert "var(--ink)" in text
    assert not any(colour in text for colour in (*LIGHT.colours, LIGHT.ink))
    whole = page.page([made_up("heads")], "NAME")
    dark = whole[whole.index("prefers-color-scheme: dark") :]
    assert f"--c0: {DARK.colours[0]}" in dark[: dark.index("body")]
    assert f"--c0: {LIGHT.colours[0]}" in whole[: whole.index("@media")]


# Measuring


def test_all_figures_are_measured_and_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(_report, "QUICK", TINY)
    monkeypatch.setattr(_report, "find_backends", lambda _names: ([load_backend("numpy")], {}))
    monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
    file = tmp_path / "report.html"
    assert run(capsys, "report", "--quick", "--output", str(file)) == [f"Report: {file}"]
    assert opened == [file.as_uri()]
    text = file.read_text(encoding="utf-8")
    measured = json.loads(re.search(r'id="measured">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert tuple(measured) == NAMES
    assert all(measured.values())
    assert "The time was up" not in text
    assert "--force" in refusal(capsys, "report", "--quick", "--output", str(file))
    checked = [
        row["error"]
        for name in ("crossover", "length", "heads", "libraries")
        for row in measured[name]
        if "error" in row
    ]
    assert checked
    assert max(checked) < 1e-5


def test_without_matplotlib_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "the report needs matplotlib" in refusal(capsys, "report", "--output", str(tmp_path / "report.html"))


def test_one_figure_goes_to_the_cache_and_is_not_opened_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TAYLORSHIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("webbrowser.open", lambda _address: pytest.fail("a browser was opened"))
    for _ in range(2):
        run(capsys, "report", "--only", "weight", "--no-open")
    text = (tmp_path / "cache" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', text) == ["weight"]
    assert "taylorshift report --only weight" in text


def test_the_time_is_shared_and_what_is_left_out_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def unit(name: str, number: int) -> list[Row]:
        now[0] += 1.0
        return [{"contestant": name, "number": number}]

    def figure(name: str, count: int) -> Figure:
        units = lambda _bench: [lambda number=number: unit(name, number) for number in range(count)]  # noqa: E731
        return replace(FIGURES["heads"], name=name, units=units)

    monkeypatch.setattr(survey.time, "perf_counter", lambda: now[0])
    advances: list[str] = []
    compiled: Any = SimpleNamespace(
        library="abacus", start=lambda _arrays, _options: lambda: now.append(now.pop() + 100)
    )
    by = bench.Bench(replace(TINY, seconds=6), (compiled,), ())
    figures = [figure("long", 8), figure("short", 4)]
    found = survey.survey(figures, by, advances.append)
    assert [row["number"] for row in found[0].rows] == [0, 2, 4, 6]
    assert [row["number"] for row in found[1].rows] == [0, 2]
    assert [(each.done, each.planned) for each in found] == [(4, 8), (2, 4)]
    assert len(advances) == survey.count_units(figures, by) == 12
    untimed = [replace(figures[0], timed=True), replace(figures[1], timed=False)]
    assert [each.done for each in survey.survey(untimed, by, advances.append)] == [4, 2]
    assert advances[12:] == ["short"] * 4 + ["long"] * 8
    late = survey.survey(figures, replace(by, effort=replace(TINY, seconds=0)), advances.append)
    assert [each.done for each in late] == [1, 1]


def test_rows_hold_the_quartiles_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = np.asarray([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0], [5.0, 50.0]])
    monkeypatch.setattr(bench, "take_turns", lambda *_runs, **_limits: rounds)
    rows = bench.Bench(TINY, (), ()).time({"a": lambda: None, "b": lambda: None}, length=7)
    assert rows[0] == {"contestant": "a", "length": 7, "low": 2.0, "median": 3.0, "high": 4.0, "rounds": 5}
    assert rows[1]["median"] == 30.0


def test_a_wrong_result_is_not_timed() -> None:
    right = ours("numpy", "direct")
    wrong = replace(right, start=lambda arrays, options: lambda: 1.01 * right.start(arrays, options)())
    with pytest.raises(AssertionError, match=r"off by 0\.01"):
        bench.Bench(TINY, (), ()).compare([wrong], Case(1, 20, 4))


def test_memory_is_watched_where_nothing_is_kept() -> None:
    """Softmax holds a block of 512 scores a key three times: scores, their differences from the largest, weights."""
    long, short = peak_in_processes(SOFTMAX, [Case(1, 2048, 8), Case(1, 512, 8)])
    block = 4 * 512 * 512
    assert 2 * block <= short <= 3.2 * block
    assert 2 * 4 * block <= long <= 3.2 * 4 * block


def test_softmax_in_blocks_is_softmax() -> None:
    case = Case(2, 700, 5)
    arrays, options = case.draw("float32")
    contestant = softmax_in_numpy()
    assert contestant.check(contestant.start(arrays, options), arrays, options) < 1e-6
    assert contestant.takes(case)
    assert not contestant.takes(Case(8, 8192, 64))


# The forms as published


def test_the_published_forms_are_the_definition() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 90, 5)) for _ in range(3)]
    for form in (published.direct, published.efficient):
        expected = attention_oracle(*arrays)
        np.testing.assert_allclose(form(*arrays), expected, rtol=0, atol=4 * np.finfo(float).eps * np.sqrt(120))


@pytest.mark.parametrize("normalised", [False, True])
def test_sizes_are_those_predicted(normalised: bool) -> None:
    """The mean square of many heads against its expectation, by its own standard error; the output for many tokens."""
    rng = np.random.default_rng(1)
    draws = [published.intermediate_sizes(rng, 200, 6, normalised=normalised) for _ in range(300)]
    predicted = published.predicted_sizes(200, 6, normalised=normalised)
    for term in published.TERMS:
        squares = np.asarray([each[term] for each in draws])
        error = squares.std(ddof=1) / np.sqrt(len(squares))
        few_tokens = 4 / 200 * predicted[term] ** 2 if term == "output" else 0.0
        assert abs(squares.mean() - predicted[term] ** 2) < 5 * error + few_tokens, term


# The page of the documentation


def test_the_page_of_the_documentation_shows_both_grounds(tmp_path: Path) -> None:
    found = [made_up("heads"), made_up("roofline")]
    benchmark_report.publish(found, tmp_path)
    text = (tmp_path / "analysis.md").read_text(encoding="utf-8")
    for each in found:
        assert f"## {each.finding}" in text
        assert "abacus, 3 cores" in text
        assert f"Again: `python benchmarks/report.py --only {each.figure.name}`" in text
        for ground in ("light", "dark"):
            path = f"figures/measured/{each.figure.name}-{ground}.png"
            assert f"{{image}} {path}\n:alt: {each.finding}\n:class: only-{ground}" in text
            assert (tmp_path / path).read_bytes().startswith(b"\x89PNG")


def test_numbers_that_are_kept_are_those_measured(tmp_path: Path) -> None:
    found: Sequence[Measured] = [made_up("length"), made_up("heads")]
    benchmark_report.write_numbers(tmp_path / "numbers.json", found)
    assert benchmark_report.read_numbers(tmp_path / "none.json", tmp_path / "numbers.json") == list(found)
    assert benchmark_report.read_numbers(tmp_path / "none.json") == []
