"""The array library under test, chosen by TAYLORSHIFT_TEST_BACKEND (default numpy); a missing one fails, never skips."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np
import pytest
from hypothesis import settings
from lazily import computing_nothing
from sample import sample, sample_of_other_dtypes

from taylorshift_core import backend_names, load_backend
from taylorshift_core._calibration import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    meeting: int | None = None  # how many choices meet in a sample of the shared tests; None: see `whole`
    whole: tuple[str, ...] = ("float64",)  # dtypes in which all of them are run; in others any two choices meet
    unsuited: frozenset[str] = frozenset()  # tests without their parameters, or files, that ask what it is not made for

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
            with self.backend.scope(made):
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
        if xp.finfo(array.dtype).bits < 32:
            with self.backend.scope(array):
                array = xp.astype(array, xp.float32)
        return self.to_numpy(array).astype(np.float64)

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


def _jitted(function: Callable[..., Any], *arrays: Any, **keywords: Any) -> Any:
    """Compile a call for its arrays; other keywords are constants of it."""
    import jax

    traced = {name: each for name, each in keywords.items() if isinstance(each, jax.Array)}
    constant = {name: each for name, each in keywords.items() if name not in traced}
    return jax.jit(lambda arrays, traced: function(*arrays, **traced, **constant))(arrays, traced)


def _other_queue(backend: Backend) -> Any:
    import dpctl

    return dpctl.SyclQueue(backend.devices()[0])


def _lazily(function: Callable[..., Any], *arrays: Any, **keywords: Any) -> Any:
    with computing_nothing():
        return function(*arrays, **keywords)


STREAMS = frozenset(  # hundreds of calls, each with the state of the last: a graph would grow, a launch or its simulation is slow
    {
        "test_decoder.py::test_errors_do_not_grow_with_the_stream",
        "test_window.py::test_a_bad_token_is_gone_one_window_after_it_left",
        "test_window.py::test_a_window_with_nothing_to_attend_gives_exact_zeros",
        "test_window.py::test_chunks_enter_leave_and_are_summed_anew",
        "test_window.py::test_memory_does_not_grow",
        "test_window.py::test_no_drift",
        "test_window.py::test_the_drift_bound",
    }
)

CALLS = frozenset(  # many calls on arrays with values, or a long one, where each operation goes through an interpreter
    {
        "test_attention.py::test_error_at_4096_tokens",
        "test_causal.py::test_every_way_of_causal_attention",
        "test_causal.py::test_padding_changes_no_bit",
        "test_causal.py::test_what_comes_later_changes_no_bit",
        "test_chunks.py",
        "test_decoder.py",
        "test_packed.py",
        "test_product.py",
        "test_properties.py",
        "test_window.py",
    }
)

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
        Library("jax", meeting=1, call=_jitted, other_place=lambda backend: backend.devices()[1], unsuited=STREAMS),
        Library(
            "cupy",
            meeting=2,
            dtypes=("float64", "float32", "float16", "bfloat16"),
            place=lambda backend: backend.devices()[1],  # while device 0 is the current one
            other_place=lambda backend: backend.devices()[0],
            # Thousands of tokens take minutes where threads of a GPU run one after the other; cupy/simulated/test_memory.py
            # holds the same against the counter of allocations.
            unsuited=STREAMS | {"test_gradients.py::test_memory_grows_with_the_tokens_alone"},
        ),
        Library("dpnp", meeting=2, other_place=_other_queue, unsuited=STREAMS),
        Library("mlx"),
        # test_product.py joins parts without a token, and Dask cannot reshape an array of several blocks that are all empty.
        Library("dask", meeting=1, call=_lazily, unsuited=STREAMS | {"test_product.py"}),
        Library("ndonnx", meeting=1, unsuited=STREAMS | CALLS),
        Library(
            "torch",
            dtypes=("float64", "float32", "float16", "bfloat16"),
            whole=("float64", "float16"),  # NumPy stands in for the one, PyTorch's own operators run in the other
        ),
    )
}


if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes that write one cache of numba at once may leave the machine code of the one under the key of the other.
    os.environ["NUMBA_CACHE_DIR"] = str(Path(sys.prefix, "cache", "numba", os.environ["PYTEST_XDIST_WORKER"]))

NAME = os.environ.get("TAYLORSHIFT_TEST_BACKEND", "numpy")
ON_A_GPU = "TAYLORSHIFT_TEST_GPU" in os.environ  # a real one, see the session tests-gpu
if NAME == "cupy" and not ON_A_GPU:
    from gpu_without_gpu.activate import activate

    activate(devices=2)
# tests/backend/<name> holds what is asked of one library alone; those of the others are left to their own sessions.
collect_ignore = [f"backend/{other}" for other in backend_names() if other != NAME]
if ON_A_GPU:
    collect_ignore += ["backend/cupy/simulated", "backend/torch/test_shadow_cuda.py"]
if load_backend(NAME).no_gradients is not None:  # tests/backend/NAME shows that it says so
    collect_ignore += [f"backend/test_{name}.py" for name in ("autodiff", "gradients", "packed_gradients")]


def _under_test() -> Library:
    library = LIBRARIES.get(NAME, Library(NAME))
    return _on_a_gpu(library) if ON_A_GPU else library


def _on_a_gpu(library: Library) -> Library:
    """Return the library with its arrays on the last GPU, while the first is the current one; it runs all tests there."""
    *others, last = (device for device in library.backend.devices() if "cuda" in str(device).lower())
    other_place = (lambda _: others[0]) if others else None
    return replace(library, place=lambda _: last, other_place=other_place, meeting=None, unsuited=frozenset())


@pytest.fixture(scope="session", autouse=True)
def _no_measured_speeds(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Plan by the speeds that are shipped, whatever was measured on this machine; processes that tests start, too."""
    os.environ[VARIABLE] = str(tmp_path_factory.getbasetemp() / "no speeds")


@pytest.fixture(scope="session")
def backend() -> Backend:
    """The Backend under test; missing its library, it is an error here and every test fails."""
    return _under_test().backend


@pytest.fixture(scope="session")
def library(backend: Backend) -> Iterator[Library]:
    """The library under test: its Backend, and how tests make, read and pass its arrays."""
    with _under_test().session(backend):
        yield _under_test()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run a sample of the shared tests in all dtypes but the first, and where each shape is compiled or makes a graph."""
    shared = [item for item in items if item.path.parent == Path(__file__).parent / "backend"]
    library = _under_test()
    suited = [item for item in shared if library.unsuited.isdisjoint((_test(item), item.path.name))]
    left = set(shared).difference(_kept(library, suited))
    config.hook.pytest_deselected(items=list(left))
    items[:] = [item for item in items if item not in left]


def _kept(library: Library, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return what the library runs of the shared tests."""
    if library.meeting is not None:
        return sample(items, library.meeting)
    return items if ON_A_GPU else sample_of_other_dtypes(items, library.whole, 2)


def _test(item: pytest.Item) -> str:
    """Return the file and the name of a test, without its parameters."""
    return item.nodeid.partition("[")[0].rpartition("/")[2]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a dtype or a layout once with each the library has, so that none is skipped."""
    for name, choices in (("dtype", _under_test().dtypes), ("layout", tuple(_under_test().layouts))):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, choices)
