"""What the training examples share: real digits, one small model's sizes and start, Adam, and the loop with its picture."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Array = Any
Parameters = dict[str, Array]

PATCHES, PIXELS = 16, 4  # an image of 8 x 8 pixels is a sequence of 16 patches of 2 x 2
WIDTH, HEADS, CLASSES = 32, 4, 10
BATCH = 32


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits (scikit-learn's, from the UCI repository), three quarters of them to learn from."""

    images: Array  # (n, patches, pixels)
    labels: Array  # (n,)
    test_images: Array
    test_labels: Array

    @classmethod
    def load(cls, seed: int) -> Digits:
        """Return them in an order that the seed decides."""
        pixels, labels = load_digits(return_X_y=True)
        grid = (pixels / 16).astype(np.float32).reshape(-1, 4, 2, 4, 2)
        images = grid.transpose(0, 1, 3, 2, 4).reshape(-1, PATCHES, PIXELS)
        order = np.random.default_rng(seed).permutation(len(labels))
        learn, test = np.split(order, [len(labels) * 3 // 4])
        return cls(images[learn], labels[learn], images[test], labels[test])

    def batches(self, seed: int, epoch: int) -> Iterator[tuple[Array, Array]]:
        """Yield each image to learn from once, with its label, in an order of this epoch's own."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self.labels))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            part = order[first : first + BATCH]
            yield self.images[part], self.labels[part]


def initial_parameters(seed: int) -> Parameters:
    """Return where every library starts."""
    rng = np.random.default_rng(seed)
    sizes = {"embed": (PIXELS, WIDTH), "place": (PATCHES, WIDTH)}
    sizes |= dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH))
    sizes |= {"classes": (WIDTH, CLASSES), "bias": (CLASSES,), "scale": (HEADS,)}
    drawn = {name: (rng.standard_normal(size) * size[0] ** -0.5).astype(np.float32) for name, size in sizes.items()}
    return drawn | {"bias": np.zeros(CLASSES, np.float32), "scale": np.full(HEADS, 2.0, np.float32)}


class Adam:
    """The optimiser, in operators alone, so that it updates the arrays of any library."""

    def __init__(self, rate: float = 0.003) -> None:
        self.rate, self.steps = rate, 0
        self.mean: Parameters = {}
        self.square: Parameters = {}

    def update(self, parameters: Parameters, gradients: Parameters) -> Parameters:
        """Return the parameters one step further down."""
        self.steps += 1
        new = {}
        for name, by in gradients.items():
            self.mean[name] = 0.9 * self.mean.get(name, 0 * by) + 0.1 * by
            self.square[name] = 0.999 * self.square.get(name, 0 * by) + 0.001 * by * by
            mean, square = self.mean[name] / (1 - 0.9**self.steps), self.square[name] / (1 - 0.999**self.steps)
            new[name] = parameters[name] - self.rate * mean / (square**0.5 + 1e-8)
        return new


def main(library: str, step: Callable[..., Any], predict: Callable[..., Any], asarray: Callable[..., Any]) -> None:
    """Train, show how it goes, draw the loss, print the accuracy.

    `step` is ``(parameters, images, labels) -> (loss, gradients)``, `predict` is ``(parameters, images) -> labels``.
    """
    options = _options()
    digits, adam, losses = Digits.load(options.seed), Adam(), []
    parameters = {name: asarray(array) for name, array in initial_parameters(options.seed).items()}
    columns = (
        TextColumn(library),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"),
    )
    with Progress(*columns, disable=options.quiet) as progress:
        task = progress.add_task("", total=options.epochs, at="")
        for epoch in range(options.epochs):
            for images, labels in digits.batches(options.seed, epoch):
                loss, gradients = step(parameters, asarray(images), asarray(labels))
                parameters = adam.update(parameters, gradients)
                losses.append(float(loss))
            progress.update(task, advance=1, at=f"loss {np.mean(losses[-20:]):.3f}")
    right = np.asarray(predict(parameters, asarray(digits.test_images))) == digits.test_labels
    print(f"{library}: {100 * np.mean(right):.2f} % of {len(right)} digits that it never saw")
    if options.picture:
        _draw(losses, library, options.picture)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=None, help="where to draw the loss curve, such as loss.png")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--library", choices=("torch", "jax"), default="torch", help="for train_autodiff.py")
    return parser.parse_args()


def _draw(losses: list[float], library: str, path: Path) -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(losses, color="0.8", label="each batch")
    axes.plot(np.convolve(losses, np.ones(20) / 20, mode="valid"), color="tab:blue", label="mean of 20")
    axes.set(
        xlabel="step", ylabel="cross-entropy", title=f"Digits through TaylorShift attention, {library}", ylim=(0, None)
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
