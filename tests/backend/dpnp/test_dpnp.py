"""dpnp: queues and devices of SYCL; the CPU, cut in two, stands in for two devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import dpctl
import dpnp
import numpy as np
import pytest
from oracle import attention_oracle, causal
from problems import Problem, draw

from taylorshift_core import BackendError, attention, attention_vjp, explain, load_backend

FORMS = ("direct", "efficient")
DPNP = load_backend("dpnp")
ALLOWED = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3}
PROBLEM = Problem(13, 13, 5, 4, heads=4, query_batch=(2,), key_batch=(2,), value_batch=(2,), key_mask="batch, heads")


@pytest.fixture(scope="module")
def queues() -> list[Any]:
    """Return queues of two halves of the first device."""
    device = dpctl.SyclDevice(DPNP.devices()[0])
    halves = device.create_sub_devices(partition=max(device.max_compute_units // 2, 1))
    assert len(halves) >= 2, "these tests need a device of at least two compute units"
    return [dpctl.SyclQueue(half) for half in halves[:2]]


def _inputs(kind: str, problem: Problem, device: Any = None) -> tuple[list[Any], dict[str, Any]]:
    arrays, keywords = draw(problem)
    floats = [DPNP.from_numpy(x.astype(kind), device=device) for x in arrays]
    lazy = {
        name: DPNP.from_numpy(x if x.dtype == bool else x.astype(kind), device=device)
        if isinstance(x, np.ndarray)
        else x
        for name, x in keywords.items()
    }
    return floats, lazy


def _exact(array: Any) -> Any:
    if not isinstance(array, dpnp.ndarray):
        return array
    back = DPNP.to_numpy(array)
    return back if back.dtype == bool else back.astype(np.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("mask", ["absent", "batch", "batch, heads"])
def test_errors_by_dtype(form: str, kind: str, mask: str) -> None:
    problem = dataclasses.replace(PROBLEM, query_length=300, key_length=280, head_dim=32, key_mask=mask)
    inputs, options = _inputs(kind, dataclasses.replace(problem, scale="per head", normalise_output=True))
    actual = DPNP.wait(attention(*inputs, form=form, **options))
    assert actual.dtype == kind
    expected = attention_oracle(*map(_exact, inputs), **{name: _exact(x) for name, x in options.items()})
    error = np.max(np.abs(_exact(actual) - expected)) / np.max(np.abs(expected))
    print(f"dpnp {form} {kind}: error {error:.2e} of max|oracle|")
    assert error <= ALLOWED[kind]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_work_stays_on_the_queue_of_the_arrays(form: str, is_causal: bool, queues: list[Any]) -> None:
    inputs, options = _inputs("float32", PROBLEM, device=queues[1])
    plan = dataclasses.replace(explain(*inputs, form=form), query_tile=7, key_tile=5)
    actual = attention(*inputs, plan=plan, is_causal=is_causal, **options)
    assert actual.sycl_queue == queues[1]
    allowed = causal(13, 13) if is_causal else None
    expected = attention_oracle(*map(_exact, inputs), key_mask=_exact(options["key_mask"]), allowed=allowed)
    np.testing.assert_allclose(_exact(actual), expected, rtol=0, atol=2e-6 * np.max(np.abs(expected)))


def test_arrays_of_two_queues_are_refused() -> None:
    """Two queues of one device count as two devices: dpnp does not compute across them."""
    queues = [dpctl.SyclQueue(DPNP.devices()[0]) for _ in range(2)]  # dpnp cannot name the halves of a device
    first, second = (DPNP.from_numpy(np.ones((3, 2), np.float32), device=queue) for queue in queues)
    with pytest.raises(BackendError, match="all arrays must be on one device"):
        attention(first, second, first)


@pytest.mark.parametrize("form", FORMS)
def test_no_value_is_looked_at(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking the host for a number would wait for the queue."""
    inputs, options = _inputs("float32", dataclasses.replace(PROBLEM, scale="per head", normalise_output=True))

    def looked(*_: Any) -> None:
        msg = "a value was brought to the host"
        raise AssertionError(msg)

    for name in ("__bool__", "__float__", "__int__", "__index__", "asnumpy", "item", "tolist"):
        monkeypatch.setattr(dpnp.ndarray, name, looked)
    monkeypatch.setattr(dpnp, "asnumpy", looked)
    plan = dataclasses.replace(explain(*inputs, form=form), query_tile=7, key_tile=5)
    output, pull = attention_vjp(*inputs, plan=plan, **options)
    pull(output)
    attention(*inputs, plan=plan, is_causal=True, **options)
    with pytest.raises(AssertionError, match="brought to the host"):
        float(output[0, 0, 0, 0])


def test_waiting_is_for_the_queue_of_the_array() -> None:
    class Queue:
        waited = 0

        def wait(self) -> None:
            self.waited += 1

    class Array:
        sycl_queue = Queue()

    array = Array()
    assert DPNP.wait(array) is array
    assert array.sycl_queue.waited == 1


def test_there_is_a_device() -> None:
    assert DPNP.devices()
    for name in DPNP.devices():
        assert DPNP.from_numpy(np.zeros(1), device=name).sycl_queue.sycl_device == dpctl.SyclDevice(name)
