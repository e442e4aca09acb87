"""How one call is carried out: what every form needs beside the arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taylorshift_core._backend import Backend
    from taylorshift_core._checks import Weighting
    from taylorshift_core._plan import Plan


@dataclass(frozen=True)
class Run:
    """Backend, plan and weighting; `mean_size_one` asks for the paper's output normalisation.

    With `keep`, outputs stay in the working dtype and are followed by what their gradients need: see `_divide.divide`.
    """

    backend: Backend
    plan: Plan
    weighting: Weighting
    mean_size_one: bool = False
    keep: bool = False

    @property
    def xp(self) -> Any:
        """The array-API namespace."""
        return self.backend.namespace
