"""``python tests/gpu_report.py NAME``: the GPUs of this machine, the versions, and the largest errors of a library there."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from taylorshift_core import __version__, load_backend
from taylorshift_core.testing import measure_backend

if TYPE_CHECKING:
    from collections.abc import Iterator


def machine(name: str) -> Iterator[tuple[str, str]]:
    """Yield what is to be known of this machine, the GPUs as the library sees them."""
    yield "taylorshift-core", __version__
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    for package in metadata.packages_distributions()[name]:
        yield package, metadata.version(package)
    if name == "cupy":
        import cupy

        runtime = cupy.cuda.runtime
        yield "CUDA", f"runtime {runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}"
        for number in range(runtime.getDeviceCount()):
            found = runtime.getDeviceProperties(number)
            yield f"device {number}", f"{found['name'].decode()}, compute capability {found['major']}.{found['minor']}"
    else:
        import torch

        yield "CUDA", f"runtime {torch.version.cuda}"
        for number in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(number)
            yield f"device {number}", f"{torch.cuda.get_device_name(number)}, compute capability {major}.{minor}"


def report(name: str) -> str:
    """Return the report on one library as text."""
    backend = load_backend(name)
    gpus = [device for device in backend.devices() if "cuda" in str(device).lower()]
    found = measure_backend(backend, devices=gpus)
    lines = [f"{what:<18}{text}" for what, text in machine(name)]
    return "\n".join([*lines, "", str(found), *map(str, found.failures)])


if __name__ == "__main__":
    print(report(sys.argv[1]))
