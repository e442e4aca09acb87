"""Where a measurement was made: processor, versions, threads, and which BLAS with which kernel."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = ("taylorshift-core", "numpy", "torch", "jax", "taylor-series-linear-attention")


def machine() -> dict[str, Any]:
    """Return what is worth knowing, as text and numbers."""
    import threadpoolctl

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _DISTRIBUTIONS if (version := _version(name))},
        "threads": [
            {key: pool.get(key) for key in ("internal_api", "version", "num_threads", "architecture")}
            for pool in threadpoolctl.threadpool_info()
        ],
        "variables": {
            name: text for name, text in os.environ.items() if name.startswith(("OPENBLAS_", "OMP_", "MKL_"))
        },
    }
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
