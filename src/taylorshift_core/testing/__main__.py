"""``python -m taylorshift_core.testing NAME...``: check adapters, and print their largest errors."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from taylorshift_core._registry import backend_names
from taylorshift_core.errors import BackendError
from taylorshift_core.testing._check import measure_backend

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> int:
    """Return 0 if all adapters pass, 1 if one fails, 2 if one is not there."""
    parser = argparse.ArgumentParser(prog="python -m taylorshift_core.testing", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"of {', '.join(backend_names())}, or of your own")
    parser.add_argument("--markdown", action="store_true", help="print the tables alone, in Markdown")
    parser.add_argument("--dtypes", nargs="+", help="demand these dtypes, instead of those that the library has")
    arguments = parser.parse_args(words)
    passed = True
    for name in arguments.names:
        try:
            report = measure_backend(name, dtypes=arguments.dtypes)
        except BackendError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        sys.stdout.write(f"{report.table(markdown=True) if arguments.markdown else report}\n")
        sys.stderr.writelines(f"{each}\n" for each in report.failures)
        passed = passed and not report.failures
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
