"""Arrays on the CPU, computed by the NumPy adapter: compiled programs call it, on views of their memory.

The call is a primitive. It is lowered to a callback where a program is for one CPU, or for a part of `jax.shard_map`,
and to the same in operations of JAX elsewhere: on other devices, spread over several by the compiler, and exported.
`jax.pure_callback` would make arrays of JAX of what it is given, which takes time and waits for threads that may all be
at work; what it is built on hands over arrays of NumPy. JAX knows of both kinds, and waits for them when a process ends.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from taylorshift_core import load_backend

if TYPE_CHECKING:
    from taylorshift_core import Evaluation, Plan

Array = Any
Arrays = tuple[Array, ...]
_ALLOWED = os.environ.get("TAYLORSHIFT_JAX_CALLS", "1") != "0"
_LEAST = {"direct": 8e6, "efficient": 2e6}  # multiply-adds of a form, from which on it is faster in NumPy
_FASTER = ("attend", "attend_keeping", "vjp")  # methods that NumPy has whole steps for; tangents have none
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_KINDS = (*_FLOATS, np.dtype(np.bool_))


def stand_in(query: Array) -> str | None:
    """Return the adapter that attention of arrays like this one may be planned for, see `taylorshift_core.Backend`."""
    return "numpy" if _numpy_is_faster() and query.dtype in _FLOATS and _on_one_cpu(query) else None


def worth_a_call(plan: Plan) -> bool:
    """Tell whether attention that follows a plan of NumPy's is faster there, forwards and backwards, than in XLA."""
    return plan.work.products >= _LEAST[plan.form]


def elsewhere(evaluation: Evaluation, method: str, *given: Any) -> Any:
    """Return what a method of an evaluation returns: by a call of NumPy, or if NumPy is not faster in operations of JAX."""
    arrays, tree = jax.tree.flatten(given)
    arrays = [jnp.asarray(each, evaluation.call.dtype) if isinstance(each, float | int) else each for each in arrays]
    if method not in _FASTER or not _numpy_is_faster() or not all(each.dtype in _KINDS for each in arrays):
        return getattr(evaluation.without_stand_in(), method)(*given)
    call = _Call(evaluation, method, tree)
    results = jax.eval_shape(partial(_in_jax, call), *arrays)
    return jax.tree.unflatten(jax.tree.structure(results), _bound(call, *arrays))


@cache
def _numpy_is_faster() -> bool:
    """Tell whether NumPy's steps are compiled, and side by side; else they are no faster than what XLA makes."""
    return _ALLOWED and find_spec("threadpoolctl") is not None and load_backend("numpy").tokens_at_once is not None


def _on_one_cpu(array: Array) -> bool:
    if isinstance(array, jax.core.Tracer):
        return jax.default_backend() == "cpu"
    return [device.platform for device in array.devices()] == ["cpu"]


@dataclass(frozen=True)
class _Call:
    """What is called, as a value: a method of an evaluation; its arguments are `tree`, whose leaves are arrays."""

    evaluation: Evaluation
    method: str
    tree: Any

    def in_jax(self, *arrays: Array) -> Any:
        """Return what it returns, in operations of JAX."""
        return getattr(self.evaluation.without_stand_in(), self.method)(*self.tree.unflatten(arrays))

    def in_numpy(self, *arrays: Array) -> Arrays:
        """Return its arrays, by NumPy."""
        where = self.evaluation.of_stand_in(np.dtype(self.evaluation.call.dtype), "cpu")
        return tuple(jax.tree.leaves(getattr(where, self.method)(*self.tree.unflatten(arrays))))


@partial(jax.jit, static_argnums=0)
def _in_jax(call: _Call, *arrays: Array) -> Any:
    return call.in_jax(*arrays)


@partial(jax.jit, static_argnums=0)
def _bound(call: _Call, *arrays: Array) -> list[Array]:
    return _call.bind(*arrays, call=call)


_call = Primitive("taylorshift_numpy")
_call.multiple_results = True


def _abstract(*arrays: Any, call: _Call) -> list[Any]:
    return jax.make_jaxpr(partial(_in_jax, call))(*arrays).out_avals


def _lower(context: mlir.LoweringRuleContext, *arrays: Any, call: _Call) -> Any:
    """Return the code of a call of NumPy where the arrays of the program lie whole on one CPU, else of JAX's operations."""
    module, kinds = context.module_context, (context.avals_in, context.avals_out)
    here = not module.lowering_parameters.for_export and len(module.platforms) == 1 and _is_whole(module.axis_context)
    if not here or not all(_is_known_to_all_threads(kind.dtype) for kind in context.avals_out):
        return _lower_in_jax(context, *arrays, call=call)
    return mlir.emit_python_callback(context, call.in_numpy, None, arrays, *kinds, has_side_effect=False)[0]


def _is_known_to_all_threads(dtype: Any) -> bool:
    """Tell whether a call may return this dtype in any thread: `jax.enable_x64` is one thread's, which may not make the call."""
    if dtype != np.float64:
        return True
    with ThreadPoolExecutor(1) as another:
        return bool(another.submit(jax.dtypes.canonicalize_dtype, dtype).result() == dtype)


def _is_whole(axes: Any) -> bool:
    """Tell whether a program, or the part of it in `jax.shard_map`, sees arrays as they lie on one device."""
    if isinstance(axes, mlir.SPMDAxisContext):
        return axes.manual_axes == frozenset(axes.mesh.axis_names)
    return isinstance(axes, mlir.ShardingContext) and axes.num_devices == 1


def _leaves_in_jax(*arrays: Array, call: _Call) -> list[Array]:
    return jax.tree.leaves(_in_jax(call, *arrays))


def _jvp(primals: Arrays, tangents: Arrays, call: _Call) -> tuple[list[Array], list[Array]]:
    return jax.jvp(partial(_leaves_in_jax, call=call), primals, tuple(map(ad.instantiate_zeros, tangents)))


def _batch(arrays: Arrays, axes: tuple[Any, ...], call: _Call) -> tuple[list[Array], list[int]]:
    """Return the results for a batch, one call after the other: each is worth one."""
    moved = [jnp.moveaxis(each, axis, 0) for each, axis in zip(arrays, axes, strict=True) if axis is not None]

    def one(own: list[Array]) -> list[Array]:
        rest = iter(own)
        return _call.bind(
            *(each if axis is None else next(rest) for each, axis in zip(arrays, axes, strict=True)), call=call
        )

    results = lax.map(one, moved)
    return results, [0] * len(results)


_lower_in_jax = mlir.lower_fun(_leaves_in_jax, multiple_results=True)
_call.def_impl(_leaves_in_jax)
_call.def_abstract_eval(_abstract)
mlir.register_lowering(_call, _lower_in_jax)
mlir.register_lowering(_call, _lower, platform="cpu")
ad.primitive_jvps[_call] = _jvp
batching.primitive_batchers[_call] = _batch
