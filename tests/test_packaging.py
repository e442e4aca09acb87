"""The distribution as installed: files, metadata, extras, entry points and the command."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import taylorshift_core

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BACKENDS = PYPROJECT["project"]["entry-points"]["taylorshift_core.backends"]
TEST_COMMAND = "python -m pip install nox && python -m nox -s tests"


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def distribution() -> metadata.Distribution:
    return metadata.distribution("taylorshift-core")


def test_what_is_installed_is_what_is_declared(distribution: metadata.Distribution) -> None:
    installed = {(point.group, point.name, point.value) for point in distribution.entry_points}
    declared = {("taylorshift_core.backends", name, value) for name, value in BACKENDS.items()}
    declared |= {("console_scripts", name, value) for name, value in PYPROJECT["project"]["scripts"].items()}
    assert installed == declared
    assert distribution.version == taylorshift_core.__version__
    assert taylorshift_core.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_runtime_needs_two_packages(distribution: metadata.Distribution) -> None:
    required = {re.split(r"[^\w.-]", line)[0] for line in distribution.requires or () if "extra ==" not in line}
    assert {normalised(name) for name in required} == {"array-api-compat", "numpy"}


def test_every_adapter_has_an_entry_point_and_an_extra(distribution: metadata.Distribution) -> None:
    files = (ROOT / "backends" / "taylorshift_backends").glob("*.py")
    assert {file.stem for file in files if not file.stem.startswith("_")} == set(BACKENDS)
    for name, value in BACKENDS.items():
        assert value == f"taylorshift_backends.{name}:BACKEND"
    (contract,) = (c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "independence")
    assert set(contract["modules"]) == {f"taylorshift_backends.{name}" for name in BACKENDS}
    assert {normalised(name) for name in (*BACKENDS, "cli", "compiled")} == {
        normalised(name) for name in distribution.metadata.get_all("Provides-Extra", [])
    }


@pytest.mark.parametrize("source", ["src/taylorshift_core", "backends/taylorshift_backends"])
def test_every_source_file_is_installed(distribution: metadata.Distribution, source: str) -> None:
    folder = ROOT / source
    written = {
        file.relative_to(folder.parent).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith((".", "__pycache__")) for part in file.relative_to(folder).parts)
    }
    direct_url = distribution.read_text("direct_url.json") or ""
    if '"editable": true' in direct_url or '"editable":true' in direct_url:
        installed = written  # an editable install is the source tree itself
    else:
        installed = {file.as_posix() for file in distribution.files or () if "__pycache__" not in file.parts}
    assert f"{folder.name}/py.typed" in written
    assert written <= installed
    assert {name for name in installed if name.startswith(f"{folder.name}/")} == written


def test_the_licence_is_in_the_distribution(distribution: metadata.Distribution) -> None:
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (distribution.read_text("licenses/LICENSE") or "")


def test_without_rich_the_command_says_in_one_line_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'rich'\", name='rich')", encoding="utf-8"
    )
    (point,) = metadata.entry_points(group="console_scripts", name="taylorshift")
    program = f"import sys; from {point.module} import {point.attr}; sys.exit({point.attr}())"
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "taylorshift-core[cli]" in line


def test_every_test_dependency_is_pinned() -> None:
    lines = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in pins)
    assert pins == sorted(pins)
    pinned = {line.partition("==")[0] for line in pins}
    asked = [
        *PYPROJECT["project"]["dependencies"],
        *(line for extra in PYPROJECT["project"]["optional-dependencies"].values() for line in extra),
        *(line for group in PYPROJECT["dependency-groups"].values() for line in group if isinstance(line, str)),
    ]
    assert {normalised(re.split(r"[^\w.-]", line)[0]) for line in asked} <= pinned


def test_every_folder_of_backend_tests_has_a_session() -> None:
    folders = {path.name for path in (ROOT / "tests" / "backend").iterdir() if path.is_dir()}
    assert {name for name in folders if not name.startswith((".", "_"))} <= {*BACKENDS, "generic"}


def test_the_readme_says_the_command_that_the_integration_runs() -> None:
    assert TEST_COMMAND in (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert TEST_COMMAND in script
    assert "python -m nox -s lint" in script
