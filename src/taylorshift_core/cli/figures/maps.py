"""Attention maps of a real text and a real image, with both weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core import attention_weights
from taylorshift_core.cli._plots import label_bytes, stretch
from taylorshift_core.cli._text import project, read_text
from taylorshift_core.cli.figures.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from taylorshift_core.cli.figures.bench import Bench
    from taylorshift_core.cli.figures.figure import Row, Unit
    from taylorshift_core.cli.figures.theme import Theme

    Array = np.ndarray[Any, Any]

_SHOWN_BYTES = 40
_TEXT = 4096  # bytes that are read, of which a readable stretch is shown
_PATCH, _QUERY = 16, (5, 15)  # pixels along a patch, and the patch that attends: an eye
_SHOWN = 2  # every other pixel is kept for drawing
_FACE = slice(20, 308), slice(80, 432)  # of Grace Hopper's portrait, which comes with matplotlib


def _units(_bench: Bench) -> list[Unit]:
    return [_text, _image]


def _text() -> list[Row]:
    content = read_text(None, _TEXT).content
    first = stretch(content).start
    where = slice(first, first + _SHOWN_BYTES)
    query, key, _ = (array[0, where] for array in project(content, 8, 32, seed=0))
    return [_row("text", query, key, bytes=content[where].decode("latin-1"))]


def _image() -> list[Row]:
    from matplotlib.cbook import get_sample_data
    from matplotlib.image import imread

    portrait = imread(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    pixels = portrait[_FACE].mean(axis=-1) / 255
    down, across = pixels.shape[0] // _PATCH, pixels.shape[1] // _PATCH
    patches = pixels.reshape(down, _PATCH, across, _PATCH).swapaxes(1, 2).reshape(down * across, _PATCH**2)
    patches = (patches - patches.mean(axis=0)) / patches.std(axis=0)
    query = patches[[_QUERY[0] * across + _QUERY[1]]]
    return [
        _row(
            "image",
            query,
            patches,
            pixels=np.rint(255 * pixels[::_SHOWN, ::_SHOWN]).astype(int).tolist(),
            across=across,
        )
    ]


def _row(of: str, query: Array, key: Array, **about: Any) -> Row:
    """Return the weights of both kinds in percent of what a row would have if all were equal."""
    unit_query, unit_key = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key))
    taylor, exponential = attention_weights(query, key), np.exp(unit_query @ unit_key.T)
    exponential = exponential / exponential.sum(axis=-1, keepdims=True)
    share = 100 * len(key)
    return {
        "of": of,
        "keys": len(key),
        "correlation": float(np.corrcoef(taylor.ravel(), exponential.ravel())[0, 1]),
        "largest difference (% of an equal share)": float(share * np.max(np.abs(taylor - exponential))),
        "taylor": (share * taylor).round(2).tolist(),
        "exponential": (share * exponential).round(2).tolist(),
        **about,
    }


def _finding(rows: Sequence[Row]) -> str:
    found = " and ".join(f"{row['correlation']:.3f} on the {row['of']}" for row in rows)
    return f"The attention maps of TaylorShift and of exp correlate with {found}"


def _draw(rows: Sequence[Row], axes: Sequence[Axes], theme: Theme) -> None:
    for row, line in zip(rows, (axes[:3], axes[3:]), strict=False):
        both = [np.asarray(row[which]) for which in ("taylor", "exponential")]
        limits = {"vmin": min(map(np.min, both)), "vmax": max(map(np.max, both))}
        maps = line[1:] if row["of"] == "image" else line[:2]
        for axis, weights, title in zip(maps, both, ("1 + s + s²/2", "exp(s)"), strict=True):
            grid = weights.reshape(-1, row["across"]) if row["of"] == "image" else weights
            shown = axis.imshow(grid, cmap="cividis", interpolation="nearest", **limits)
            axis.set_title(f"{row['of']}, weight {title}")
        axis.figure.colorbar(shown, ax=maps[1], label="weight (% of an equal share)", shrink=0.8)
        if row["of"] == "image":
            _draw_image(row, line, theme)
        else:
            for axis in maps:
                label_bytes(axis, row["bytes"].encode("latin-1"), 6)
            _draw_differences(both, line[2], theme)


def _draw_image(row: Row, line: Sequence[Axes], theme: Theme) -> None:
    sides = (-0.5, _SHOWN * len(row["pixels"][0]) - 0.5, _SHOWN * len(row["pixels"]) - 0.5, -0.5)
    line[0].imshow(row["pixels"], cmap="gray", interpolation="nearest", extent=sides)
    line[0].set_title(f"image in {row['keys']} patches, one token each")
    line[0].set(xlabel="pixels", ylabel="pixels")
    for axis, size in zip(line, (_PATCH, 1, 1), strict=True):
        down, across = (place * size + (size - 1) / 2 for place in _QUERY)
        half = size / 2
        corners = ([across + x * half for x in (-1, 1, 1, -1, -1)], [down + y * half for y in (-1, -1, 1, 1, -1)])
        axis.plot(*corners, color=theme.colours[1], linewidth=2, label="the patch that attends")
        if size == 1:
            axis.set(xlabel="patch", ylabel="patch")
    line[0].legend(loc="lower left", labelcolor="#fefefe")


def _draw_differences(both: Sequence[Array], axis: Axes, theme: Theme) -> None:
    taylor, exponential = (each.ravel() for each in both)
    ends = [float(min(taylor.min(), exponential.min())), float(max(taylor.max(), exponential.max()))]
    axis.plot(ends, ends, color=theme.ink, linewidth=0.8, label="equal")
    axis.plot(exponential, taylor, ".", markersize=2, color=theme.colours[0], label="a pair of bytes", rasterized=True)
    axis.set_title("text, one weight against the other")
    axis.set(xlabel="weight exp(s) (% of an equal share)", ylabel="weight 1 + s + s²/2 (% of an equal share)")
    axis.grid(visible=True)
    axis.legend()


FIGURE = Figure(
    "maps",
    f"Above, {_SHOWN_BYTES} bytes of the Python language reference: each byte is a random vector with its position added, and one head "
    "sees random projections of these, as in `taylorshift demo`. Below, a portrait of Grace Hopper (it comes with matplotlib) cut "
    "into patches, each pixel standardised over the patches; the framed patch attends to all, itself included. Nothing is "
    "trained. Weights are those of attention_weights on the one hand, and exp of the same scores of unit vectors on the "
    "other, each divided by the sum of its row; 100 % is what a key would get if all got the same.",
    "none: nothing is timed, and nothing is drawn but the projections, whose seed is fixed",
    (2, 3),
    _units,
    _finding,
    _draw,
    timed=False,
)
