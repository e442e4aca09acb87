"""The one list of chores: `python -m nox` lints and tests; `python -m nox --list` names the rest."""

import ctypes
import sys
import tempfile
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "tests"]

PYPROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
BACKENDS = sorted(PYPROJECT["project"]["entry-points"]["taylorshift_core.backends"])
CONSTRAINTS = ("-c", "tests/constraints.txt")
GPU_LIBRARIES = {
    "cupy": ["cupy-cuda12x[ctk]", "ml-dtypes"],
    "torch": [],
}  # with a GPU: CUDA beside CuPy, as torch has it
DEVICE_NEEDED = {"cupy", "dpnp"}  # not measured on processors
# Tests run in as many processes as the machine has processors; who runs out of them takes over some of another's.
SIDE_BY_SIDE = ("-n", "logical", "--maxprocesses=8", "--dist=worksteal")
VARIABLES = {  # what some libraries read before they are imported; {} is the environment's folder
    "dpnp": {"OCL_ICD_FILENAMES": "{}/lib/libintelocl.so"},  # the driver that makes the CPU a device
    "jax": {  # two devices to spread over; tests compile thousands of small programs and run each once
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
        " --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false",
        "TAYLORSHIFT_COMPILED": "0",  # which takes minutes; the few tests of JAX that need it ask for it
    },
    "mlx": {"MLX_BFS_MAX_WIDTH": "1"},  # tile after tile in mx.grad too, see the adapter
    # OpenMP's threads spin while they wait, and take the processor of the next process.
    "torch": {"OMP_NUM_THREADS": "1"},
}


def install(session: nox.Session, *requirements: str, groups: tuple[str, ...]) -> None:
    """Install `requirements` and the dependency groups `groups`, all at the pinned versions."""
    session.install(*requirements, *nox.project.dependency_groups(PYPROJECT, *groups), *CONSTRAINTS)


def other_folders(own: set[str]) -> list[str]:
    """Return the options of pytest that leave out the folders of tests/backend not named in `own`."""
    folders = sorted(folder for folder in Path("tests/backend").iterdir() if folder.is_dir() and folder.name not in own)
    return [f"--ignore={folder}" for folder in folders]


def examples(backend: str) -> list[str]:
    """Return the pages whose examples a session runs: docs/NAME.md that of a backend, all others that of numpy."""
    pages = {page: page.stem if page.stem in BACKENDS else "numpy" for page in sorted(Path("docs").rglob("*.md"))}
    readme = ["README.md"] if backend == "numpy" else []
    return readme + [str(page) for page, session in pages.items() if session == backend]


def cuda_devices() -> int:
    """Return the number of CUDA devices that the driver of this machine knows; 0 where there is no driver."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


@nox.session
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Test one backend in an environment of its own; the numpy session also tests what needs no backend."""
    whole = backend == "numpy"
    groups = tuple(group for group in ("tests", f"tests-{backend}") if group in PYPROJECT["dependency-groups"])
    install(session, f".[{backend},cli]" if whole else f".[{backend}]", groups=groups)
    session.env["TAYLORSHIFT_TEST_BACKEND"] = backend
    session.env.update(
        {key: value.format(session.virtualenv.location) for key, value in VARIABLES.get(backend, {}).items()}
    )
    # A session is named for its backend: a missing library is red here, before any test could skip.
    session.run("python", "-c", f"from taylorshift_core import load_backend; load_backend({backend!r})", silent=True)
    chosen = ["tests"] if whole else ["tests/backend", "tests/test_imports.py"]
    if any(Path(argument.partition("::")[0]).exists() for argument in session.posargs):
        chosen = []
    # tests/backend/NAME is for that backend alone; generic, for libraries without an adapter, goes with the referee.
    own = {backend, "generic"} if backend == "array_api_strict" else {backend}
    session.run("pytest", *chosen, *other_folders(own), *(session.posargs or SIDE_BY_SIDE))
    if session.posargs:
        return
    pages = examples(backend)
    if whole:
        modules = ["--pyargs", "taylorshift_core", "taylorshift_backends.numpy"]
        session.run("pytest", "--doctest-modules", "--doctest-glob=*.md", *pages, *modules)
    elif pages:
        session.run("pytest", "--doctest-glob=*.md", *pages)


@nox.session(name="tests-gpu")
@nox.parametrize("backend", ["cupy", "torch"], ids=["cupy", "torch"])
def tests_gpu(session: nox.Session, backend: str) -> None:
    """Test one library on the GPUs of this machine, and print a report to attach to an issue."""
    if not cuda_devices():
        session.error("tests-gpu needs an NVIDIA GPU and its driver, and found none on this machine")
    install(session, f".[{backend}]", *GPU_LIBRARIES[backend], groups=("tests",))
    session.env.update({"TAYLORSHIFT_TEST_BACKEND": backend, "TAYLORSHIFT_TEST_GPU": "1"})
    session.run("python", "tests/gpu_report.py", backend)
    session.run("pytest", *(session.posargs or ["tests/backend", *other_folders({backend})]))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the direction of the imports."""
    install(session, "-e", ".[cli]", groups=("lint",))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("mypy", "tests/typed_calls.py")
    session.run("lint-imports", "--no-logo", "--no-cache")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the distributions, install the wheel elsewhere, and run the demonstration there."""
    install(session, groups=("wheel",))
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder).resolve()
        # The wheel is built from the source distribution, so both are seen to be whole.
        session.run("python", "-m", "build", "--outdir", str(elsewhere / "dist"))
        (made,) = (elsewhere / "dist").glob("*.whl")
        session.run("python", "-m", "virtualenv", str(elsewhere / "env"), silent=True)
        programs = elsewhere / "env" / ("Scripts" if sys.platform == "win32" else "bin")
        pip_install = (str(programs / "python"), "-m", "pip", "install", *CONSTRAINTS)
        session.run(*pip_install, str(made), external=True, silent=True)
        with session.chdir(elsewhere):  # without its extra the command asks for it
            session.run(str(programs / "taylorshift"), external=True, success_codes=[2])
        session.run(*pip_install, f"{made}[cli]", external=True, silent=True)
        with session.chdir(elsewhere):
            session.run(str(programs / "taylorshift"), *session.posargs, external=True)


def install_peers(session: nox.Session) -> None:
    """Install every library that runs on processors, and what to compare with."""
    extras = ",".join(["cli", *(backend for backend in BACKENDS if backend not in DEVICE_NEEDED)])
    install(session, f".[{extras}]", groups=("benchmarks",))


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run the benchmarks, and show the speed of both forms beside others in tables, in .benchmarks/."""
    install_peers(session)
    Path(".benchmarks").mkdir(exist_ok=True)
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    measured = ".benchmarks/speed.json"
    # The exit code of pytest is the last word: what was measured is shown even where a goal was missed.
    shown = ("python", "benchmarks/report_speed.py", measured)
    try:
        session.run("pytest", "benchmarks", f"--benchmark-json={measured}")
    finally:
        session.run(*shown)


@nox.session
def report(session: nox.Session) -> None:
    """Measure the paper's figures with peers beside them; `-- --publish` puts them into the documentation."""
    install_peers(session)
    session.run("python", "benchmarks/report.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Draw the figures and build the documentation; a warning is an error."""
    install(session, ".[numpy]", groups=("docs",))
    session.run("python", "docs/figures.py")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html", *session.posargs)
