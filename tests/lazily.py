"""Dask with computing forbidden, so that what is done early is seen."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def computing_nothing() -> Iterator[None]:
    """Let any computation of Dask raise."""
    import dask

    def scheduler(*_: Any, **__: Any) -> None:
        msg = "a Dask array was computed early"
        raise AssertionError(msg)

    with dask.config.set(scheduler=scheduler):
        yield
