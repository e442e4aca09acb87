"""Make ``import cupy`` run on simulated devices."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

from gpu_without_gpu import build, compiler, products
from gpu_without_gpu.toolchain import cache_folder, check_platform

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType

_libraries: list[ctypes.CDLL] = []


class _RuntimeFinder(MetaPathFinder):
    """Answers the import of CuPy's runtime module with our build of it."""

    def __init__(self, module: Path) -> None:
        self.module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != build.RUNTIME_MODULE:
            return None
        return importlib.util.spec_from_file_location(fullname, self.module)


def activate(devices: int = 1) -> None:
    """Simulate CUDA devices for CuPy in this process, until its end; a second call does nothing.

    CuPy's memory pool is switched off, so that each array is an allocation with a fence of its own.

    Raises
    ------
    RuntimeError
        If something has imported CuPy before, and where nothing can be simulated.
    """
    if _libraries:
        return
    if "cupy" in sys.modules:
        msg = "activate() must come before the first import of cupy"
        raise RuntimeError(msg)
    check_platform()
    folder = cache_folder()
    module = build.ensure_built(folder)
    os.environ["GPU_WITHOUT_GPU_DEVICES"] = str(devices)
    os.environ["CUPY_CACHE_DIR"] = str(folder / "kernels")
    os.environ["CUPY_ACCELERATORS"] = ""  # they are machine code of the GPU
    sys.setdlopenflags(os.RTLD_LAZY)  # a function of CUDA that is not simulated is an error when it is called
    _libraries.extend(
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in (build.LIBRARY, *build.EMPTY)
    )
    sys.meta_path.insert(0, _RuntimeFinder(module))
    products.install(library())

    import cupy

    compiler.install(folder / "kernels")
    cupy.cuda.set_allocator(None)


def library() -> ctypes.CDLL:
    """Return the simulated CUDA of this process."""
    return _libraries[0]
