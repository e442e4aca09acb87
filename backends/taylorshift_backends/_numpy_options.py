"""Whether the NumPy adapter may use what is compiled: numba installed, and not TAYLORSHIFT_COMPILED=0."""

from __future__ import annotations

import os
from importlib.util import find_spec

COMPILED = os.environ.get("TAYLORSHIFT_COMPILED", "1") != "0" and find_spec("numba") is not None
