"""The error of a stream of 100 000 tokens in float32, one at a time, against the definition in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pictures
import pytest

from taylorshift_core import Decoder

LENGTH, HEAD_DIM, VALUE_DIM = 100_000, 8, 4
BETWEEN = 100  # tokens from one that is compared to the next
Array = np.ndarray[Any, Any]


def _stream(query: Array, key: Array, value: Array) -> Array:
    decoder, outputs = Decoder(), []
    for i in range(LENGTH):
        output, decoder = decoder.step(query[i : i + 1], key[i : i + 1], value[i : i + 1])
        outputs.append(output)
    return np.concatenate(outputs)


def _definition(query: Array, key: Array, value: Array, i: int) -> tuple[Array, float]:
    """Return the output of token i, and the length of its weights as a vector beside their sum: 1 / sqrt(n) for equal ones."""
    unit_query, unit_keys = query[i] / np.linalg.norm(query[i]), key[: i + 1]
    scores = (unit_keys / np.linalg.norm(unit_keys, axis=-1, keepdims=True)) @ unit_query
    weights = 1 + scores + scores**2 / 2
    return weights @ value[: i + 1] / weights.sum(), float(np.linalg.norm(weights) / weights.sum())


@pytest.mark.parametrize("mean", [0.0, 1.0], ids=["values around 0", "values around 1"])
def test_the_error_of_a_stream(mean: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Values around 1 are the worst case: their sums grow with the length, and every addition rounds."""
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((LENGTH, n)).astype(np.float32) for n in (HEAD_DIM, HEAD_DIM, VALUE_DIM)]
    tokens[2] += np.float32(mean)
    outputs, exact = _stream(*tokens), [x.astype(np.float64) for x in tokens]
    places = np.arange(BETWEEN - 1, LENGTH, BETWEEN)
    errors = np.asarray([np.max(np.abs(outputs[i] - _definition(*exact, i)[0])) for i in places])
    eps, largest = float(np.finfo(np.float32).eps), float(np.max(np.abs(exact[2])))
    budget = 4 * eps * largest * np.sqrt(places + 1)
    with capsys.disabled():
        for decade in (1000, 10_000, 100_000):
            near = errors[(places < decade) & (places >= decade // 10)]
            print(f"\n{decade // 10:>6} to {decade:>6} tokens: largest error {near.max() / eps:8.2f} eps", end="")
        print()

    def draw(axes: Any) -> None:
        axes.plot(places + 1, errors, ".", markersize=3, color=pictures.COLOURS[0], label="largest error of an output")
        axes.plot(places + 1, budget, color=pictures.COLOURS[1], label="4 eps sqrt(n) max|value|")
        axes.plot(
            places + 1,
            errors[:10].max() * np.sqrt((places + 1) / places[9]),
            "--",
            color="gray",
            label="grows as sqrt(n)",
        )
        title = f"A stream in float32, values around {mean:g}"
        pictures.label(axes, title, "tokens so far", "error against float64 (of the output)")

    pictures.save(f"drift-around-{mean:g}", draw)
    assert (errors <= budget).all()
    first = errors[places < 1000].max()
    assert (errors <= first * np.sqrt((places + 1) / 100)).all()
