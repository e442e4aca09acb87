"""Which devices PyTorch is said to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from taylorshift_core import load_backend

if TYPE_CHECKING:
    import pytest


def test_a_build_for_cuda_without_a_gpu_has_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a build names its accelerator all the same, and counting its devices is an error where there is no driver."""

    def no_driver() -> int:
        msg = "Found no NVIDIA driver on your system"
        raise RuntimeError(msg)

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", no_driver)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert load_backend("torch").devices() == (torch.device("cpu"),)
