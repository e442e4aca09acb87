"""A forward and a backward pass of both forms, in NumPy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from taylorshift_core import attention_vjp
from taylorshift_core.cli.figures.contestants import DIRECT, EFFICIENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    Array = np.ndarray[Any, Any]
    Train = Callable[[Sequence[Array]], Callable[[], Any]]


def _numpy(form: str, arrays: Sequence[Array]) -> Callable[[], Any]:
    """Return both passes; the value stands in for the gradient that comes back to the output."""
    query, key, value = arrays
    return lambda: attention_vjp(query, key, value, form=form)[1](value)


TRAINERS = {EFFICIENT: partial(_numpy, "efficient"), DIRECT: partial(_numpy, "direct")}
