"""The errors of this library: each is also the built-in error a caller would expect."""

from __future__ import annotations


class TaylorShiftError(Exception):
    """Base of every error that this library raises on purpose."""


class ShapeError(TaylorShiftError, ValueError):
    """The shapes of the arrays do not fit together."""


class DTypeError(TaylorShiftError, TypeError):
    """An array has a data type that attention is not defined for."""


class OptionError(TaylorShiftError, ValueError):
    """An option has a value outside its range."""


class BackendError(TaylorShiftError, TypeError):
    """The arrays are of no library, of several, or on several devices."""


class UnknownBackendError(BackendError, LookupError):
    """No adapter of that name is registered."""


class MissingLibraryError(BackendError, ImportError):
    """The adapter is there; the library it adapts is not installed."""


class StateFileError(TaylorShiftError, ValueError):
    """A file is not a state that was saved, or not whole."""
