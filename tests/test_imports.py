"""What importing the library really loads, looked at from a fresh interpreter.

Every library that must stay out is there to be found: the ones that are not installed stand in as decoys, so a test
here never passes because the machine happens not to have torch.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ARRAY_LIBRARIES = ("array_api_strict", "cupy", "dask", "dpnp", "jax", "mlx", "ndonnx", "sparse", "torch")
APPLICATION_LIBRARIES = ("matplotlib", "platformdirs", "rich", "safetensors", "shtab")
OWN = {"array_api_compat", "taylorshift_core"}

LOADED = """
import sys
import numpy
before = set(sys.modules)
{statement}
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names)
"""
SECONDS = """
import time
import numpy
start = time.process_time()
import taylorshift_core
print(time.process_time() - start)
"""


def output_of(program: str, *, path: Path | None = None) -> list[str]:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(params=["decoys", "what is installed"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Return a folder of empty packages named as the libraries, or None for the real ones where installed."""
    if request.param != "decoys":
        return None
    for name in (*ARRAY_LIBRARIES, *APPLICATION_LIBRARIES):
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").touch()
    return tmp_path


def test_the_decoys_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    assert output_of(LOADED.format(statement="import torch"), path=tmp_path) == ["torch"]


def test_importing_loads_no_library_and_no_adapter(path: Path | None) -> None:
    assert set(output_of(LOADED.format(statement="import taylorshift_core"), path=path)) == OWN


def test_importing_does_not_load_numpy_by_itself(path: Path | None) -> None:
    program = LOADED.replace("import numpy\n", "").format(statement="import taylorshift_core")
    assert set(output_of(program, path=path)) == OWN


def test_listing_the_backends_loads_none(path: Path | None) -> None:
    statement = "import taylorshift_core; assert 'numpy' in taylorshift_core.backend_names()"
    assert set(output_of(LOADED.format(statement=statement), path=path)) == OWN


def test_a_numpy_call_loads_the_numpy_adapter_alone(path: Path | None) -> None:
    statement = (
        "import taylorshift_core; x = numpy.ones((2, 3, 4)); taylorshift_core.attention(x, x, x); "
        "adapters = {name for name in sys.modules if name.startswith('taylorshift_backends.') and '._' not in name}; "
        "assert adapters == {'taylorshift_backends.numpy'}, adapters"
    )
    others = {*ARRAY_LIBRARIES, *APPLICATION_LIBRARIES} - {"platformdirs"}  # knows where measured speeds are kept
    assert not others & set(output_of(LOADED.format(statement=statement), path=path))


def test_importing_the_command_line_does_not_load_its_extra(path: Path | None) -> None:
    assert set(output_of(LOADED.format(statement="import taylorshift_core.cli"), path=path)) <= OWN | {"numpy"}


def test_importing_takes_under_60_ms_more_than_numpy() -> None:
    # The least of several runs, in processor time, is what the import costs; the rest is what else the machine was doing.
    assert min(float(output_of(SECONDS)[0]) for _ in range(7)) < 0.060
