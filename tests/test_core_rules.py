"""Rules of the core that no library here breaks on: others would, so they are read from its source.

The rules whose breach turns the tests of some library red are in docs/gpu.md, each with the test that sees it.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import taylorshift_core

if TYPE_CHECKING:
    from collections.abc import Iterator

CORE = sorted(Path(taylorshift_core.__file__).parent.glob("*.py"))
LEFT_OUT = {
    "linalg": "an extension, which a library may lack",
    "fft": "an extension, which a library may lack",
    "einsum": "not in the standard",
    "vecdot": "cannot be mapped by torch.vmap; sum(x * y) can",
    "int64": "JAX has it only where it is told to",
    "uint64": "JAX has it only where it is told to",
}
PLANTED = {
    "xp.linalg.vector_norm(x)": "linalg",
    "xp.einsum('ij,jk', x, y)": "einsum",
    "xp.vecdot(x, x)": "vecdot",
    "xp.arange(3, dtype=xp.int64)": "int64",
    "xp.take(x, places, axis=-2)": "axis=-2",
    "xp.sum(x, axis=(0, -1))": "axis=(0, -1)",
}


def breaches(source: str) -> Iterator[str]:
    """Yield what the core leaves out, and axes that are counted from the end: cubed takes along another one there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in LEFT_OUT:
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg in {"axis", "axes"} and _negative(node.value):
            yield ast.unparse(node)


def _negative(value: ast.expr) -> bool:
    """Tell whether an axis, or one of several, is written with a minus in front."""
    axes = value.elts if isinstance(value, ast.Tuple) else [value]
    return any(isinstance(axis, ast.UnaryOp) and isinstance(axis.op, ast.USub) for axis in axes)


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_keeps_the_rules(path: Path) -> None:
    assert list(breaches(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("code", PLANTED)
def test_a_breach_is_seen(code: str) -> None:
    assert list(breaches(code)) == [PLANTED[code]]
