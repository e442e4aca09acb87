"""The conformance kit: what an adapter must do, as data, and the function that holds one against it.

``python -m taylorshift_core.testing NAME`` prints the table of the largest errors of an installed adapter.
"""

from taylorshift_core.testing._check import check_backend, measure_backend
from taylorshift_core.testing._report import Finding, Report

__all__ = ["Finding", "Report", "check_backend", "measure_backend"]
