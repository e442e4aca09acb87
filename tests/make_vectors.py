"""Write the conformance kit's problems and what the definition says of them: ``python tests/make_vectors.py``.

Entries are multiples of 1/32 below 4, so that float16 and bfloat16 hold them exactly and one answer is right for all dtypes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gradient_oracle import gradients_oracle
from oracle import DEFAULT, attention_oracle, causal

PATH = Path(__file__).parent.parent / "src" / "taylorshift_core" / "testing" / "vectors.json"
UNIT = 1 / 32
LARGEST = 127  # in units


@dataclass(frozen=True)
class Case:
    """One problem; `options` are numbers for `attention`, masks and scales are shapes to draw."""

    name: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    value_dim: int
    options: dict[str, Any] | None = None
    tiles: tuple[int, int, int] | None = None
    scale: tuple[int, ...] | None = None
    key_mask: tuple[int, ...] | None = None
    attn_mask: tuple[int, ...] | None = None
    nothing: bool = False  # the last row of the mask attends no key
    zero_rows: bool = False
    gradients: bool = True


SMALL = (3, 2, 1)
CASES = (
    Case("two axes", (5, 3), (5, 3), 3),
    Case("two axes, masked", (4, 2), (5, 2), 3, key_mask=(5,), options={"scale": 0.5}),
    Case("heads", (2, 5, 3), (2, 5, 3), 3),
    Case("cross, odd sizes", (2, 7, 5), (2, 4, 5), 2, tiles=SMALL),
    Case("one key", (2, 3, 2), (2, 1, 2), 2),
    Case("one query", (2, 1, 4), (2, 5, 4), 3),
    Case("no key", (2, 3, 2), (2, 0, 2), 2),
    Case("no query", (2, 0, 2), (2, 3, 2), 2),
    Case("no token", (2, 0, 2), (2, 0, 2), 2),
    Case("no batch", (0, 2, 3, 2), (0, 2, 3, 2), 2),
    Case("head_dim 1, value_dim 1", (2, 4, 1), (2, 5, 1), 1, tiles=SMALL),
    Case("rows of zeros", (2, 5, 3), (2, 6, 3), 2, zero_rows=True, tiles=SMALL),
    Case("rows of zeros, not normalised", (2, 5, 3), (2, 6, 3), 2, {"normalise": False}, zero_rows=True),
    Case("exactly a tile", (1, 4, 3), (1, 4, 3), 2, tiles=(4, 4, 2)),
    Case("a tile and one", (1, 5, 3), (1, 5, 3), 2, tiles=(4, 4, 2)),
    Case("two tiles", (1, 8, 3), (1, 8, 3), 2, tiles=(4, 4, 2)),
    Case("short last tile", (2, 11, 4), (2, 10, 4), 3, tiles=(4, 4, 3), key_mask=(10,)),
    Case("batch that broadcasts", (2, 1, 2, 4, 3), (1, 3, 2, 5, 3), 2, tiles=SMALL),
    Case("mask of the keys", (2, 4, 3), (2, 6, 3), 2, key_mask=(6,)),
    Case("mask of nothing", (2, 4, 3), (2, 6, 3), 2, key_mask=(6,), nothing=True),
    Case("mask a batch", (2, 2, 4, 3), (2, 2, 6, 3), 2, key_mask=(2, 6), nothing=True, tiles=SMALL),
    Case("mask a key head", (4, 4, 3), (2, 6, 3), 2, key_mask=(2, 6), nothing=True, tiles=SMALL),
    Case("mask a query head", (4, 4, 3), (2, 6, 3), 2, key_mask=(4, 6), nothing=True, tiles=SMALL),
    Case("grouped heads, a scale a head", (4, 5, 3), (2, 6, 3), 2, scale=(4,), tiles=SMALL),
    Case("one key head, a scale a batch", (2, 3, 4, 3), (2, 1, 5, 3), 2, scale=(2, 3, 1, 1)),
    Case("a scale without axes", (2, 4, 3), (2, 5, 3), 2, scale=()),
    Case("not normalised", (2, 5, 3), (2, 6, 3), 2, {"normalise": False}, tiles=SMALL),
    Case("outputs of mean size one", (2, 5, 3), (2, 6, 3), 2, {"normalise_output": True}, key_mask=(6,), tiles=SMALL),
    Case("no linear term", (2, 5, 3), (2, 6, 3), 2, {"coefficients": (1.0, 0.0, 1.0)}),
    Case("a square", (2, 5, 3), (2, 6, 3), 2, {"coefficients": (0.25, 1.5, 2.25)}),
    Case("other coefficients", (2, 5, 3), (2, 6, 3), 2, {"coefficients": (2.0, -1.0, 0.5)}, tiles=SMALL),
    Case("dense mask", (4, 5, 3), (2, 6, 3), 2, attn_mask=(4, 5, 6), nothing=True, tiles=SMALL),
    Case("causal", (2, 9, 3), (2, 9, 3), 2, {"is_causal": True}, tiles=SMALL),
    Case("causal, as planned", (2, 6, 3), (2, 6, 3), 2, {"is_causal": True}),
    Case("causal, one token", (2, 1, 3), (2, 1, 3), 2, {"is_causal": True}),
    Case("causal, more queries", (1, 8, 3), (1, 5, 3), 2, {"is_causal": True}, tiles=SMALL),
    Case("causal, more keys", (1, 5, 3), (1, 8, 3), 2, {"is_causal": True}, tiles=SMALL),
    Case(
        "causal, groups and mask", (4, 7, 3), (2, 7, 3), 2, {"is_causal": True}, (4, 3, 2), (4,), (2, 7), nothing=True
    ),
    Case("causal in blocks", (2, 8, 3), (2, 8, 3), 2, {"block_causal": 3}, tiles=SMALL),
    Case("causal behind a prefix", (2, 8, 3), (2, 8, 3), 2, {"is_causal": True, "prefix_length": 3}, tiles=SMALL),
    Case("head_dim 32", (2, 12, 32), (2, 60, 32), 16, key_mask=(60,), gradients=False),
    Case("head_dim 64", (1, 6, 64), (1, 40, 64), 8, gradients=False),
)


def solve(case: Case, seed: int) -> dict[str, Any]:
    """Draw the arrays of a case and say what the definition makes of them."""
    rng = np.random.default_rng(seed)
    units: dict[str, Any] = {
        "query": rng.integers(-LARGEST, LARGEST + 1, case.query),
        "key": rng.integers(-LARGEST, LARGEST + 1, case.key),
        "value": rng.integers(-LARGEST, LARGEST + 1, (*case.key[:-1], case.value_dim)),
    }
    if case.zero_rows:
        units["query"][..., 1, :], units["key"][..., 0, :], units["key"][..., 3, :] = 0, 0, 0
    if case.scale is not None:
        units["scale"] = np.asarray(rng.integers(8, 64, case.scale))
    masks = {"key_mask": case.key_mask, "attn_mask": case.attn_mask}
    drawn = {name: _mask(rng, shape, nothing=case.nothing) for name, shape in masks.items() if shape is not None}
    arrays = {name: x * UNIT for name, x in units.items()}
    given = _for_oracle(case, arrays, drawn)
    exact = [arrays[name] for name in ("query", "key", "value")]
    expected: dict[str, Any] = {"output": attention_oracle(*exact, **given)}
    if case.gradients:
        units["cotangent"] = rng.integers(-LARGEST, LARGEST + 1, expected["output"].shape)
        found = gradients_oracle(*exact, units["cotangent"] * UNIT, **given)
        expected |= {f"gradient of {name}": by for name, (by, _) in found.items()}
    sizes = {f"gradient of {name}": size for name, (_, size) in found.items()} if case.gradients else {}
    return {
        "name": case.name,
        "options": case.options or {},
        "tiles": case.tiles,
        "arrays": {name: _listed(x) for name, x in units.items()},
        "masks": {name: _listed(x.astype(int)) for name, x in drawn.items()},
        "expected": {name: _listed(x) for name, x in expected.items()},
        "sizes": {"output": float(np.max(np.abs(expected["output"]), initial=0.0))} | sizes,
    }


def _mask(rng: np.random.Generator, shape: tuple[int, ...], *, nothing: bool) -> Any:
    mask = rng.random(shape) < 0.6
    mask[..., 0] = True
    if nothing:
        mask[-1 if len(shape) > 1 else ...] = False
    return mask


def _for_oracle(case: Case, arrays: dict[str, Any], masks: dict[str, Any]) -> dict[str, Any]:
    options = {"scale": arrays.get("scale"), "coefficients": DEFAULT} | (case.options or {})
    is_causal, block = options.pop("is_causal", False), options.pop("block_causal", 1)
    allowed = causal(case.query[-2], case.key[-2], block=block, prefix=options.pop("prefix_length", 0))
    if not is_causal and block == 1:
        allowed = masks.get("attn_mask")
    return options | {"key_mask": masks.get("key_mask"), "allowed": allowed}


def _listed(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "entries": np.ravel(array).tolist()}


def text() -> str:
    """Return the file: one line a problem."""
    lines = [json.dumps(solve(case, seed), separators=(",", ":")) for seed, case in enumerate(CASES)]
    return f'{{"unit":{UNIT},"problems":[\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
