"""Attention in linear time and memory, on any array type: TaylorShift for the Python array API."""

from taylorshift_core._attention import attention, attention_weights, explain
from taylorshift_core._backend import Backend
from taylorshift_core._chunks import summarise_chunks
from taylorshift_core._crossover import byte_count, crossover_length, crossover_memory, operation_count
from taylorshift_core._decoder import Decoder
from taylorshift_core._evaluation import Evaluation, Operands
from taylorshift_core._gradients import Gradients, attention_jvp, attention_vjp
from taylorshift_core._packed import attention_packed
from taylorshift_core._plan import Plan
from taylorshift_core._registry import backend_names, load_backend
from taylorshift_core._state import State, summarise
from taylorshift_core._window import SlidingWindow
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

__version__ = "0.1.0"

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
