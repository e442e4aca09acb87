"""Mistakes that a GPU would punish, or worse would not: each must be seen on the simulated devices."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np
import pytest
from gpu_without_gpu.traffic import Traffic, forbid_copies_to_host, traffic
from problems import Problem, draw

from taylorshift_core import attention, features, load_backend

if TYPE_CHECKING:
    from collections.abc import Callable

OTHER_DEVICE = pytest.raises(ValueError, match="different from the current device")
NOT_PERMITTED = pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="NotPermitted")
ILLEGAL_ADDRESS = pytest.raises(cupy.cuda.driver.CUDADriverError, match="ILLEGAL_ADDRESS")


# ---- bugs planted in an adapter, which the tests of attention must see ----


def run_with(monkeypatch: pytest.MonkeyPatch, number: int = 0, **changes: Any) -> tuple[Any, Traffic]:
    """Return the attention that a changed adapter computes on a device, while device 0 is current, and what it did."""
    backend = dataclasses.replace(load_backend("cupy"), **changes)
    monkeypatch.setattr("taylorshift_core._registry._backend_for", lambda _namespace: backend)
    with cupy.cuda.Device(number):
        inputs = [cupy.asarray(array) for array in draw(Problem(query_length=70, key_length=70, head_dim=7))[0]]
    with forbid_copies_to_host(), traffic() as seen:
        return attention(*inputs, form="efficient"), seen


DECISIONS: dict[str, Callable[[Any], Any]] = {
    "float": lambda x: x * float(x.sum()),
    "int": lambda x: x[: int(x.shape[0] + 0 * x.sum())],
    "bool": lambda x: x if x.any() else -x,
    "get": lambda x: cupy.asarray(x.get()),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_of_the_host(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with NOT_PERMITTED:
        run_with(monkeypatch, pack=DECISIONS[name])


def test_a_device_that_is_not_made_current(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.isfinite(run_with(monkeypatch, 1)[0].get()).all()
    with OTHER_DEVICE:
        run_with(monkeypatch, 1, scope=lambda _array: nullcontext())


def test_a_constant_on_the_wrong_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with cupy.cuda.Device(0):
        constant = cupy.ones(1)
    with OTHER_DEVICE:
        run_with(monkeypatch, 1, pack=lambda x: x * constant)


def test_a_constant_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        run_with(monkeypatch, pack=lambda x: x * np.ones(1))
    assert run_with(monkeypatch)[1].copies_to_device == 0
    assert run_with(monkeypatch, pack=lambda x: x * cupy.asarray([1.0]))[1].copies_to_device > 0


def test_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: dict[str, Callable[[], Any]] = {
        "device": lambda: cupy.cuda.Device().synchronize(),
        "stream": lambda: cupy.cuda.get_current_stream().synchronize(),
        "event": lambda: cupy.cuda.get_current_stream().record().synchronize(),
    }
    for wait in waits.values():
        assert run_with(monkeypatch, pack=lambda x, wait=wait: wait() or x)[1].synchronisations > 0


def test_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(x: Any) -> Any:
        with cupy.cuda.Stream.null:
            return x + 0

    with cupy.cuda.Stream(non_blocking=True):
        assert run_with(monkeypatch)[1].launches_on_default_stream == 0
        assert run_with(monkeypatch, pack=pack)[1].launches_on_default_stream > 0


def test_something_kept_for_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    allocated = run_with(monkeypatch)[1].bytes_in_use
    assert run_with(monkeypatch, pack=lambda x: kept.append(x + 0) or x)[1].bytes_in_use > allocated


def test_a_window_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(xp: Any, x: Any, first: int, last: int) -> Any:
        """Build the features by a window over rows that are not there."""
        *batch, width, tokens = x.shape
        *strides, row, column = x.strides
        shape = (*batch, last - first, width, tokens)
        windows = cupy.lib.stride_tricks.as_strided(x, shape, (*strides, row, row, column))
        n_rows = min(last * width, features.n_features(width)) - first * width
        return (x[..., None, :, :] * windows).reshape(*batch, -1, tokens)[..., :n_rows, :]

    with ILLEGAL_ADDRESS:
        run_with(monkeypatch, feature_tile=too_long)


def test_memory_that_nobody_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.isnan(run_with(monkeypatch, pack=cupy.empty_like)[0].get()).all()


# ---- bugs in kernels of our own ----

ADD_ONE = 'extern "C" __global__ void f(float* x) { %s int i = blockIdx.x * blockDim.x + threadIdx.x; %s x[i] += 1; }'
REVERSE = """extern "C" __global__ void f(float* x) {
  %s
  s[threadIdx.x] = x[threadIdx.x];
  %s
  x[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}"""


def launch(source: str, n: int, grid: Any, block: Any, shared_mem: int = 0) -> Any:
    x = cupy.arange(n, dtype=cupy.float32)
    cupy.RawKernel(source, "f")(grid, block, (x,), shared_mem=shared_mem)
    return x.get()


@pytest.mark.parametrize("barrier", ["", "__syncthreads();"])
def test_an_access_behind_the_end(capfd: pytest.CaptureFixture[str], barrier: str) -> None:
    with ILLEGAL_ADDRESS:
        launch(ADD_ONE % (barrier, ""), 1000, (4,), (256,))
    assert "f: illegal address" in capfd.readouterr().err
    kept = launch(ADD_ONE % (barrier, "if (i < 1000)"), 1000, (4,), (256,))
    np.testing.assert_array_equal(kept, np.arange(1000) + 1)


def test_an_access_to_freed_memory() -> None:
    x = cupy.ones(4)
    kernel = cupy.RawKernel('extern "C" __global__ void f(unsigned long long p) { *(double*)p = 1; }', "f")
    kernel((1,), (1,), (np.uint64(x.data.ptr),))
    late = np.uint64(x.data.ptr)
    del x
    with ILLEGAL_ADDRESS:
        kernel((1,), (1,), (late,))


SHARED = {"static": "__shared__ float s[64];", "dynamic": "extern __shared__ float s[];"}


@pytest.mark.parametrize("kind", SHARED)
def test_a_missing_barrier(kind: str) -> None:
    reversed_ = launch(REVERSE % (SHARED[kind], "__syncthreads();"), 64, (1,), (64,), 256)
    np.testing.assert_array_equal(reversed_, np.arange(63, -1, -1))
    assert np.isnan(launch(REVERSE % (SHARED[kind], ""), 64, (1,), (64,), 256)).any()


def test_too_little_shared_memory() -> None:
    with ILLEGAL_ADDRESS:
        launch(REVERSE % (SHARED["dynamic"], "__syncthreads();"), 64, (1,), (64,), 128)


@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [((1,), (2048,), 0), ((1,), (1, 1, 128), 0), ((1, 70000), (1,), 0), ((1,), (1,), 65536)],
)
def test_a_launch_beyond_the_limits(grid: Any, block: Any, shared: int) -> None:
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
        launch(ADD_ONE % ("", ""), 8, grid, block, shared)


# ---- the simulation itself ----


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("transposed", [False, True])
def test_products(precision: str, transposed: bool) -> None:
    rng = np.random.default_rng(0)
    left, right = (cupy.asarray(rng.standard_normal((33, 33))).astype(precision) for _ in range(2))
    left = left.T if transposed else left
    expected = left.get().astype(np.float64) @ right.get().astype(np.float64)
    eps = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-21, "float64": 2**-50}[precision]
    assert (left @ right).dtype == left.dtype
    np.testing.assert_allclose((left @ right).get().astype(np.float64), expected, atol=16 * eps)


def test_products_on_another_device() -> None:
    with cupy.cuda.Device(1):
        x = cupy.ones((4, 4))
    with pytest.raises(RuntimeError, match="MAPPING_ERROR"):
        x @ x


def python(program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)


def test_activation_comes_first() -> None:
    done = python("import cupy; from gpu_without_gpu.activate import activate; activate()")
    assert "before the first import of cupy" in done.stderr


def test_what_is_not_simulated_says_its_name() -> None:
    program = (
        "from gpu_without_gpu.activate import activate; activate(); import cupy; cupy.cuda.runtime.deviceGetLimit(0)"
    )
    done = python(program)
    assert done.returncode != 0
    assert "cudaDeviceGetLimit" in done.stderr


def test_the_installed_cupy_is_not_changed() -> None:
    done = python("import cupy_backends.cuda.api.runtime as module; print(module.__file__)")
    assert "site-packages" in done.stdout
