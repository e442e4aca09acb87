"""Whether the NumPy adapter may use what is compiled: numba installed, and not TAYLORSHIFT_COMPILED=0; and in what tiles."""

from __future__ import annotations

import os
from importlib.util import find_spec

TOKENS = (
    192  # of a tile in compiled steps: whole blocks and vectors, and a panel of values stays in the innermost cache
)
COMPILED = os.environ.get("TAYLORSHIFT_COMPILED", "1") != "0" and find_spec("numba") is not None
