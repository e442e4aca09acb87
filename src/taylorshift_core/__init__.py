"""Attention in linear time and memory, on any array type: TaylorShift for the Python array API."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taylorshift_core._attention import attention, attention_weights, explain
from taylorshift_core._backend import Backend
from taylorshift_core._evaluation import Evaluation, Operands
from taylorshift_core._plan import Plan
from taylorshift_core._registry import backend_names, load_backend
from taylorshift_core._run import Run
from taylorshift_core._state import State, summarise
from taylorshift_core.errors import (
    BackendError,
    DTypeError,
    MissingLibraryError,
    OptionError,
    ShapeError,
    StateFileError,
    TaylorShiftError,
    UnknownBackendError,
)

if TYPE_CHECKING:
    from taylorshift_core._chunks import summarise_chunks
    from taylorshift_core._crossover import byte_count, crossover_length, crossover_memory, operation_count
    from taylorshift_core._decoder import Decoder
    from taylorshift_core._gradients import Gradients, attention_jvp, attention_vjp
    from taylorshift_core._packed import attention_packed
    from taylorshift_core._packed_gradients import attention_packed_jvp, attention_packed_vjp
    from taylorshift_core._window import SlidingWindow

__version__ = "0.1.0"

_LATER = {  # what attention itself does not need is imported when it is first asked for
    "summarise_chunks": "_chunks",
    "byte_count": "_crossover",
    "crossover_length": "_crossover",
    "crossover_memory": "_crossover",
    "operation_count": "_crossover",
    "Decoder": "_decoder",
    "Gradients": "_gradients",
    "attention_jvp": "_gradients",
    "attention_vjp": "_gradients",
    "attention_packed": "_packed",
    "attention_packed_jvp": "_packed_gradients",
    "attention_packed_vjp": "_packed_gradients",
    "SlidingWindow": "_window",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    return found


__all__ = [
    "Backend",
    "BackendError",
    "DTypeError",
    "Decoder",
    "Evaluation",
    "Gradients",
    "MissingLibraryError",
    "Operands",
    "OptionError",
    "Plan",
    "Run",
    "ShapeError",
    "SlidingWindow",
    "State",
    "StateFileError",
    "TaylorShiftError",
    "UnknownBackendError",
    "__version__",
    "attention",
    "attention_jvp",
    "attention_packed",
    "attention_packed_jvp",
    "attention_packed_vjp",
    "attention_vjp",
    "attention_weights",
    "backend_names",
    "byte_count",
    "crossover_length",
    "crossover_memory",
    "explain",
    "load_backend",
    "operation_count",
    "summarise",
    "summarise_chunks",
]
