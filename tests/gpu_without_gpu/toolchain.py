"""g++, the headers it needs, and the folder that keeps what it makes."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

COMPILER = os.environ.get("CXX", "g++")
NATIVE = Path(__file__).parent / "native"


def check_platform() -> None:
    """Raise RuntimeError where nothing can be simulated."""
    here = sys.platform, platform.machine()
    if here != ("linux", "x86_64"):
        msg = f"simulated CUDA devices need Linux on x86-64; got {' on '.join(here)}. Test CuPy there on a GPU: nox -s tests-gpu"
        raise RuntimeError(msg)
    if shutil.which(COMPILER) is None:
        msg = f"simulated CUDA devices need a C++ compiler, g++ 12 or newer; got CXX={COMPILER}, which is not there"
        raise RuntimeError(msg)


def cache_folder() -> Path:
    """Return $GPU_WITHOUT_GPU_CACHE, or a folder inside the virtual environment."""
    chosen = os.environ.get("GPU_WITHOUT_GPU_CACHE")
    return Path(chosen).absolute() if chosen else Path(sys.prefix) / "cache" / "gpu_without_gpu"


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        msg = f"the package {name} is not installed; it belongs to the dependency group tests-cupy"
        raise ModuleNotFoundError(msg)
    return Path(next(iter(spec.submodule_search_locations)))


def include_flags(*folders: Path) -> list[str]:
    """Return the flags for `folders`, our own sources and NVIDIA's headers."""
    nvidia = [package_folder(f"nvidia.{name}") / "include" for name in ("cuda_runtime", "cuda_nvcc")]
    return [f"-I{folder}" for folder in (NATIVE, *folders, *nvidia)]


def cupy_include_flags() -> list[str]:
    """Return the flags for the headers that CuPy carries for its kernels."""
    headers = package_folder("cupy") / "_core" / "include"
    cccl = [headers / "cupy" / "_cccl" / name for name in ("libcudacxx", "thrust", "cub")]
    return [f"-I{folder}" for folder in (headers, *cccl)]


def run_compiler(output: Path, *words: str) -> None:
    """Make `output`, all at once: another process may be looking for it."""
    unfinished = output.with_suffix(f".{os.getpid()}")
    done = subprocess.run([COMPILER, *words, "-o", str(unfinished)], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{COMPILER} failed:\n{done.stderr[:4000]}"
        raise RuntimeError(msg)
    unfinished.replace(output)


def compile_library(output: Path, sources: list[Path], *flags: str) -> None:
    """Make a shared library. Functions that it lacks are looked up when they are called."""
    run_compiler(output, "-shared", "-fPIC", "-std=c++17", "-w", *flags, *map(str, sources), "-Wl,-z,lazy")
