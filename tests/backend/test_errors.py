"""Bad input: one error before any work, of the right class, that says the rule, what it got, and the likely cure."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import taylorshift_core
from taylorshift_core import (
    BackendError,
    DTypeError,
    MissingLibraryError,
    OptionError,
    ShapeError,
    TaylorShiftError,
    UnknownBackendError,
    attention,
    attention_weights,
    backend_names,
    explain,
    load_backend,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Library

    Call = Callable[..., Any]

# A batch of views of one entry, as large as all libraries take: whoever begins to compute with it is out of memory at
# once. JAX and ndonnx have no views.
B = 7 if os.environ.get("TAYLORSHIFT_TEST_BACKEND") in {"jax", "ndonnx"} else 2**31 - 1
FUNCTIONS = pytest.mark.parametrize("function", [attention, explain, attention_weights])


def _call(function: Call, arrays: tuple[Any, Any, Any], **keywords: Any) -> Any:
    return function(*arrays[: 2 if function is attention_weights else 3], **keywords)


def _kind(library: Library, kind: str) -> str:
    return kind if hasattr(library.namespace, kind) else "int64"  # ndonnx has no complex numbers


def _refused(error: type[TaylorShiftError], got: str, function: Call, arrays: tuple[Any, ...], **keywords: Any) -> None:
    """Raise unless the call is refused by `error` with advice: a rule, "got" and what, and the likely cure."""
    with pytest.raises(error) as caught:
        _call(function, arrays, **keywords)
    assert type(caught.value) is error
    message = str(caught.value)
    rule, _, rest = message.partition("got ")
    assert "must" in rule, message
    assert re.search(got, rest), message
    # The cure is a sentence after what was got, or the rule is one: it lists all that may be written instead.
    assert re.search(r"\. .*[.?]$", rest) or re.search(r"one of | or |at least|finite|>=|three numbers", rule), message
    assert "\n" not in message
    assert len(message) < 500


def _views(library: Library, *shapes: tuple[int, ...], dtype: str = "float32") -> Any:
    """Return arrays of these shapes as views of one entry, which need no memory until one computes with them."""
    xp = library.namespace
    one = library.to_array(np.ones(1), dtype)
    return tuple(xp.broadcast_to(xp.reshape(one, (1,) * len(shape)), shape) for shape in shapes)


def _good(library: Library) -> Any:
    return _views(library, (B, 4, 5, 3), (B, 2, 5, 3), (B, 2, 5, 3))


SHAPES = {
    "vectors": [(3,), (3,), (3,)],
    "fewer axes of key": [(B, 2, 5, 3), (2, 5, 3), (2, 5, 3)],
    "more axes of key": [(B, 2, 5, 3), (1, B, 2, 5, 3), (1, B, 2, 5, 3)],
    "head_dim": [(B, 2, 5, 3), (B, 2, 5, 4), (B, 2, 5, 3)],
    "heads that do not divide": [(B, 3, 5, 3), (B, 2, 5, 3), (B, 2, 5, 3)],
    "more kv heads than heads": [(B, 2, 5, 3), (B, 4, 5, 3), (B, 4, 5, 3)],
    "no kv heads": [(B, 2, 5, 3), (B, 0, 5, 3), (B, 0, 5, 3)],
    "batch": [(2, B, 2, 5, 3), (3, B, 2, 5, 3), (3, B, 2, 5, 3)],
    "batch of one axis": [(B, 2, 5, 3), (B - 1, 2, 5, 3), (1, 2, 5, 3)],
    "no head_dim": [(B, 2, 5, 0), (B, 2, 5, 0), (B, 2, 5, 3)],
}
VALUE_SHAPES = {
    "axes": [(B, 2, 5, 3), (B, 2, 5, 3), (2, 5, 3)],
    "length": [(B, 2, 5, 3), (B, 2, 5, 3), (B, 2, 6, 3)],
    "length of one": [(B, 2, 5, 3), (B, 2, 5, 3), (B, 2, 1, 3)],
    "length without heads": [(5, 3), (5, 3), (6, 3)],
    "heads": [(B, 4, 5, 3), (B, 2, 5, 3), (B, 4, 5, 3)],
    "one head": [(B, 4, 5, 3), (B, 2, 5, 3), (B, 1, 5, 3)],
    "batch": [(2, B, 2, 5, 3), (2, B, 2, 5, 3), (3, B, 2, 5, 3)],
}


@FUNCTIONS
@pytest.mark.parametrize("case", SHAPES)
def test_shapes(library: Library, function: Call, case: str) -> None:
    shapes = SHAPES[case]
    shown = ".*".join(re.escape(str(shape)) for shape in shapes[: 2 if function is attention_weights else 3])
    _refused(ShapeError, shown, function, _views(library, *shapes))


@pytest.mark.parametrize("function", [attention, explain])
@pytest.mark.parametrize("case", VALUE_SHAPES)
def test_shapes_of_value(library: Library, function: Call, case: str) -> None:
    shapes = VALUE_SHAPES[case]
    shown = ".*".join(re.escape(str(shape)) for shape in shapes[1:])
    _refused(ShapeError, shown, function, _views(library, *shapes))


def test_lengths_that_differ_ask_for_the_order_of_axes(library: Library) -> None:
    with pytest.raises(ShapeError, match=r"did you pass \(\.\.\., length, heads, dim\)\?"):
        attention(*_views(library, (B, 2, 5, 3), (B, 2, 5, 3), (B, 2, 6, 3)))


@FUNCTIONS
@pytest.mark.parametrize("kind", ["int32", "bool", "complex64"])
@pytest.mark.parametrize("places", [(0,), (1,), (0, 1), (0, 1, 2)])
def test_kinds_of_numbers(library: Library, function: Call, kind: str, places: tuple[int, ...]) -> None:
    arrays, kind = list(_good(library)), _kind(library, kind)
    for place in places:
        arrays[place] = library.namespace.broadcast_to(library.to_array(np.ones(1, dtype=kind)), arrays[place].shape)
    _refused(DTypeError, kind, function, tuple(arrays))


@FUNCTIONS
@pytest.mark.parametrize("place", [0, 1])
def test_dtypes_that_differ(library: Library, function: Call, place: int) -> None:
    other = next(d for d in (*library.dtypes, "float16") if d != "float32")
    arrays = list(_good(library))
    arrays[place] = library.namespace.broadcast_to(library.to_array(np.ones(1), other), arrays[place].shape)
    _refused(DTypeError, f"{other}.*float32|float32.*{other}", function, tuple(arrays))


NO_ARRAYS = {"list": [[1.0]], "None": None, "float": 1.0, "str": "query", "tuple": ((1.0,),)}


@FUNCTIONS
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_things_that_are_no_arrays(library: Library, function: Call, kind: str, place: int) -> None:
    arrays = list(_good(library))
    arrays[place] = NO_ARRAYS[kind]
    _refused(BackendError, "", function, tuple(arrays))


class Sparse:
    """An array of the library sparse, as far as its class and namespace tell."""

    __module__ = "sparse.numba_backend._coo.core"
    shape, ndim, dtype, device = (2, 4, 3), 3, np.dtype("float32"), "cpu"
    namespace = ModuleType("sparse")

    def __array_namespace__(self, api_version: str | None = None) -> ModuleType:
        return self.namespace


@FUNCTIONS
def test_sparse_arrays(library: Library, function: Call) -> None:
    with pytest.raises(BackendError, match=r"sparse.*dense"):
        _call(function, (Sparse(), Sparse(), Sparse()))


@FUNCTIONS
@pytest.mark.parametrize("place", [0, 1])
def test_libraries_that_differ(library: Library, function: Call, place: int) -> None:
    other = "array_api_strict" if library.name == "numpy" else "numpy"
    arrays = list(_good(library))
    arrays[place] = load_backend(other).from_numpy(np.ones((2, 2, 5, 3), dtype=np.float32))
    _refused(BackendError, f"{library.name}.*{other}|{other}.*{library.name}", function, tuple(arrays))


def test_libraries_of_mask_and_scale_that_differ(library: Library) -> None:
    other = load_backend("array_api_strict" if library.name == "numpy" else "numpy")
    for name, array in (("key_mask", np.ones(5, dtype=np.bool_)), ("scale", np.ones(4, dtype=np.float32))):
        _refused(BackendError, other.name, attention, _good(library), **{name: other.from_numpy(array)})


@FUNCTIONS
def test_devices_that_differ(library: Library, function: Call) -> None:
    if library.other_place is None:
        assert len(library.backend.devices()) <= 1, "name a second device in LIBRARIES"
        return
    query, key, value = _good(library)
    other = library.other_place(library.backend)
    there, mask = library.to_array(np.ones((2, 2, 5, 3)), "float32", device=other), np.ones(5, dtype=np.bool_)
    named = re.escape(str(library.device_of(there)))
    _refused(BackendError, f"key on {named}", function, (query, there, value))
    _refused(
        BackendError, f"mask on {named}", function, (query, key, value), key_mask=library.to_array(mask, device=other)
    )


MASK_SHAPES = {
    "no axis": (),
    "too short": (4,),
    "one": (1,),
    "batch that differs": (3, 5),
    "heads that differ": (B, 3, 5),
    "batch and heads exchanged": (4, B, 5),
    "length and batch exchanged": (5, B),
    "more axes": (1, B, 2, 5),
    "a row per query": (B, 4, 5, 5),
}


@FUNCTIONS
@pytest.mark.parametrize("case", MASK_SHAPES)
def test_mask_shapes(library: Library, function: Call, case: str) -> None:
    xp, shape = library.namespace, MASK_SHAPES[case]
    mask = xp.broadcast_to(library.to_array(np.ones((1,) * len(shape), dtype=np.bool_)), shape)
    _refused(ShapeError, re.escape(str(shape)), function, _good(library), key_mask=mask)


@FUNCTIONS
@pytest.mark.parametrize("kind", ["int32", "uint8", "float32"])
def test_mask_kinds(library: Library, function: Call, kind: str) -> None:
    mask = library.namespace.broadcast_to(library.to_array(np.ones(1, dtype=kind)), (5,))
    _refused(DTypeError, kind, function, _good(library), key_mask=mask)


@FUNCTIONS
@pytest.mark.parametrize("mask", [[True, False], True, "all"])
def test_masks_that_are_no_arrays(library: Library, function: Call, mask: object) -> None:
    _refused(BackendError, "", function, _good(library), key_mask=mask)


@pytest.mark.parametrize("function", [attention, explain])
@pytest.mark.parametrize("form", ["fast", "Direct", "", None, 2, ["direct"]])
def test_forms(library: Library, function: Call, form: object) -> None:
    _refused(OptionError, re.escape(repr(form)), function, _good(library), form=form)


@pytest.mark.parametrize("function", [attention, explain])
@pytest.mark.parametrize("objective", ["space", "Time", None, 1])
def test_objectives(library: Library, function: Call, objective: object) -> None:
    _refused(OptionError, re.escape(repr(objective)), function, _good(library), objective=objective)


@pytest.mark.parametrize("plan", [3, "direct", object, {"form": "direct"}])
def test_a_plan_is_what_explain_returns(library: Library, plan: object) -> None:
    _refused(OptionError, re.escape(repr(plan)), attention, _good(library), plan=plan)


@pytest.mark.parametrize("form", ["efficient", "fast", None])
def test_a_form_beside_a_plan_is_that_of_the_plan(library: Library, form: object) -> None:
    plan = explain(*_good(library), form="direct")
    _refused(OptionError, re.escape(repr(form)), attention, _good(library), plan=plan, form=form)


@pytest.mark.parametrize(
    "change", [{"form": "fast"}, {"form": "auto"}, {"query_tile": 0}, {"key_tile": 2.5}, {"offsets": True}]
)
def test_a_plan_that_was_changed(library: Library, change: dict[str, object]) -> None:
    plan = replace(explain(*_good(library)), **change)
    _refused(OptionError, re.escape(repr(*change.values())), attention, _good(library), plan=plan)


def test_a_dense_mask_has_no_efficient_plan(library: Library) -> None:
    query, key, value = _good(library)
    shape = (query.shape[-2], key.shape[-2])
    mask, plan = library.to_array(np.ones(shape, dtype=bool)), explain(query, key, value, form="efficient")
    with pytest.raises(OptionError, match=r"no efficient form.*got"):
        attention(query, key, value, attn_mask=mask, plan=plan)


COEFFICIENTS = {
    "a is zero": (0.0, 1.0, 1.0),
    "a is negative": (-0.5, 1.0, 1.0),
    "negative somewhere": (0.5, 1.0, 0.499),
    "negative at zero": (1.0, 0.0, -0.001),
    "NaN": (0.5, np.nan, 1.0),
    "inf": (0.5, 1.0, np.inf),
    "inf of a": (np.inf, 1.0, 1.0),
    "two": (0.5, 1.0),
    "four": (0.5, 1.0, 1.0, 1.0),
    "one": 0.5,
    "words": ("a", "b", "c"),
    "nothing": None,
    "complex": (0.5, 1j, 1.0),
}


@FUNCTIONS
@pytest.mark.parametrize("case", COEFFICIENTS)
def test_coefficients(library: Library, function: Call, case: str) -> None:
    _refused(OptionError, "", function, _good(library), coefficients=COEFFICIENTS[case])


@FUNCTIONS
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 10**400, "1", 1j, [1.0], (1.0, 2.0), np.float32("nan")])
def test_scales(library: Library, function: Call, scale: object) -> None:
    _refused(OptionError, "", function, _good(library), scale=scale)


@FUNCTIONS
@pytest.mark.parametrize("shape", [(3,), (B, 4), (B, 4, 1), (B, 3, 1, 1), (3, 4, 1, 1), (B, 4, 5, 1), (1, B, 4, 1, 1)])
def test_scale_shapes(library: Library, function: Call, shape: tuple[int, ...]) -> None:
    (scale,) = _views(library, shape)
    with pytest.raises((OptionError, ShapeError), match=rf"must.*got.*{re.escape(str(shape))}"):
        _call(function, _good(library), scale=scale)


@FUNCTIONS
@pytest.mark.parametrize("kind", ["bool", "complex64"])
def test_scale_kinds(library: Library, function: Call, kind: str) -> None:
    kind = _kind(library, kind)
    with pytest.raises((OptionError, DTypeError), match=rf"must.*got.*{kind}"):
        _call(function, _good(library), scale=library.to_array(np.ones(4, dtype=kind)))


def test_options_are_keywords(library: Library) -> None:
    for function in (attention, explain):
        with pytest.raises(TypeError, match="positional"):
            function(*_good(library), "direct")


def test_every_error_is_also_the_built_in_one_a_caller_expects() -> None:
    also = {
        ShapeError: ValueError,
        DTypeError: TypeError,
        OptionError: ValueError,
        BackendError: TypeError,
        UnknownBackendError: LookupError,
        MissingLibraryError: ImportError,
    }
    for error, built_in in also.items():
        assert issubclass(error, TaylorShiftError)
        assert issubclass(error, built_in)
        assert getattr(taylorshift_core, error.__name__) is error
    assert issubclass(UnknownBackendError, BackendError)
    assert issubclass(MissingLibraryError, BackendError)


def test_unknown_backend(library: Library) -> None:
    assert library.name in backend_names()
    with pytest.raises(UnknownBackendError, match=rf"{library.name}.*got 'nunpy'"):
        load_backend("nunpy")
