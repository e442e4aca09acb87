"""What is measured: problems, and how long to take for them."""

from __future__ import annotations

import itertools

from taylorshift_core.cli._speeds import Case

HEADS = 4
HEAD_DIMS = (16, 32, 64)
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
DTYPE = "float32"

FORMS = tuple(Case(HEADS, length, head_dim) for head_dim, length in itertools.product(HEAD_DIMS, LENGTHS))
SECONDS, FEWEST_ROUNDS, MOST_ROUNDS = 0.5, 5, 40  # of one contestant on one case
LONGEST = 2.0  # seconds of a call: who takes longer is timed in fewer rounds, and not on longer sequences

# Sizes of the square product that stands for the peak: large enough for its best rate, small enough for a quick round.
PEAK = 1536

# Both sides of every crossover, for the choice of form="auto".
CHOICE = (
    *(
        Case(2 if head_dim * length > 1 << 18 else 4, length, head_dim)
        for head_dim in (8, 16, 32, 64)
        for length in (16, 64, 150, 300, 600, 1200, 2400, 4800, 16384)
        if head_dim * length < 1 << 19
    ),
    *(Case(1, length, 128) for length in (16, 128, 1024, 4096, 8192)),
    *(Case(8, length, head_dim, kv_heads=2) for head_dim in (16, 32) for length in (64, 250, 500, 1000, 3000)),
    *(Case(2, length, 64, key_length=keys) for length, keys in ((16, 4096), (200, 4096), (4096, 200), (1, 9000))),
    *(Case(2, length, 16, key_length=keys) for length, keys in ((16, 4096), (100, 2000), (4096, 100))),
    *(Case(4, length, 32, value_dim=value_dim) for length in (300, 1000) for value_dim in (8, 96)),
    *(Case(4, length, head_dim, is_causal=True) for head_dim in (16, 32) for length in (128, 512, 1500, 3000)),
    Case(2, 1000, 64, is_causal=True),
    Case(2, 4000, 64, is_causal=True),
    *(Case(4, length, 32, masked=True) for length in (200, 700, 2000)),
)

LINEAR = (4096, 16_384, 65_536, 262_144, 1_000_000)  # tokens, one head, head_dim 32
SMALL = Case(8, 64, 32)
