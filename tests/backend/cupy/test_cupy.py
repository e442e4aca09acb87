"""What is asked of CuPy alone, on devices of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np
import pytest

from taylorshift_core import BackendError, attention

if TYPE_CHECKING:
    from conftest import Library

    from taylorshift_core import Backend


def test_arrays_come_to_a_device_and_back(backend: Backend) -> None:
    for device in backend.devices():
        array = backend.from_numpy(np.arange(6.0), device=device)
        assert array.device == device
        assert backend.wait(array) is array
        np.testing.assert_array_equal(backend.to_numpy(array), np.arange(6.0))


def test_peak_memory(backend: Backend) -> None:
    def two_at_a_time() -> Any:
        x = cupy.zeros(1 << 20, dtype=cupy.float32)
        x = x + 1  # the old and the new
        return x + 1

    assert backend.peak_memory is not None
    result, n_bytes = backend.peak_memory(two_at_a_time)
    assert float(result[0]) == 2
    assert 2 * result.nbytes <= n_bytes < 3 * result.nbytes


def test_the_current_device_is_left_as_it_was(library: Library) -> None:
    x = library.to_array(np.ones((2, 5, 3)), "float32")
    before = cupy.cuda.Device()
    attention(x, x, x)
    with pytest.raises(BackendError):
        attention(x, x, library.backend.to_numpy(x))
    assert cupy.cuda.Device() == before


def test_bfloat16_is_that_of_ml_dtypes(library: Library) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", exc_type=ModuleNotFoundError)
    x = library.to_array(np.ones((2, 5, 3)), "bfloat16")
    assert attention(x, x, x).dtype == ml_dtypes.bfloat16
