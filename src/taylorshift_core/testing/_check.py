"""Run all problems on one backend, and hold every result against the definition."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from taylorshift_core._backend import Backend
from taylorshift_core._namespace import device_of
from taylorshift_core._registry import backend_names, backend_of, load_backend
from taylorshift_core.errors import BackendError
from taylorshift_core.testing._place import EPS, Place
from taylorshift_core.testing._problems import problems
from taylorshift_core.testing._report import DTYPES, Finding, Report
from taylorshift_core.testing._ways import Results, ways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from taylorshift_core.testing._problems import Problem

    Transform = Callable[[Callable[[dict[str, Any]], list[Any]]], Callable[[dict[str, Any]], list[Any]]]

Array = Any
_NARROW = ("float16", "bfloat16")
_ROUNDINGS = 4  # a gradient is a chain of four sums: scores, sums, what goes back through both
_FOR_TESTS = {"from_numpy", "to_numpy", "devices", "wait", "peak_memory"}  # fields that attention does not use


def _as_it_is(function: Any) -> Any:
    return function


def check_backend(
    backend: Backend | str,
    *,
    dtypes: Sequence[str] | None = None,
    devices: Sequence[Any] | None = None,
    transform: Transform = _as_it_is,
    thin: int = 1,
) -> Report:
    """Run the conformance suite against one adapter, of this distribution or any other.

    Parameters
    ----------
    backend : Backend or str
        The adapter, or the name that it is registered by. Its library must be served by it: registered under the entry
        points ``taylorshift_core.backends``, or, for a library without an adapter, a Backend of generic fields.
    dtypes
        Of "float64", "float32", "float16", "bfloat16", those that must be there; by default float32, and of the others
        those that the library has.
    devices
        Where to run; by default all of ``backend.devices()``.
    transform
        Applied to every function that is checked, from a dict of arrays to a list of arrays: ``jax.jit``,
        ``torch.compile``.
    thin
        Run in each dtype on each device only one problem in so many, in the next dtype, or on the next device, others:
        for libraries that compile for every shape.

    Returns
    -------
    Report
        Every result, and the table of the largest errors.

    Raises
    ------
    AssertionError
        One, that lists all failures: values too far from the definition in float64, a result of another library, shape,
        dtype or device, an input that was written, what stands behind a mask coming through, an exception.
    BackendError
        If arrays of the library are not served by this adapter.

    Examples
    --------
    >>> report = check_backend("numpy")
    >>> report.dtypes
    ('float64', 'float32', 'float16')
    """
    report = measure_backend(backend, dtypes=dtypes, devices=devices, transform=transform, thin=thin)
    report.check()
    return report


def measure_backend(
    backend: Backend | str,
    *,
    dtypes: Sequence[str] | None = None,
    devices: Sequence[Any] | None = None,
    transform: Transform = _as_it_is,
    thin: int = 1,
) -> Report:
    """Return what `check_backend` finds, failures too, without raising for them."""
    if isinstance(backend, str):
        backend = load_backend(backend)
    _check_served(backend)
    where = tuple(backend.devices() if devices is None else devices)
    findings = [
        Finding("devices", "any", "an array", "float32", str(device), fault=fault)
        for device, fault in _lost(backend, where)
    ]
    turn = 0
    for device in where or (None,):
        places = [Place(backend, dtype, device) for dtype in (DTYPES if dtypes is None else dtypes)]
        there = [place for place in places if place.exists]
        for place in there:
            chosen = problems()[turn % thin :: thin]
            findings += [each for problem in chosen for each in _findings(place, problem, transform)]
            turn += 1
        missing = {place.dtype for place in places} - {place.dtype for place in there}
        for dtype in missing if dtypes is not None else missing & {"float32"}:
            findings.append(Finding("dtypes", "any", "an array", dtype, str(device or ""), fault="cannot be made"))
    return Report(backend.name, tuple(map(str, where)), tuple(findings))


def _check_served(backend: Backend) -> None:
    """Raise unless `attention` would use this Backend for arrays that it makes."""
    serving = backend_of(array=backend.from_numpy(np.zeros((1, 1), np.float32)))
    names = {each.name for each in fields(Backend)} - _FOR_TESTS
    differing = [name for name in sorted(names) if getattr(serving, name) != getattr(backend, name)]
    if serving is not backend and (differing or backend.name in backend_names()):
        msg = (
            f"arrays of {backend.name} must be served by the Backend that is checked; got one for {serving.name} that "
            f"differs in {', '.join(differing) or 'what tests use'}. Register it: an entry point in the group "
            f"'taylorshift_core.backends', named as the library is imported, and install it."
        )
        raise BackendError(msg)


def _lost(backend: Backend, devices: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Yield the devices whose arrays come to stand where those of another one do."""
    found: list[Any] = []
    for device in devices:
        stands = device_of(backend.from_numpy(np.zeros((1, 1), np.float32), device=device))
        if stands is not None and stands in found:
            yield device, f"made there stands on {stands}"
        found.append(stands)


def _findings(place: Place, problem: Problem, transform: Transform) -> Iterator[Finding]:
    gradients = place.backend.no_gradients is None
    for row, form, way in ways(problem, gradients=gradients):
        about: dict[str, Any] = {
            "row": row,
            "problem": problem.name,
            "dtype": place.dtype,
            "device": str(place.device or ""),
        }
        for behind in (None, math.nan) if problem.hidden() is not None else (None,):
            try:
                given = place.given(problem, behind_masks=behind)
                results = _results(transform, partial(way, problem, form), given)
                yield from _compared(place, problem, results, given, about)
                fault = _written(place, given, place.given(problem, behind_masks=behind))
                yield Finding(**about, result="an input", fault=fault)
            except Exception as error:  # noqa: BLE001  whatever an adapter raises is a failure of this problem
                yield Finding(**about, result="the call", fault=f"raised {type(error).__name__}: {error}")


def _results(transform: Transform, way: Callable[[dict[str, Array]], Results], given: dict[str, Array]) -> Results:
    """Return the results of a way, transformed as a function from arrays to arrays."""
    names: list[str] = []

    def compute(given: dict[str, Array]) -> list[Array]:
        found = way(given)
        names[:] = [name for name, _ in found]
        return [array for _, array in found]

    arrays = transform(compute)(given)
    return list(zip(names, arrays, strict=True))


def _compared(
    place: Place, problem: Problem, results: Results, given: dict[str, Array], about: dict[str, Any]
) -> Iterator[Finding]:
    for name, actual in results:
        if name not in problem.expected:
            continue
        expected, source = problem.expected[name], name.removeprefix("gradient of ")
        like = given.get(source, given["query"])
        fault = place.faults(actual, like, expected.shape, summed=source == "scale" and "scale" not in given)
        if fault:
            yield Finding(**about, result=name, fault=fault)
            continue
        error = float(np.max(np.abs(place.exact(actual) - expected), initial=0.0))
        size = problem.sizes[name] or 1.0
        yield Finding(**about, result=name, error=error / size, allowed=_allowed(place, problem, name))


def _allowed(place: Place, problem: Problem, name: str) -> float:
    """Return the relative error of sums in random order; of narrow dtypes one spacing, since sums are kept in float32."""
    if place.dtype in _NARROW:
        return EPS[place.dtype]
    terms = problem.terms
    if name.startswith("gradient"):  # each may be summed over the axes along which its operand broadcasts
        *leading, queries, _ = problem.arrays["query"].shape
        terms = _ROUNDINGS * (terms + queries) * math.prod(leading) * max(1, queries)
    return 4 * EPS[place.dtype] * math.sqrt(terms)


def _written(place: Place, given: dict[str, Array], again: dict[str, Array]) -> str:
    """Say which input is no longer what it was."""
    changed = [name for name in given if place.exact(given[name]).tobytes() != place.exact(again[name]).tobytes()]
    return f"was written: {', '.join(changed)}" if changed else ""
