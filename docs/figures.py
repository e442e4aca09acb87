"""Draw the figures of the theory: ``python docs/figures.py``, each for light pages and for dark ones.

Nothing here is measured. Figures of measurements come from benchmarks/.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from taylorshift_core import byte_count, crossover_length, crossover_memory, explain, operation_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

FOLDER = Path(__file__).parent / "figures"
SHORT_DIMS = (8, 16, 32, 64, 128)
GREY = "#8a8a8a"  # for what stays behind, readable on both grounds


@dataclass(frozen=True)
class Ground:
    """The colours of one kind of page: of text, of what stays behind, and three of Okabe and Ito's that all eyes tell apart."""

    name: str
    ink: str
    faint: str
    accents: tuple[str, str, str]

    @property
    def style(self) -> dict[str, object]:
        """What matplotlib needs to know of it."""
        ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), self.ink)
        size = {"font.size": 11, "axes.titlesize": 12, "lines.linewidth": 2}
        quiet = {"legend.frameon": False, "grid.color": self.faint, "axes.facecolor": "none"}
        return {**ink, **size, **quiet, "svg.hashsalt": "taylorshift"}


GROUNDS = (
    Ground("light", "#1a1a1a", "#c8c8c8", ("#0072B2", "#D55E00", "#009E73")),
    Ground("dark", "#e0e0e0", "#4a4d52", ("#56B4E9", "#E69F00", "#2BBF94")),
)


def weight(ground: Ground) -> Figure:
    """Draw the weight of a score beside exp, and how much they differ."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    blue, orange, green = ground.accents
    s = np.linspace(-4, 2.4, 400)
    left.axvspan(-1, 1, color=ground.faint, alpha=0.35, linewidth=0)
    left.plot(s, 1 + s + s**2 / 2, color=blue, label="weight  p(s) = 1 + s + s²/2 = ½[(1 + s)² + 1]")
    left.plot(s, np.exp(s), "--", color=orange, label="softmax  exp(s)")
    left.axhline(0.5, linestyle=":", linewidth=1.2, color=green, label="½, which no weight goes below")
    left.plot([-1], [0.5], "o", color=green)
    left.annotate(
        "lowest point\ns = –1, weight ½", (-1, 0.5), (-2.2, 3.3), arrowprops={"arrowstyle": "->", "color": ground.ink}
    )
    left.text(0.03, 5.2, "unit rows\nat scale 1", ha="center", va="bottom", fontsize=9)
    left.set(xlabel="score s = scale · cos(query, key)", ylabel="weight before division", ylim=(0, 8), xlim=(-4, 2.4))
    left.legend(loc="upper left", fontsize=9)
    s = np.linspace(-1, 1, 200)
    right.plot(s, 100 * ((1 + s + s**2 / 2) / np.exp(s) - 1), color=blue)
    right.axhline(0, color=ground.ink, linewidth=0.8)
    right.set(xlabel="score s", ylabel="p(s) above exp(s) (% of exp(s))", xlim=(-1, 1))
    right.set_xticks((-1, -0.5, 0, 0.5, 1))
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.6)
    return figure


def square(ground: Ground) -> Figure:
    """Draw the products of an augmented key with itself, and which of them are kept."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes, words = figure.subplots(1, 2, width_ratios=(1, 1))
    head_dim, (blue, orange, green) = 4, ground.accents
    names = [*(f"k{'₁₂₃₄'[i]}" for i in range(head_dim)), "1"]
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            last = max(i, j) == head_dim
            colour = green if i == j == head_dim else orange if last else blue
            kept = i <= j
            face = (colour, 0.28 if kept else 0.0)
            axes.add_patch(Rectangle((j, i), 0.94, 0.94, facecolor=face, edgecolor=colour if kept else ground.faint))
            product = row if column == "1" else column if row == "1" else f"{row}{column}" if i != j else f"{row}²"
            axes.text(j + 0.47, i + 0.42, product, ha="center", va="center", color=ground.ink if kept else GREY)
            if kept and i != j:
                axes.text(j + 0.86, i + 0.84, "×2", ha="right", va="bottom", fontsize=8)
    axes.set(xlim=(-0.1, 5.05), ylim=(5.05, -0.75), aspect="equal")
    for i, name in enumerate(names):
        axes.text(i + 0.47, -0.3, name, ha="center", va="center", fontweight="bold")
    axes.text(-0.02, -0.3, "×", ha="right", va="center")
    axes.axis("off")
    words.axis("off")
    lines = (
        (blue, "quadratic: products of two entries of the key", "they carry s²"),
        (orange, "linear: an entry times the 1 that was appended", "they carry 2 s"),
        (green, "constant: 1 × 1, summed over keys it counts them", "it carries 1, and γ is added to it alone"),
        (ground.faint, "left out: the same products again", "said by ×2 on their twins instead"),
    )
    for i, (colour, what, carries) in enumerate(lines):
        words.add_patch(Rectangle((0, 0.86 - 0.17 * i), 0.045, 0.07, facecolor=(colour, 0.4), edgecolor=colour))
        words.text(0.07, 0.895 - 0.17 * i, f"{what}\n{carries}", va="center", fontsize=10, linespacing=1.5)
    sizes = f"head_dim {head_dim}: {(head_dim + 1) ** 2} products, {(head_dim + 1) * (head_dim + 2) // 2} of them kept"
    words.text(
        0, 0.12, f"(1 + s)² = Σ multiplicity · feature(query) · feature(key)\n{sizes}", fontsize=10.5, linespacing=1.8
    )
    words.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def orders(ground: Ground) -> Figure:
    """Draw the matrices of both forms to scale."""
    length, head_dim = 1000, 16
    width, n_features = head_dim + 1, (head_dim + 1) * (head_dim + 2) // 2
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    blue, orange, green = ground.accents
    direct, efficient = figure.subplots(1, 2)

    def box(axes: Axes, x: float, columns: int, rows: int, colour: str, name: str) -> float:
        axes.add_patch(Rectangle((x, -rows), columns, rows, facecolor=(colour, 0.35), edgecolor=colour))
        axes.text(x + columns / 2, 40, name, ha="center", va="bottom", fontsize=9)
        axes.text(x + columns / 2, -rows - 40, f"{rows} × {columns}", ha="center", va="top", fontsize=9)
        return x + columns

    x = box(direct, 0, length, length, orange, "scores, squared: every pair")
    direct.text(x + 75, -500, "×", ha="center", fontsize=14)
    x = box(direct, x + 150, width, length, blue, "[value, 1]")
    direct.set_title("direct form: (queries × keys) × values", y=0.97)
    x = box(efficient, 0, length, n_features, green, "features of the keys")
    efficient.text(x + 75, -100, "×", ha="center", fontsize=14)
    x = box(efficient, x + 150, width, length, blue, "[value, 1]")
    efficient.text(x + 75, -100, "=", ha="center", fontsize=14)
    box(efficient, x + 200, width, n_features, orange, "state")
    efficient.text(
        0,
        -400,
        f"Then, for each query,\n{n_features} features × the state.\nThe {length} × {length} matrix\nnever exists.",
        fontsize=10,
        va="top",
    )
    efficient.set_title("efficient form: queries × (keys × values)", y=0.97)
    for axes in (direct, efficient):
        axes.set(xlim=(-60, 1560), ylim=(-1180, 260), aspect="equal")
        axes.axis("off")
    figure.supxlabel(f"areas to scale: {length} tokens, head_dim and value_dim {head_dim}", fontsize=10)
    return figure


def crossover(ground: Ground) -> Figure:
    """Draw the lengths from which on the efficient form wins, by count and by the prices that are shipped."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    time, memory = figure.subplots(1, 2)
    blue, orange, green = ground.accents
    dims = np.unique(np.geomspace(4, 160, 60).astype(int))
    for axes, count in ((time, crossover_length), (memory, crossover_memory)):
        for features, colour, line in (("published", orange, "--"), ("symmetric", blue, "-")):
            lengths = [count(int(d), features=features) for d in dims]
            axes.plot(
                dims,
                lengths,
                line,
                color=colour,
                label=f"{'paper, d²' if features == 'published' else 'here, symmetric'} features",
            )
        axes.set(xscale="log", yscale="log", xlabel="head_dim", xlim=(4, 160), ylim=(10, 4e4))
        axes.set_xticks(SHORT_DIMS, [str(d) for d in SHORT_DIMS])
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.6)
    chosen = [planned_crossover(d) for d in SHORT_DIMS]
    found = [(d, n) for d, n in zip(SHORT_DIMS, chosen, strict=True) if n is not None]
    time.plot(*zip(*found, strict=True), "o:", color=green, label='form="auto", 4 heads, NumPy, prices shipped')
    time.set(title="Fewer operations, or less predicted time", ylabel="length (tokens) from which efficient wins")
    memory.set(title="Fewer entries, were every one stored", ylabel="length (tokens)")
    for axes in (time, memory):
        axes.legend(loc="upper left", fontsize=9)
    return figure


def planned_crossover(head_dim: int) -> int | None:
    """Return the crossover in the plan of NumPy's arrays; sizes decide, so there is nothing in the arrays."""
    tokens = np.broadcast_to(np.zeros((), np.float32), (4, 1, head_dim))
    return explain(tokens, tokens, tokens).crossover


def costs(ground: Ground) -> Figure:
    """Draw what both forms cost against the length, by the paper's counts."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    time, memory = figure.subplots(1, 2)
    lengths = np.unique(np.geomspace(64, 65536, 60).astype(int))
    colours = dict(zip(("efficient", "direct"), ground.accents, strict=False))
    for form, line in (("direct", "--"), ("efficient", "-")):
        time.plot(
            lengths,
            [operation_count(form, int(n), head_dim=32) / 1e9 for n in lengths],
            line,
            color=colours[form],
            label=f"{form} form",
        )
        memory.plot(
            lengths,
            [byte_count(form, int(n), head_dim=32) / 2**20 for n in lengths],
            line,
            color=colours[form],
            label=f"{form} form",
        )
    for axes, first in ((time, crossover_length(32)), (memory, crossover_memory(32))):
        axes.axvline(first, color=ground.accents[2], linestyle=":", label=f"crossover: {first} tokens")
        axes.set(xscale="log", yscale="log", xlabel="length (tokens)")
        axes.grid(visible=True, alpha=0.6)
        axes.legend(fontsize=9)
    time.set(title="Operations", ylabel="10⁹ operations, one head, head_dim 32")
    memory.set(title="Intermediate results, every one stored", ylabel="MiB in float32, one head, head_dim 32")
    return figure


def state(ground: Ground) -> Figure:
    """Draw the size of a state, and of the keys and values that it stands for, against the context."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    lengths = np.geomspace(16, 65536, 60)
    for d, colour in zip((16, 32, 64), ground.accents, strict=True):
        size = 4 * (d + 1) * (d + 2) // 2 * (d + 1) / 1024
        first = d == 16
        axes.plot(lengths, 4 * 2 * d * lengths / 1024, "--", color=colour, label="keys and values" if first else None)
        axes.plot(lengths, np.full_like(lengths, size), color=colour, label="state" if first else None)
        axes.text(lengths[-1], 1.12 * size, f"head_dim {d}", ha="right", va="bottom", fontsize=9)
        axes.text(1.15 * lengths[-1], 4 * 2 * d * lengths[-1] / 1024, f"{d}", va="center", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="context (tokens)", ylabel="KiB a head, float32", xlim=(12, 1.5e5))
    axes.grid(visible=True, alpha=0.6)
    axes.legend(fontsize=9)
    return figure


def chunks(ground: Ground) -> Figure:
    """Draw which part of causal attention is read from a state, and which is met pair by pair."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes, n_chunks = figure.subplots(), 6
    blue, orange, _ = ground.accents
    for i in range(n_chunks):
        if i:
            axes.add_patch(Rectangle((0, i), i, 1, facecolor=(blue, 0.15 + 0.05 * i), edgecolor=blue, linewidth=1))
            axes.text(
                i / 2, i + 0.5, f"state of {i} chunks" if i > 1 else "state", ha="center", va="center", fontsize=9
            )
        axes.add_patch(Polygon([(i, i), (i + 1, i + 1), (i, i + 1)], facecolor=(orange, 0.4), edgecolor=orange))
    axes.text(
        3.4,
        1.35,
        "each chunk reads the state\nof all before it (blue),\nmeets its own keys (orange),\nand is added to the state",
        va="center",
    )
    axes.set(xlim=(-0.05, n_chunks + 0.05), ylim=(n_chunks + 0.05, -0.05), aspect="equal")
    axes.set(xlabel="keys (chunks)", ylabel="queries (chunks)", xticks=range(n_chunks + 1), yticks=range(n_chunks + 1))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def choosing(ground: Ground) -> Figure:
    """Draw the questions that lead to a form."""
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    axes = figure.subplots()
    blue, orange, green = ground.accents
    questions = (
        (
            "Must the weights be those of exp,\nas a model trained with softmax expects?",
            "softmax attention\nof your own library",
        ),
        (
            "Two hundred tokens at most, on a CPU,\nand a fused softmax would do as well?",
            "softmax attention: faster there\n(see Performance)",
        ),
        ("A dense attn_mask, one row a query?", 'form="direct"\nthe only one that has it'),
        (
            "Tokens one by one, keys longer than memory,\nor sums to keep, add, subtract or send?",
            "State, Decoder, SlidingWindow,\nsummarise_chunks",
        ),
        ("Is the length not known yet\n(a symbol, or a lazy array)?", 'form="efficient"\nauto takes it as well'),
        ("Shorter than the crossover\nthat explain prints?", 'form="direct"\nauto takes it as well'),
    )
    answers = (orange, orange, blue, green, green, blue)

    def box(x: float, y: float, width: float, text: str, colour: str, *, round_corners: bool) -> None:
        corners = "round,pad=0.0,rounding_size=0.18" if round_corners else "square,pad=0.0"
        axes.add_patch(
            FancyBboxPatch(
                (x, y - 0.36),
                width,
                0.72,
                boxstyle=corners,
                facecolor=(colour, 0.04 if round_corners else 0.2),
                edgecolor=colour,
            )
        )
        axes.text(x + width / 2, y, text, ha="center", va="center", fontsize=10)

    def arrow(start: tuple[float, float], end: tuple[float, float], word: str, shift: tuple[float, float]) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": ground.ink})
        axes.text(
            (start[0] + end[0]) / 2 + shift[0],
            (start[1] + end[1]) / 2 + shift[1],
            word,
            ha="center",
            va="center",
            fontsize=10,
        )

    for i, ((question, answer), colour) in enumerate(zip(questions, answers, strict=True)):
        y = -1.1 * i
        box(0, y, 4.6, question, ground.ink, round_corners=True)
        box(5.7, y, 3.8, answer, colour, round_corners=False)
        arrow((4.65, y), (5.65, y), "yes", (0, 0.14))
        arrow((2.3, y - 0.4), (2.3, y - 0.72), "no", (0.3, 0.02))
    box(0, -1.1 * len(questions), 4.6, 'form="efficient", and auto takes it as well', green, round_corners=False)
    axes.set(xlim=(-0.1, 9.6), ylim=(-1.1 * len(questions) - 0.5, 0.5))
    axes.axis("off")
    return figure


FIGURES = (weight, square, orders, costs, crossover, choosing, state, chunks)


def main(names: Sequence[str] = ()) -> None:
    """Draw the figures named, or all, on a transparent ground."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as nowhere:
        os.environ["TAYLORSHIFT_CACHE"] = nowhere  # prices that were measured here are not what the page speaks of
        for ground in GROUNDS:
            with mpl.rc_context(ground.style):
                for draw in FIGURES:
                    if not names or draw.__name__ in names:
                        path = FOLDER / f"{draw.__name__}-{ground.name}.svg"
                        draw(ground).savefig(path, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
