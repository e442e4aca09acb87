"""The figures of the report: each is measured to rows of numbers, and drawn from these alone.

A figure is one module of this package that offers ``FIGURE``; `all_figures` lists them in the order of the report.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taylorshift_core.cli.figures.figure import Figure

NAMES = (
    "weight",
    "maps",
    "crossover",
    "length",
    "heads",
    "error",
    "sizes",
    "roofline",
    "decoding",
    "libraries",
    "training",
)

__all__ = ["NAMES", "all_figures"]


def all_figures() -> tuple[Figure, ...]:
    """Return the figures, in the order of the report."""
    return tuple(import_module(f"{__name__}.{name}").FIGURE for name in NAMES)
