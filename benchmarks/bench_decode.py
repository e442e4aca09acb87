"""One step of decoding after 10**2 to 10**6 tokens: the state against a cache of all keys and values.

8 heads, head_dim 32, float32. Caches are allocated at full length and filled; a step writes its key and value, and
softmax attends to all before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pictures
import pytest

from taylorshift_core.cli.figures.decoders import DECODERS, HEAD_DIM, HEADS, state, tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LENGTHS = (100, 1000, 10_000, 100_000, 1_000_000)
STEPS = {
    100: 400,
    1000: 400,
    10_000: 100,
    100_000: 20,
    1_000_000: 5,
}  # for caches; the state takes one length as another


def torch_cache(length: int) -> tuple[Callable[[], Any], int]:
    """Return a step of scaled_dot_product_attention over a cache, in PyTorch."""
    torch = pytest.importorskip("torch")
    _, keys, values = (torch.from_numpy(x)[None] for x in tokens(length))
    query, key, value = (torch.from_numpy(x)[None] for x in tokens(1, seed=1))

    def step() -> Any:
        keys[:, :, -1:], values[:, :, -1:] = key, value
        with torch.inference_mode():
            return torch.nn.functional.scaled_dot_product_attention(query, keys, values)

    return step, keys.nbytes + values.nbytes


WAYS = DECODERS | {"softmax, cache (PyTorch)": torch_cache}


@dataclass
class Curves:
    """Seconds of every step and bytes kept, by way and length."""

    seconds: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    kept: dict[str, dict[int, int]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def curves() -> Iterator[Curves]:
    """Collect what is measured, then draw it and hold it to what is claimed."""
    found = Curves()
    yield found
    if set(map(len, found.seconds.values())) == {len(LENGTHS)}:
        pictures.save("decode", lambda *axes: _draw(found, *axes), n_axes=2)


def _draw(curves: Curves, left: Any, right: Any) -> None:
    styles = [{"color": c, "marker": m} for c, m in zip(pictures.COLOURS, pictures.MARKERS, strict=True)]
    for style, (way, runs) in zip(styles, curves.seconds.items(), strict=False):
        left.plot(LENGTHS, [1e6 * median(runs[n]) for n in LENGTHS], label=way, **style)
        low, high = 1e6 * np.asarray([np.percentile(runs[n], (25, 75)) for n in LENGTHS]).T
        left.fill_between(LENGTHS, low, high, color=style["color"], alpha=0.2, linewidth=0)
        right.plot(LENGTHS, [curves.kept[way][n] / 1e6 for n in LENGTHS], label=way, **style)
    sizes = f"{HEADS} heads, head_dim {HEAD_DIM}, float32"
    pictures.label(
        left, f"One step of decoding: {sizes}", "tokens before", "time (µs; line: median, band: middle half)"
    )
    pictures.label(right, "What is kept of the tokens before", "tokens before", "memory (MB)")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_step(benchmark: Any, curves: Curves, way: str, length: int) -> None:
    step, kept = WAYS[way](length)
    benchmark.group = f"a step after {length} tokens"
    benchmark.extra_info["bytes"] = kept
    benchmark.pedantic(step, rounds=400 if way.startswith("state") else STEPS[length], warmup_rounds=3)
    if benchmark.stats is not None:  # there is none with --benchmark-disable
        curves.seconds.setdefault(way, {})[length] = sorted(benchmark.stats.stats.data)
        curves.kept.setdefault(way, {})[length] = kept


def test_time_and_memory_of_the_state_are_constant() -> None:
    """In turns, so that what else the machine does meets all lengths alike."""
    from time import perf_counter

    steps = {length: state(length) for length in (LENGTHS[0], LENGTHS[-1])}
    seconds: dict[int, list[float]] = {length: [] for length in steps}
    for _ in range(640):
        for length, (step, _) in steps.items():
            start = perf_counter()
            step()
            seconds[length].append(perf_counter() - start)
    short, long = (median(each) for each in seconds.values())
    assert 0.8 < long / short < 1.25
    assert len({kept for _, kept in steps.values()}) == 1
