"""What docs/backends.md says of a backend: recorded by its own session, since no environment holds all libraries.

A session that runs with TAYLORSHIFT_TEST_RECORD=1 writes docs/backends/NAME.json; ``python tests/record.py`` writes the
page from all of them.
"""

from __future__ import annotations

import ast
import json
import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taylorshift_core import Backend
    from taylorshift_core.testing import Report

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "backends.md"
RECORDS = ROOT / "docs" / "backends"
BEGIN, END = "<!-- written by tests/record.py -->\n", "<!-- end -->\n"
NOTHING = "–"
COLUMNS = ("gradients", "compile", "distributed", "where")  # what a test may show, see the marker in pyproject.toml


def adapters() -> list[str]:
    """Return the names of all adapters of this repository."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return sorted(declared["project"]["entry-points"]["taylorshift_core.backends"])


def record(backend: Backend, report: Report) -> dict[str, Any]:
    """Return what is known of a backend: of its Backend, of the kit's report, and of what its own tests show."""
    shown = {column: sorted(set(_shown(backend.name, column))) for column in COLUMNS}
    if backend.no_gradients is None:
        shown["gradients"] = ["attention_vjp, attention_jvp", *shown["gradients"]]
    return {
        "backend": backend.name,
        "version": metadata.version(metadata.packages_distributions()[backend.name][0]),
        "dtypes": list(report.dtypes),
        "devices": [re.sub(r" at 0x[0-9a-f]+", "", device) for device in report.devices],
        "machine": f"{platform.system()} {platform.machine()}",
        **shown,
        "errors": {name: {dtype: float(f"{error:.1e}") for dtype, error in row.items()} for name, row in report.errors.items()},
    }  # fmt: skip


def read(name: str) -> dict[str, Any]:
    """Return the record of a backend as it is in the docs."""
    path = RECORDS / f"{name}.json"
    if not path.exists():
        msg = f'{path} is not there yet; TAYLORSHIFT_TEST_RECORD=1 python -m nox -s "tests({name})" writes it'
        raise FileNotFoundError(msg)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(found: dict[str, Any]) -> None:
    """Write the record of a backend."""
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{found['backend']}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def page(text: str) -> str:
    """Return the page with its tables written anew."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.split(END)[1]


def recorded() -> list[str]:
    """Return the names of all backends that have a record."""
    return sorted(path.stem for path in RECORDS.glob("*.json"))


def tables() -> str:
    """Return the tables of all backends, in Markdown; an adapter without a record is listed as such."""
    titles = ("backend", "install", "version", "dtypes", "gradients", "compiled", "distributed", "run on")
    records = [read(name) for name in recorded()]
    described = {
        name: _row((name, _install(name), "not recorded yet", *(NOTHING for _ in titles[3:]))) for name in adapters()
    }
    described |= {each["backend"]: _described(each) for each in records}
    first = [_row(titles), _row("---" for _ in titles), *described.values()]
    dtypes = ("float64", "float32", "float16", "bfloat16")
    second = [_row(("backend", "", *dtypes)), _row(("---", "---", *("---:" for _ in dtypes)))]
    for each in records:
        for kind, gradients in (("outputs", False), ("gradients", True)):
            rows = [row for name, row in each["errors"].items() if name.startswith("gradients") is gradients]
            if rows:
                worst = (_largest(row.get(dtype) for row in rows) for dtype in dtypes)
                second.append(_row((each["backend"], kind, *worst)))
    return "\n".join([*first, "", "Largest errors that the conformance kit finds:", "", *second, ""])


def _described(each: dict[str, Any]) -> str:
    places = ", ".join(each["devices"]) or NOTHING
    cells = [each["backend"], _install(each["backend"]), each["version"]]
    cells += [", ".join(each["dtypes"]), *("; ".join(each[column]) or NOTHING for column in COLUMNS[:-1])]
    return _row((*cells, "; ".join([f"{each['machine']}: {places}", *each["where"]])))


def _install(name: str) -> str:
    return f'`pip install "taylorshift-core[{name}]"`'


def _largest(errors: Iterator[float | None]) -> str:
    known = [error for error in errors if error is not None]
    return f"{max(known):.1e}" if known else NOTHING


def _row(cells: Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _shown(name: str, column: str) -> Iterator[str]:
    """Yield what the tests of one backend are marked to show: ``@pytest.mark.shows(compile="mx.compile")``."""
    for path in sorted((ROOT / "tests" / "backend" / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.shows":
                yield from (ast.literal_eval(each.value) for each in node.keywords if each.arg == column)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
