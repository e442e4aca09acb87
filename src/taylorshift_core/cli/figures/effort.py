"""How much the report measures: sizes, and how long to take for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Sizes of all figures, in tokens where nothing else is said.

    Parameters
    ----------
    seconds
        For all figures together, after everything was compiled; what does not fit is left out, and the figure says so.
    turn
        Seconds for one point of one figure, in which all contestants take turns.
    fewest, most
        Rounds of a point.
    crossover_at
        Lengths measured, as multiples of the length at which both forms take as many operations.
    """

    seconds: float
    turn: float
    fewest: int
    most: int
    heads: int
    head_dims: tuple[int, ...]
    lengths: tuple[int, ...]
    crossover_dims: tuple[int, ...]
    crossover_at: tuple[float, ...]
    width: int
    head_counts: tuple[int, ...]
    heads_length: int
    error_dtypes: tuple[str, ...]
    error_lengths: tuple[int, ...]
    sizes_dims: tuple[int, ...]
    sizes_lengths: tuple[int, ...]
    draws: int
    product: int
    copied_megabytes: int
    roofline_length: int
    contexts: tuple[int, ...]
    libraries_length: int
    training_lengths: tuple[int, ...]


FULL = Effort(
    seconds=240,
    turn=0.8,
    fewest=5,
    most=25,
    heads=4,
    head_dims=(16, 32, 64),
    lengths=(128, 256, 512, 1024, 2048, 4096, 8192),
    crossover_dims=(8, 16, 32, 64, 128),
    crossover_at=(0.25, 0.5, 1, 2, 3),
    width=256,
    head_counts=(2, 4, 8, 16, 32),
    heads_length=2048,
    error_dtypes=("float16", "float32", "float64"),
    error_lengths=(16, 64, 256, 1024, 4096, 16_384, 65_536),
    sizes_dims=(8, 16, 32),
    sizes_lengths=(4, 16, 64, 256, 1024, 4096, 16_384),
    draws=16,
    product=1536,
    copied_megabytes=256,
    roofline_length=4096,
    contexts=(100, 1000, 10_000, 100_000),
    libraries_length=1024,
    training_lengths=(256, 1024, 4096),
)

QUICK = Effort(
    seconds=35,
    turn=0.1,
    fewest=3,
    most=15,
    heads=2,
    head_dims=(8, 16, 32),
    lengths=(128, 512, 2048),
    crossover_dims=(8, 16, 32),
    crossover_at=(0.25, 0.5, 1, 2),
    width=128,
    head_counts=(2, 4, 8, 16),
    heads_length=1024,
    error_dtypes=("float16", "float32"),  # each that is compiled takes its time, the first time
    error_lengths=(16, 256, 4096),
    sizes_dims=(8, 16),
    sizes_lengths=(4, 64, 1024),
    draws=8,
    product=1024,
    copied_megabytes=64,
    roofline_length=2048,
    contexts=(100, 1000, 10_000),
    libraries_length=512,
    training_lengths=(256, 1024),
)
