"""The array library under test, chosen by TAYLORSHIFT_TEST_BACKEND (default numpy); a missing one fails, never skips."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np
import pytest
from hypothesis import settings

from taylorshift_core import backend_names, load_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from taylorshift_core import Backend

settings.register_profile("taylorshift", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("taylorshift")


def _plain(function: Callable[..., Any], *arrays: Any, **keywords: Any) -> Any:
    return function(*arrays, **keywords)


def _transposed(library: Library, array: np.ndarray, dtype: str, _folder: Path) -> Any:
    """Store the last two axes the other way round, then turn them back."""
    xp = library.namespace
    return xp.matrix_transpose(library.to_array(np.swapaxes(array, -1, -2).copy(), dtype))


def _strided(library: Library, array: np.ndarray, dtype: str, _folder: Path) -> Any:
    """Take every second token of an array twice as long whose other tokens are NaN."""
    wide = np.full((*array.shape[:-2], 2 * array.shape[-2], array.shape[-1]), np.nan)
    wide[..., ::2, :] = array
    return library.to_array(wide, dtype)[..., ::2, :]


def _offset(library: Library, array: np.ndarray, dtype: str, _folder: Path) -> Any:
    """Cut the tokens and columns out of a larger array that is NaN elsewhere."""
    wide = np.full((*array.shape[:-2], array.shape[-2] + 2, array.shape[-1] + 2), np.nan)
    wide[..., 1:-1, 1:-1] = array
    return library.to_array(wide, dtype)[..., 1:-1, 1:-1]


LAYOUTS: dict[str, Callable[[Library, np.ndarray, str, Path], Any]] = {
    "transposed": _transposed,
    "strided": _strided,
    "offset": _offset,
}


@dataclass(frozen=True)
class Library:
    """What the tests know of one array library beyond its Backend; adding a library is one entry in LIBRARIES."""

    name: str
    dtypes: tuple[str, ...] = ("float64", "float32")
    place: Callable[[Backend], Any] = lambda _backend: None  # the device of the test arrays
    other_place: Callable[[Backend], Any] | None = None  # another device, where there always is one
    freeze: Callable[[Any], Any] = lambda array: array  # an input that cannot be written, where there is such a thing
    call: Callable[..., Any] = _plain  # how a function is called: JAX under jit, Dask with compute forbidden
    session: Callable[[Backend], AbstractContextManager[Any]] = lambda _backend: nullcontext()
    layouts: dict[str, Callable[[Library, np.ndarray, str, Path], Any]] = field(default_factory=LAYOUTS.copy)

    @cached_property
    def backend(self) -> Backend:
        """Load the adapter; raises where the library is missing."""
        return load_backend(self.name)

    @property
    def namespace(self) -> Any:
        """The array-API namespace of the library."""
        return self.backend.namespace

    @cached_property
    def device(self) -> Any:
        """The device test arrays live on, None for the library's own choice."""
        return self.place(self.backend)

    def to_array(self, array: np.ndarray, dtype: str | None = None, *, device: Any = None) -> Any:
        """Return a NumPy array as the library's, on the test device; floating point is rounded to `dtype`."""
        if dtype is not None and array.dtype.kind == "f":
            array = array.astype(dtype if hasattr(np, dtype) else np.float32, copy=False)
        made = self.backend.from_numpy(array, device=self.device if device is None else device)
        if dtype is not None and array.dtype.kind == "f":
            made = self.namespace.astype(made, getattr(self.namespace, dtype), copy=False)
        return self.freeze(made)

    def to_numpy(self, array: Any) -> np.ndarray:
        """Return an array of the library as NumPy's."""
        return np.asarray(self.backend.to_numpy(array))

    def exact(self, array: Any) -> np.ndarray:
        """Return an array of the library in float64, or as it is when boolean; every float we test fits."""
        xp = self.namespace
        if array.dtype == xp.bool:
            return self.to_numpy(array)
        narrow = xp.finfo(array.dtype).bits < 32
        return self.to_numpy(xp.astype(array, xp.float32) if narrow else array).astype(np.float64)

    def bits(self, array: Any) -> bytes:
        """Return the contents as bytes, to see any change at all (NaN and -0.0 too)."""
        return self.to_numpy(array).tobytes()

    def device_of(self, array: Any) -> Any:
        """Return the device of an array, None where the library's arrays do not say."""
        return array_api_compat.device(array) if hasattr(array, "device") else None

    def is_array(self, thing: Any) -> bool:
        """Say whether `thing` is an array of this library."""
        return isinstance(thing, type(self.to_array(np.zeros(1))))

    def run(self, function: Callable[..., Any], *arrays: Any, **keywords: Any) -> Any:
        """Call `function` the way this library is tested, and assert that it wrote into none of its inputs."""
        inputs = [x for x in (*arrays, *keywords.values()) if self.is_array(x)]
        before = [self.bits(x) for x in inputs]
        result = self.backend.wait(self.call(function, *arrays, **keywords))
        assert [self.bits(x) for x in inputs] == before, "an input was written"
        return result


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _fortran(_library: Library, array: np.ndarray, dtype: str, _folder: Path) -> np.ndarray:
    return _read_only(np.asfortranarray(array.astype(dtype)))


def _backwards(_library: Library, array: np.ndarray, dtype: str, _folder: Path) -> np.ndarray:
    """Store tokens and columns last to first, then read them with negative strides."""
    return _read_only(array.astype(dtype)[..., ::-1, ::-1].copy()[..., ::-1, ::-1])


def _mapped(_library: Library, array: np.ndarray, dtype: str, folder: Path) -> np.ndarray:
    """Map the array from a file opened for reading."""
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, array.astype(dtype))
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def _strict_device(backend: Backend) -> Any:
    return backend.namespace.Device("device1")


def _strict_flags(backend: Backend) -> AbstractContextManager[Any]:
    flags: AbstractContextManager[Any] = backend.namespace.ArrayAPIStrictFlags(
        boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
    )
    return flags


LIBRARIES = {
    library.name: library
    for library in (
        Library(
            "numpy",
            freeze=_read_only,
            layouts=LAYOUTS | {"fortran": _fortran, "backwards": _backwards, "mapped": _mapped},
        ),
        Library(
            "array_api_strict",
            place=_strict_device,
            other_place=lambda backend: backend.namespace.Device("CPU_DEVICE"),
            session=_strict_flags,
        ),
        Library("torch", dtypes=("float64", "float32", "float16", "bfloat16")),
    )
}


NAME = os.environ.get("TAYLORSHIFT_TEST_BACKEND", "numpy")
# tests/backend/<name> holds what is asked of one library alone; those of the others are left to their own sessions.
collect_ignore = [f"backend/{other}" for other in backend_names() if other != NAME]


def _under_test() -> Library:
    return LIBRARIES.get(NAME, Library(NAME))


@pytest.fixture(scope="session")
def backend() -> Backend:
    """The Backend under test; missing its library, it is an error here and every test fails."""
    return _under_test().backend


@pytest.fixture(scope="session")
def library(backend: Backend) -> Iterator[Library]:
    """The library under test: its Backend, and how tests make, read and pass its arrays."""
    with _under_test().session(backend):
        yield _under_test()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a dtype or a layout once with each the library has, so that none is skipped."""
    for name, choices in (("dtype", _under_test().dtypes), ("layout", tuple(_under_test().layouts))):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, choices)
