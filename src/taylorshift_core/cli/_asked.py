"""The problem that is asked about by sizes alone: the options that `explain` and `bench` share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taylorshift_core.cli._plans import plan_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taylorshift_core import Backend, Plan
    from taylorshift_core.cli._parser import Parser

    Shape = tuple[int, ...]

DTYPES = ("float16", "float32", "float64")
_NAMES = ("query", "key", "value")


@dataclass(frozen=True)
class Asked:
    """Shapes of query, key and value, a dtype, and the options of the call."""

    shapes: tuple[Shape, Shape, Shape]
    dtype: str
    objective: str
    options: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        shapes = {f"{name}_shape": list(shape) for name, shape in zip(_NAMES, self.shapes, strict=True)}
        return shapes | {"dtype": self.dtype, "objective": self.objective} | self.options

    def plan(self, backend: Backend, form: str = "auto") -> Plan:
        """Return the plan of a backend; nothing of these sizes is made."""
        return plan_of(backend, self.shapes, self.dtype, form=form, objective=self.objective, **self.options)


def add_options(parser: Parser) -> None:
    """Add the options that say which problem is meant."""
    parser.add_argument(
        "--query", type=_shape, required=True, metavar="SHAPE", help="HEADSxLENGTHxDIM, as 8x4096x64; batch axes first"
    )
    parser.add_argument("--key", type=_shape, metavar="SHAPE", help="default: as query")
    parser.add_argument("--value", type=_shape, metavar="SHAPE", help="default: as key")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    parser.add_argument("--causal", action="store_true", help="query i sees keys 0 to i only")
    parser.add_argument(
        "--objective", choices=("time", "memory"), default="time", help='what form="auto" keeps small (default: time)'
    )


def asked_by(arguments: argparse.Namespace) -> Asked:
    """Return the problem that the options of `add_options` say."""
    key = arguments.key or arguments.query
    shapes = (arguments.query, key, arguments.value or key)
    return Asked(shapes, arguments.dtype, arguments.objective, {"is_causal": arguments.causal})


def title(facts: Mapping[str, Any]) -> str:
    """Return what was asked about in a line, from its facts."""
    sizes = ", ".join(f"{name} {'x'.join(map(str, facts[f'{name}_shape']))}" for name in _NAMES)
    return f"{sizes}, {facts['dtype']}{', causal' if facts['is_causal'] else ''}"


def _shape(text: str) -> Shape:
    sizes = text.lower().replace("×", "x").split("x")
    if len(sizes) < 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        msg = f"must be sizes from 1 upward with x between them, as 8x4096x64, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return tuple(map(int, sizes))
