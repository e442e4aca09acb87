"""The conformance kit itself: its numbers, and that it refuses adapters with a bug."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import make_vectors
import numpy as np
import pytest

import taylorshift_core._registry as registry
from taylorshift_backends import _numpy_tiles
from taylorshift_core import Backend, BackendError, features, load_backend, loops
from taylorshift_core.augment import augment
from taylorshift_core.testing import Finding, Report, check_backend, measure_backend
from taylorshift_core.testing.__main__ import main
from taylorshift_core.testing._problems import problems

if TYPE_CHECKING:
    from collections.abc import Callable

NUMPY = load_backend("numpy")
STRICT = load_backend("array_api_strict")


def test_the_vectors_are_what_the_script_writes() -> None:
    """Inputs to the last bit; what the definition makes of them, up to the order in which a BLAS sums."""
    written = json.loads(make_vectors.PATH.read_text(encoding="utf-8"))
    made = json.loads(make_vectors.text())
    assert written["unit"] == made["unit"]
    assert [each["name"] for each in written["problems"]] == [case.name for case in make_vectors.CASES]
    for old, new in zip(written["problems"], made["problems"], strict=True):
        same = ("name", "options", "tiles", "arrays", "masks")
        assert {name: old[name] for name in same} == {name: new[name] for name in same}
        assert set(old["expected"]) == set(new["expected"]) == set(old["sizes"]) == set(new["sizes"])
        for name, expected in new["expected"].items():
            assert old["expected"][name]["shape"] == expected["shape"]
            entries, size = np.asarray(expected["entries"]), new["sizes"][name]
            assert old["sizes"][name] == pytest.approx(size, rel=1e-14)
            np.testing.assert_allclose(old["expected"][name]["entries"], entries, rtol=0, atol=1e-14 * size)


def test_the_vectors_are_small_and_their_inputs_exact_in_every_dtype() -> None:
    assert make_vectors.PATH.stat().st_size < 200_000
    for problem in problems():
        for array in problem.arrays.values():
            np.testing.assert_array_equal(array.astype(np.float16).astype(np.float64), array)
            units = array * 32  # eight bits, which bfloat16 has
            np.testing.assert_array_equal(units, np.round(units))
            assert np.max(np.abs(units), initial=0) <= 256


def _short_fold(run: Any, step: Callable[..., Any], tiled: Any, whole: Any, tile: int) -> Any:
    """Forget the last tile, where it is a short one."""
    length = tiled[0].shape[-2]
    keep = length - length % tile if length > tile else length
    return loops.fold_tiles(run, step, loops.cut(tiled, 0, keep), whole, tile)


def _turned_map(run: Any, step: Callable[..., Any], tiled: Any, whole: Any, tile: int) -> Any:
    bounds = list(loops.tile_bounds(tiled[0].shape[-2], tile))[::-1]
    return loops.join(run.xp, [step(run, *loops.cut(tiled, *each), *whole) for each in bounds])


def _scan_without_memory(run: Any, step: Callable[..., Any], carry: Any, tiled: Any, whole: Any, tile: int) -> Any:
    bounds = loops.tile_bounds(tiled[0].shape[-2], tile)
    steps = [step(run, carry, *loops.cut(tiled, *each), *whole) for each in bounds]
    return steps[-1][0], loops.join(run.xp, [outputs for _, outputs in steps])


def _features_without_last_offset(xp: Any, x: Any, first: int, last: int) -> Any:
    made = features.feature_tile(xp, x, first, last)
    return xp.concat([made[..., :-1, :], 0 * made[..., -1:, :]], axis=made.ndim - 2)


def _norm_with_epsilon(backend: Backend, tokens: Any, scale: Any, last: float, *, normalise: bool) -> Any:
    """Add an epsilon to the length of a row, which biases it."""
    made = augment(backend, tokens, scale, last, normalise=normalise)
    length = np.sqrt(np.sum(tokens * tokens, axis=-1))[..., None, :]
    made[..., :-1, :] *= length / (length + 1e-6) if normalise else 1
    return made


def _careless_norm(backend: Backend, tokens: Any, scale: Any, last: float, *, normalise: bool) -> Any:
    with np.errstate(all="ignore"):
        tokens = tokens / np.sqrt(np.sum(tokens * tokens, axis=-1, keepdims=True)) if normalise else tokens
    return augment(backend, tokens, scale, last, normalise=False)


def _half_fold_back(*arguments: Any) -> Any:
    return features.fold_back(*arguments) / 2


def _then(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a way to evaluate that does something to the output."""
    return lambda evaluation, operands: (function(evaluation.attend(operands)[0]), *evaluation.attend(operands)[1:])


def _writing(evaluation: Any, operands: Any) -> Any:
    results = evaluation.attend(operands)
    operands.value[...] *= 2
    return results


def _blind(evaluation: Any, operands: Any) -> Any:
    """Multiply the mask away, so that NaN behind it comes through."""
    if operands.key_mask is not None and operands.query.ndim == 2:
        operands = operands._replace(value=operands.value + 0 * np.sum(operands.value))
    return evaluation.attend(operands)


PLANTED = {
    "a short last tile forgotten": (NUMPY, {"fold_tiles": _short_fold}, r"problem 'a tile and one': output has error"),
    "tiles joined backwards": (NUMPY, {"map_tiles": _turned_map}, r"efficient, .*'two tiles': output has error"),
    "a carry lost": (NUMPY, {"scan_tiles": _scan_without_memory}, r"causal, .*'causal': output has error"),
    "a feature left out": (STRICT, {"feature_tile": _features_without_last_offset}, r"efficient, .*: output has error"),
    "an epsilon in the norm": (NUMPY, {"augment": _norm_with_epsilon}, r"float64, cpu, .*: output has error"),
    "rows of zeros divided": (NUMPY, {"augment": _careless_norm}, r"'rows of zeros': output has error nan"),
    "sums in float16": (NUMPY, {"working_dtype": lambda _xp, dtype: dtype}, r"float16, cpu, .*: output has error"),
    "half a gradient": (
        NUMPY,
        {"fold_back": _half_fold_back},
        r"gradients, efficient, .*: gradient of query has error",
    ),
    "a mask that NaN passes": (NUMPY, {"differentiable": _blind}, r"'two axes, masked': output has error nan"),
    "another dtype": (
        NUMPY,
        {"differentiable": _then(lambda x: x.astype(np.float32))},
        r"output has dtype float32, not float64",
    ),
    "another shape": (
        NUMPY,
        {"differentiable": _then(lambda x: x[..., :1])},
        r"output has shape \(5, 1\), not \(5, 3\)",
    ),
    "another library": (
        NUMPY,
        {"differentiable": _then(STRICT.from_numpy)},
        r"output is a array_api_strict.*Array, not a ndarray",
    ),
    "another device": (
        STRICT,
        {"differentiable": _then(lambda x: x.to_device(STRICT.devices()[0]))},
        r"device1.*: output has device .*CPU_DEVICE.*, not .*device1",
    ),
    "an input written": (NUMPY, {"differentiable": _writing}, r"an input was written: value"),
    "an exception": (STRICT, {"feature_tile": None}, r"the call raised TypeError: 'NoneType' object is not callable"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_refused(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_numpy_tiles, "COMPILED", False)  # whole steps would go round most of what is planted
    backend, changed, message = PLANTED[bug]
    broken = replace(backend, **changed)
    monkeypatch.setattr(registry, "_backend_for", lambda _namespace: broken)
    report = measure_backend(broken, dtypes=["float16" if bug == "sums in float16" else "float64"])
    assert any(re.search(message, str(each)) for each in report.failures), report.failures[:5]
    with pytest.raises(AssertionError, match=rf"backend {backend.name} fails {len(report.failures)} of "):
        report.check()


def test_an_adapter_that_does_not_serve_its_library_is_not_checked() -> None:
    with pytest.raises(BackendError, match=r"served by the Backend that is checked; got one .* differs in tile_bytes"):
        check_backend(replace(NUMPY, tile_bytes=1 << 10))


def test_one_error_lists_what_failed_and_no_more_than_one_can_read() -> None:
    findings = [
        Finding("direct", f"number {i}", "output", "float32", "cpu", error=i * 1e-3, allowed=1e-3) for i in range(40)
    ]
    with pytest.raises(AssertionError) as caught:
        Report("toy", ("cpu",), tuple(findings)).check()
    lines = str(caught.value).splitlines()
    assert lines[0] == "backend toy fails 38 of 40 checks:"
    assert lines[1] == "  direct, float32, cpu, problem 'number 2': output has error 0.002, allowed 0.001"
    assert lines[-1] == "  and 18 more"
    assert len(lines) == 22


def test_dtypes_that_are_demanded_must_be_there() -> None:
    with pytest.raises(AssertionError, match=r"bfloat16, cpu, problem 'any': an array cannot be made"):
        check_backend("numpy", dtypes=("float32", "bfloat16"), thin=40)


def test_thinned_dtypes_share_the_problems() -> None:
    report = check_backend("numpy", thin=3)
    whole = check_backend("numpy")
    seen = [{each.problem for each in report.findings if each.dtype == dtype} for dtype in report.dtypes]
    assert sum(map(len, seen)) == len(problems()) == len(set.union(*seen))
    assert len(whole.findings) > 2.5 * len(report.findings)


def test_functions_are_transformed() -> None:
    seen = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(given: dict[str, Any]) -> list[Any]:
            seen.append(sorted(given))
            return [array + 1 for array in function(given)]

        return call

    report = measure_backend("numpy", dtypes=["float64"], transform=watched, thin=7)
    results = [
        each for each in report.findings if each.result != "an input" and each.problem not in ("no query", "no batch")
    ]
    assert results
    assert all(each.failed for each in results)
    assert ["cotangent", "key", "query", "value"] in seen


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["numpy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"numpy on cpu: \d+ checks, 0 failed; largest errors", lines[0])
    assert lines[1].split() == ["float64", "float32", "float16"]
    rows = {re.split(r"\s{2,}", line)[0]: line.split()[-3:] for line in lines[2:]}
    assert set(rows) == set(measure_backend("numpy").errors)
    assert all(0 < float(cell) < 1e-3 for cells in rows.values() for cell in cells)
    assert main(["numpy", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith(
        "|  | float64 | float32 | float16 |\n| --- | ---: | ---: | ---: |\n| direct |"
    )


def test_the_command_fails_with_the_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nunpy"]) == 2
    assert "got 'nunpy'" in capsys.readouterr().err
    assert main(["numpy", "--dtypes", "bfloat16"]) == 1
    assert "cannot be made" in capsys.readouterr().err
