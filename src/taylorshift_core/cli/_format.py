"""Numbers for people: durations and amounts of memory."""

from __future__ import annotations

UNKNOWN = "–"
_TIMES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def duration(*seconds: float) -> str:
    """Return three digits and the unit that fits, of the first and last of several where given: ``12 to 13.5 ms``."""
    unit, size = next((time for time in _TIMES if seconds[-1] >= time[1]), _TIMES[-1])
    return f"{' to '.join(_three_digits(each / size) for each in seconds)} {unit}"


def memory(n_bytes: int | None) -> str:
    """Return an amount of memory: ``3.4 MiB``; a dash where it is not known."""
    if n_bytes is None:
        return UNKNOWN
    unit, size = next((amount for amount in _SIZES if n_bytes >= amount[1]), ("B", 1))
    return f"{n_bytes / size:.1f} {unit}" if size > 1 else f"{n_bytes} B"


def _three_digits(number: float) -> str:
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"
