"""What programs that call NumPy are tried with."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from taylorshift_core import attention

TARGET = "python_cpu_callback"
FORMS = ("direct", "efficient")
attend = partial(attention, form="efficient")


def tokens(dtype: str = "float32", length: int = 100, leading: tuple[int, ...] = (2, 4)) -> list[Any]:
    rng = np.random.default_rng(length)
    return [jnp.asarray(rng.standard_normal((*leading, length, 16)), dtype) for _ in range(3)]


def gradients(*arrays: Any, **options: Any) -> Any:
    """Return the gradients of half the squared length of the output."""
    return jax.grad(lambda *given: jnp.sum(attention(*given, **options) ** 2) / 2, (0, 1, 2))(*arrays)


def by_numpy(*arrays: Any) -> Any:
    """Return the output for NumPy's arrays."""
    return attend(*(np.asarray(each) for each in arrays))
