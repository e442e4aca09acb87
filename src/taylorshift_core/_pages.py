"""Pages of memory maps: what was read of a file counts as memory of the process until someone gives it back."""

from __future__ import annotations

import mmap
from typing import Any


def release(source: Any) -> None:
    """Give back the pages that were read of a memory map of NumPy, of a view of one, or of what has one as its base.

    They are read again from the file when they are needed. Private maps (mode "c") are left alone: changes live in
    their pages.
    """
    mode = None
    while source is not None and not isinstance(source, mmap.mmap):
        mode = getattr(source, "mode", mode)
        source = getattr(source, "base", None)
    if source is not None and mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
        source.madvise(mmap.MADV_DONTNEED)
