"""What the conformance kit found, and the table of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DTYPES = ("float64", "float32", "float16", "bfloat16")
_SHOWN = 20  # failures spelled out in one error


@dataclass(frozen=True)
class Finding:
    """One result of one problem.

    Parameters
    ----------
    row
        The row of the table that it counts in.
    problem, result, dtype, device
        What was computed, and where.
    error, allowed
        The largest error and the one allowed, relative to the largest entry of the output, or to the largest sum of
        absolute terms of a gradient.
    fault
        What is wrong beside the error: an exception, a shape, a dtype; "" where nothing is.
    """

    row: str
    problem: str
    result: str
    dtype: str
    device: str
    error: float = 0.0
    allowed: float = 0.0
    fault: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything is wrong; an error of NaN is."""
        return bool(self.fault) or not self.error <= self.allowed

    def __str__(self) -> str:
        place = f"{self.dtype}, {self.device}" if self.device else self.dtype
        what = self.fault or f"has error {self.error:.2g}, allowed {self.allowed:.2g}"
        return f"{self.row}, {place}, problem {self.problem!r}: {self.result} {what}"


@dataclass(frozen=True)
class Report:
    """All that was found about one backend; prints as a table of the largest errors.

    Parameters
    ----------
    backend
        Its name.
    devices
        The devices that were checked, as text.
    findings
        One for each result.
    """

    backend: str
    devices: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that are wrong."""
        return tuple(each for each in self.findings if each.failed)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that were checked."""
        return tuple(dtype for dtype in DTYPES if any(each.dtype == dtype for each in self.findings))

    @property
    def errors(self) -> dict[str, dict[str, float]]:
        """The largest error of each row of the table in each dtype."""
        largest: dict[str, dict[str, float]] = {}
        for each in self.findings:
            row = largest.setdefault(each.row, {})
            row[each.dtype] = max(row.get(each.dtype, 0.0), float("inf") if each.error != each.error else each.error)
        return largest

    def check(self) -> None:
        """Raise one AssertionError that lists all failures."""
        if self.failures:
            shown = [f"  {each}" for each in self.failures[:_SHOWN]]
            more = len(self.failures) - len(shown)
            lines = [*shown, f"  and {more} more"] if more else shown
            msg = f"backend {self.backend} fails {len(self.failures)} of {len(self.findings)} checks:\n" + "\n".join(
                lines
            )
            raise AssertionError(msg)

    def table(self, *, markdown: bool = False) -> str:
        """Return the largest errors: a line for each form, a column for each dtype."""
        rows = [("", *self.dtypes)]
        rows += [(row, *(_shown(found, dtype) for dtype in self.dtypes)) for row, found in sorted(self.errors.items())]
        return _markdown(rows) if markdown else _plain(rows)

    def __str__(self) -> str:
        places = f" on {', '.join(self.devices)}" if self.devices else ""
        title = f"{self.backend}{places}: {len(self.findings)} checks, {len(self.failures)} failed; largest errors"
        return f"{title}\n{self.table()}"


def _shown(errors: dict[str, float], dtype: str) -> str:
    return f"{errors[dtype]:.1e}" if dtype in errors else "–"


def _plain(rows: list[Any]) -> str:
    first = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:<{first}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def _markdown(rows: list[Any]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "| --- " + "| ---: " * (len(rows[0]) - 1) + "|", *body])
