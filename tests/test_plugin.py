"""A backend added from outside, and one added inside: the steps of tests/plugin/README.md and CONTRIBUTING.md, done for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "tests" / "plugin"
KIT = ("-m", "taylorshift_core.testing")
CALL = """
import numpy, sys, toyarray
from taylorshift_core import attention, backend_names
assert "toyarray" in backend_names()
assert "toyarray_taylorshift" not in sys.modules
x = toyarray.asarray(numpy.eye(3), device="toy:1")
output = attention(x, x, x)
print(type(output).__module__, output.device, toyarray.to_host(output)[0].tolist())
"""


GENERIC = """
import toyarray
from taylorshift_core import Backend, BackendError, backend_names
from taylorshift_core.testing import check_backend
assert "toyarray" not in backend_names()
conversions = {"from_numpy": lambda x, device=None: toyarray.asarray(x), "to_numpy": toyarray.to_host}
print(check_backend(Backend(name="toyarray", namespace=toyarray, **conversions), dtypes=["float64"]))
try:
    check_backend(Backend(name="toyarray", namespace=toyarray, tile_bytes=7, **conversions))
except BackendError as error:
    print(error)
"""


def run(*words: str, path: list[Path]) -> subprocess.CompletedProcess[str]:
    folders = [str(each) for each in path] + list(filter(None, [os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, timeout=300, env=environment
    )


def installed(source: Path, target: Path) -> Path:
    """Install a distribution into a folder of its own; what builds it is in this environment."""
    alone = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    done = run("-m", "pip", "install", *alone, "--target", str(target), str(source), path=[])
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the plugin was installed into, from a copy, since building leaves files behind."""
    source = shutil.copytree(PLUGIN, tmp_path_factory.mktemp("source") / "plugin")
    return installed(source, tmp_path_factory.mktemp("site"))


def test_the_plugin_is_found_by_its_entry_point(plugin: Path) -> None:
    done = run("-c", CALL, path=[plugin])
    assert done.returncode == 0, done.stderr
    library, device, *row = done.stdout.split(maxsplit=2)
    assert (library, device) == ("toyarray", "toy:1")
    assert json.loads(row[0]) == pytest.approx([5 / 9, 2 / 9, 2 / 9], abs=1e-15)


def test_the_plugin_passes_the_kit(plugin: Path) -> None:
    done = run(*KIT, "toyarray", path=[plugin])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("toyarray on toy:0, toy:1: ")
    assert ", 0 failed; " in done.stdout


PLANTED = {
    "an index that is off": ("toyarray_taylorshift.py", "row // width) % width", "row // width + 1) % width", "efficient"),
    "the wrong device": ("toyarray_taylorshift.py", 'device or "toy:0"', '"toy:0"', "toy:1, problem 'any': an array made there stands on toy:0"),
    "a mask that NaN passes": ("toyarray.py", "    found = getattr(np, name)\n", "    found = WHERE.get(name, getattr(np, name))\n", "nan"),
    "what is not there": ("toyarray.py", '{"float16", "ndarray"}', '{"float16", "concat"}', "toyarray has no concat"),
}  # fmt: skip
WHERE = 'WHERE = {"where": lambda mask, one, other: mask * one + (1 - mask * 1) * other}\n'


@pytest.mark.parametrize("bug", PLANTED)
def test_the_kit_refuses_the_plugin_with_a_bug(plugin: Path, bug: str, tmp_path: Path) -> None:
    file, good, bad, message = PLANTED[bug]
    broken = shutil.copytree(plugin, tmp_path / "site")
    text = (broken / file).read_text(encoding="utf-8")
    assert text.count(good) == 1
    (broken / file).write_text(text.replace(good, bad) + (WHERE if "WHERE" in bad else ""), encoding="utf-8")
    done = run(*KIT, "toyarray", "--dtypes", "float64", path=[broken])
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stderr


def test_a_library_without_an_adapter_is_checked_with_generic_fields_alone(plugin: Path, tmp_path: Path) -> None:
    shutil.copy(plugin / "toyarray.py", tmp_path)
    done = run("-c", GENERIC, path=[tmp_path])
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed; " in done.stdout
    assert "differs in tile_bytes. Register it" in done.stdout


def test_the_steps_of_contributing(plugin: Path, tmp_path: Path) -> None:
    """One file, one line, one extra, in a copy of this repository that is then installed."""
    copy = tmp_path / "repository"
    for folder in ("src", "backends"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy / file)
    adapter = (PLUGIN / "toyarray_taylorshift.py").read_text(encoding="utf-8")
    (copy / "backends" / "taylorshift_backends" / "toyarray.py").write_text(adapter, encoding="utf-8")
    text = (copy / "pyproject.toml").read_text(encoding="utf-8")
    for table, line in (
        ('[project.entry-points."taylorshift_core.backends"]', 'toyarray = "taylorshift_backends.toyarray:BACKEND"'),
        ("[project.optional-dependencies]", 'toyarray = ["toyarray"]'),
    ):
        assert text.count(f"{table}\n") == 1
        text = text.replace(f"{table}\n", f"{table}\n{line}\n")
    (copy / "pyproject.toml").write_text(text, encoding="utf-8")
    site = installed(copy, tmp_path / "site")
    library = tmp_path / "library"  # the array library alone, without the adapter that came with it
    library.mkdir()
    shutil.copy(plugin / "toyarray.py", library)
    done = run(*KIT, "toyarray", "array_api_strict", "--dtypes", "float64", path=[site, library])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 failed; ") == 2
