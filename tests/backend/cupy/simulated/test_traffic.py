"""CuPy on two simulated devices: every public function stays on its device and stream, copies nothing and never waits."""

from __future__ import annotations

from typing import Any

import cupy
import ml_dtypes
import numpy as np
import pytest
from calls import CALLS, Call, assert_close, tokens
from gpu_without_gpu.traffic import Traffic, forbid_copies_to_host, traffic

from taylorshift_core import attention, explain

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
each_device = pytest.mark.parametrize("number", [0, 1])


def on_device(number: int, dtype: Any = np.float32) -> dict[str, Any]:
    """Return the tokens on a device; the masks stay boolean."""
    with cupy.cuda.Device(number):
        return {name: cupy.asarray(x if x.dtype == np.bool_ else x.astype(dtype)) for name, x in tokens().items()}


def exact(array: Any) -> Any:
    """Return an array of a device in float64 on the host; a mask as it is."""
    host = array.get()
    return host if host.dtype == np.bool_ else host.astype(np.float64)


@pytest.mark.shows(where="no GPU: these devices are simulated on the CPU")
@each_device
@pytest.mark.parametrize("precision", DTYPES)
@each_call
def test_nothing_but_launches(call: Call, precision: str, number: int) -> None:
    x = on_device(number, DTYPES[precision])
    with forbid_copies_to_host(), traffic() as seen:
        results = call.run(x)
    assert seen.launches > 0
    assert (seen.copies_to_host, seen.copies_to_device, seen.synchronisations) == (0, 0, 0)
    assert cupy.cuda.Device() == cupy.cuda.Device(0)
    expected = call.expected({name: exact(each) for name, each in x.items()})
    for result, (values, size) in zip(results, expected.values(), strict=True):
        assert result.device == cupy.cuda.Device(number)
        assert_close(exact(result), values, size, float(ml_dtypes.finfo(result.dtype).eps))


@each_device
@each_call
def test_all_work_is_on_the_current_stream(call: Call, number: int) -> None:
    x = on_device(number)
    with cupy.cuda.Device(number), cupy.cuda.Stream(non_blocking=True), traffic() as seen:
        call.run(x)
    assert seen.launches > 0
    assert seen.launches_on_default_stream == 0


def test_the_default_stream_is_counted() -> None:
    x = on_device(0)
    with traffic() as seen:
        attention(x["query"], x["key"], x["value"])
    assert seen.launches_on_default_stream == seen.launches > 0


def test_a_plan_costs_nothing() -> None:
    x = on_device(1)
    with traffic() as seen:
        explain(x["query"], x["key"], x["value"])
    assert seen == Traffic()
