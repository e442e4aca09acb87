"""PyTorch."""

from __future__ import annotations

import array_api_compat.torch

from taylorshift_core import Backend

BACKEND = Backend(name="torch", namespace=array_api_compat.torch, pack=lambda a: a.contiguous())
