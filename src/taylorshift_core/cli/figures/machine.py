"""Where a measurement was made: processor, versions, threads, and which BLAS with which kernel."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from taylorshift_core import backend_names

_BESIDE = ("numba", "matplotlib", "taylor-series-linear-attention")  # libraries that no backend is named for


def machine() -> dict[str, Any]:
    """Return what is worth knowing, as text and numbers."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions(),
        "threads": _thread_pools(),
        "variables": {
            name: text for name, text in os.environ.items() if name.startswith(("OPENBLAS_", "OMP_", "MKL_"))
        },
    }


def versions() -> dict[str, str]:
    """Return the versions of this library, of the array libraries installed, and of what is measured beside them."""
    of_module = metadata.packages_distributions()
    libraries = {name: of_module[name][0] for name in ("numpy", *backend_names()) if name in of_module}
    found = {
        name: _version(of) for name, of in (libraries | {name: name for name in ("taylorshift-core", *_BESIDE)}).items()
    }
    return {name: version for name, version in found.items() if version}


def in_one_line(about: dict[str, Any], libraries: tuple[str, ...] = ("taylorshift-core", "numpy")) -> str:
    """Return the machine and the versions of some libraries, for the foot of a figure."""
    kernels = sorted({pool["architecture"] for pool in about["threads"] if pool["architecture"]})
    kernel = f" ({', '.join(kernels)})" if kernels else ""
    here = ", ".join(f"{name} {about['versions'][name]}" for name in libraries if name in about["versions"])
    return f"{about['processor']}{kernel}, {about['cores']} cores, {about['system']}; Python {about['python']}, {here}"


def _thread_pools() -> list[dict[str, Any]]:
    try:
        import threadpoolctl
    except ImportError:
        return []
    names = ("internal_api", "version", "num_threads", "architecture")
    return [{name: pool.get(name) for name in names} for pool in threadpoolctl.threadpool_info()]


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
