"""g++ in the place of NVRTC: a CUDA kernel becomes a library for this machine's CPU."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from gpu_without_gpu.toolchain import NATIVE, compile_library, cupy_include_flags, include_flags, run_compiler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FLAGS = ("-fPIC", "-std=c++17", "-w", "-O1", "-fpermissive", "-ffp-contract=off")
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
_DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;")


def translate(source: str) -> str:
    """Return CUDA source as C++, with an entry point for each ``__global__`` function."""
    has_barriers = "true" if "__syncthreads" in source else "false"
    body = _DYNAMIC_SHARED.sub(r"\1* \2 = reinterpret_cast<\1*>(gpu_dynamic_shared);", source)
    entries = [f"GPU_KERNEL(gpu_kernel_{name}, {name}, {has_barriers})" for name in _KERNEL.findall(body)]
    return "\n".join(['#include "kernel.h"', body, *entries])


def install(folder: Path) -> None:
    """Put g++ in NVRTC's place inside CuPy; `folder` keeps the compiled kernels."""
    from cupy.cuda import compiler

    headers = [NATIVE / "kernel.h", NATIVE / "launch.h"]
    setting = _digest(_FLAGS, *(path.read_bytes() for path in headers))
    flags = [*_FLAGS, f"-I{folder / setting}", *include_flags(), *cupy_include_flags()]
    precompiled = folder / setting / "kernel.h.gch"  # takes two thirds off the time of each kernel
    if not precompiled.exists():
        precompiled.parent.mkdir(parents=True)
        run_compiler(precompiled, "-x", "c++-header", str(headers[0]), *flags)

    def compile_kernel(source: str, options: Sequence[str] = (), *_: object) -> tuple[bytes, None]:
        """Return, in place of machine code, the name of a library in `folder`."""
        kept = [option for option in options if option.startswith(("-I", "-D"))]
        text = translate(source)
        unit = folder / f"{_digest(setting, kept, text)}.cpp"
        unit.write_text(text)
        try:
            compile_library(unit.with_suffix(".so"), [unit], *flags, *kept)
        except RuntimeError as error:
            raise compiler.CompileException(str(error), source, str(unit), options, "g++") from None
        return unit.with_suffix(".so").name.encode() + b"\0", None

    compiler._get_nvrtc_version = lambda: (12, 9)
    compiler._preprocess = lambda *_: setting  # part of the key in CuPy's own cache of kernels
    compiler._compile_using_nvrtc_no_warning = compile_kernel


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
