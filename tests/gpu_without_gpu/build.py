"""Build the simulated CUDA: once for each environment, a quarter of a minute.

CuPy's wheel contains the CUDA runtime inside one of its modules. That module is compiled again, from CuPy's own
source, without it; the functions of the runtime are then found in `libcuda.so.1`, our library, which is also the
driver and cuBLAS. The installed wheel itself is not changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from gpu_without_gpu.toolchain import NATIVE, compile_library, include_flags, package_folder

RUNTIME_MODULE = "cupy_backends.cuda.api.runtime"
LIBRARY = "libcuda.so.1"
# CuPy loads these by name. They may be empty: all functions are found in LIBRARY, which is loaded before.
EMPTY = ("libnvJitLink.so.12", "libcublasLt.so.12", "libcublas.so.12")
_CONSTANTS = "CUPY_USE_CUDA_PYTHON=False CUPY_CUFFT_STATIC=False CUPY_CUDA_VERSION=12090 CUPY_HIP_VERSION=0"
_DIRECTIVES = "embedsignature=True binding=False c_api_binop_methods=True freethreading_compatible=True"


def ensure_built(folder: Path) -> Path:
    """Build into `folder` what is missing or out of date there; return the path of the rebuilt module."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build_libraries(folder)
        module = folder / f"runtime-{version('cupy-cuda12x')}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if not module.exists():
            with tempfile.TemporaryDirectory() as scratch:
                _build_runtime_module(_cupy_source(Path(scratch)), module)
    return module


def _build_libraries(folder: Path) -> None:
    sources = sorted(NATIVE.glob("*.*"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    mark = folder / "digest"
    if mark.exists() and mark.read_text() == digest:
        return
    units = [path for path in sources if path.suffix == ".cpp"]
    compile_library(folder / LIBRARY, units, "-O2", *include_flags(), f"-Wl,-soname,{LIBRARY}")
    for name in EMPTY:
        compile_library(folder / name, [], f"-Wl,-soname,{name}")
    mark.write_text(digest)


def _cupy_source(folder: Path) -> Path:
    """Return a folder of CuPy's source, which pip fetches (4 MB)."""
    release = f"cupy-{version('cupy-cuda12x')}"
    download = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    # With its stubs CuPy can describe itself, as pip wants it to, where there is no CUDA toolkit.
    environment = os.environ | {"CUPY_INSTALL_USE_STUB": "1"}
    request = [sys.executable, *download, "--dest", str(folder), release.replace("-", "==")]
    subprocess.run(request, check=True, env=environment)
    with tarfile.open(folder / f"{release}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / release


def _build_runtime_module(source: Path, module: Path) -> None:
    """Translate CuPy's runtime module with the settings of CuPy's own build, and compile it."""
    path = Path(*RUNTIME_MODULE.split("."))
    constants = [word for pair in _CONSTANTS.split() for word in ("-E", pair)]
    directives = [word for pair in _DIRECTIVES.split() for word in ("-X", pair)]
    cython = [sys.executable, "-m", "cython", "-3", "--cplus", *constants, *directives, f"{path}.pyx"]
    subprocess.run(cython, check=True, cwd=source, capture_output=True)
    include = include_flags(
        Path(sysconfig.get_paths()["include"]), package_folder("numpy") / "_core" / "include", source / "cupy_backends"
    )
    # The header of the profiler is in none of NVIDIA's wheels.
    profiler = [f"-DcudaProfiler{name}()=cudaSuccess" for name in ("Start", "Stop")]
    flags = ["-O1", "-DCUPY_CACHE_KEY=simulated", "-DINCLUDE_GUARD_CUDA_CUPY_PROFILER_H", *profiler, *include]
    compile_library(module, [source / f"{path}.cpp"], *flags)
