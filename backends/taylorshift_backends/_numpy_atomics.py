"""What threads without the interpreter need of each other, as LLVM: numbers that all see change at once, and calls by address.

A function takes 64-bit integers, and contiguous arrays of them, whose address is what is written about here.
"""

from __future__ import annotations

import os
import platform
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from taylorshift_backends._numpy_jit import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any
_Value = Any
_WORD, _NOTHING = ir.IntType(64), ir.VoidType()
_PAUSES = 16  # of the processor, before the operating system may give it to another thread
_HAS_PAUSE = platform.machine().lower() in {"x86_64", "amd64"}
_ORDER = "seq_cst"  # all threads see all changes in one order


def _returning(result: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return what makes a function for numba from one that writes it, given a builder of LLVM and the arguments."""

    def decorate(write: Callable[..., Any]) -> Any:
        def function(_: Any, *kinds: Any) -> Any:
            def code(context: Any, builder: Any, _: Any, given: Any) -> Any:
                values = [
                    context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
                    for kind, value in zip(kinds, given, strict=True)
                ]
                found = write(builder, *values)
                return context.get_dummy_value() if result is types.void else found

            return result(*(kind if isinstance(kind, types.Array) else types.int64 for kind in kinds)), code

        names = ["typing", *list(signature(write).parameters)[1:]]
        function.__signature__ = Signature(  # type: ignore[attr-defined]  # numba asks how many arguments there are
            [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        )
        return intrinsic(function)

    return decorate


@_returning(types.int64)
def load(builder: Any, numbers: _Value, place: _Value) -> _Value:
    """Return a number."""
    return builder.load_atomic(builder.gep(numbers, [place]), _ORDER, 8)


@_returning(types.void)
def store(builder: Any, numbers: _Value, place: _Value, number: _Value) -> None:
    """Write a number."""
    builder.store_atomic(number, builder.gep(numbers, [place]), _ORDER, 8)


@_returning(types.int64)
def add(builder: Any, numbers: _Value, place: _Value, more: _Value) -> _Value:
    """Add to a number; return what it was."""
    return builder.atomic_rmw("add", builder.gep(numbers, [place]), more, _ORDER)


@_returning(types.boolean)
def swap(builder: Any, numbers: _Value, place: _Value, before: _Value, after: _Value) -> _Value:
    """Write `after` where `before` stands; tell whether it did."""
    both = builder.cmpxchg(builder.gep(numbers, [place]), before, after, _ORDER, _ORDER)
    return builder.extract_value(both, 1)


@_returning(types.void)
def relax(builder: Any) -> None:
    """Wait for a moment, in which other threads may have the processor."""

    def call_named(name: str, result: Any) -> None:
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, []), name), [])

    for _ in range(_PAUSES if _HAS_PAUSE else 0):
        call_named("llvm.x86.sse2.pause", _NOTHING)
    if os.name == "posix":
        call_named("sched_yield", ir.IntType(32))


@_returning(types.void)
def call(builder: Any, function: _Value, operands: _Value, item: _Value) -> None:
    """Call a function of two numbers at an address."""
    kind = ir.FunctionType(_NOTHING, [_WORD, _WORD]).as_pointer()
    builder.call(builder.inttoptr(function, kind), [operands, item])


@_returning(types.void)
def call_in_team(builder: Any, parallel: _Value, function: _Value, address: _Value) -> None:
    """Have a function of an address called by all threads of a team; `parallel` is the address of ``GOMP_parallel``."""
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(_NOTHING, [pointer, pointer, number, number]).as_pointer()
    given = [builder.inttoptr(each, pointer) for each in (function, address)]
    builder.call(builder.inttoptr(parallel, kind), [*given, number(0), number(0)])  # of its usual size, no flags


@_returning(types.voidptr)
def _pointer(builder: Any, address: _Value) -> _Value:
    return builder.inttoptr(address, ir.IntType(8).as_pointer())


@compiled
def array_at(address: int, shape: tuple[int, ...], kind: Any) -> Array:
    """Return the contiguous array at an address."""
    return carray(_pointer(address), shape, kind)
