"""States of keys and values that come in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from compare import assert_same_bits
from problems import Problem, draw

from taylorshift_core import OptionError, ShapeError, State, StateFileError, summarise, summarise_chunks

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Library

PROBLEM = Problem(key_length=23, value_dim=2, heads=4, kv_heads=2, key_batch=(2,), value_batch=(2,), query_batch=(2,))
MASKS = ("absent", "keys", "batch", "batch, kv heads")


def _source(mask: str = "absent") -> tuple[Any, Any, Any]:
    (_, key, value), keywords = draw(Problem(**(vars(PROBLEM) | {"key_mask": mask})))
    return key.astype(np.float32), value.astype(np.float32), keywords["key_mask"]


def _here(library: Library, *arrays: Any) -> tuple[Any, ...]:
    return tuple(None if x is None else library.to_array(x) for x in arrays)


def _one_after_the_other(key: Any, value: Any, mask: Any, length: int) -> Any:
    """Return the sums that chunks of so many tokens add up to, in order."""
    state = None
    for first in range(0, key.shape[-2], length):
        part = slice(first, min(first + length, key.shape[-2]))
        new = summarise(key[..., part, :], value[..., part, :], key_mask=None if mask is None else mask[..., part])
        state = new if state is None else state + new
    assert state is not None
    return state.sums


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [1, 5, 22, 23, 24])
def test_sources_of_every_kind(library: Library, mask: str, length: int, tmp_path: Path) -> None:
    source = _source(mask)
    here = _here(library, *source)
    expected = _one_after_the_other(*here, length)
    as_they_are = summarise_chunks(*here[:2], key_mask=here[2], chunk_length=length)
    assert_same_bits(library, as_they_are.sums, expected)
    mapped = []
    for i, array in enumerate(source[:2]):
        np.save(tmp_path / f"{i}.npy", array)
        mapped.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    place = {"backend": library.name, "device": library.device}
    from_disk = summarise_chunks(*mapped, key_mask=source[2], chunk_length=length, **place)
    assert_same_bits(library, from_disk.sums, expected)
    assert library.device_of(from_disk.sums) == library.device_of(expected)


@pytest.mark.parametrize("mask", ["absent", "batch"])
def test_chunks_that_someone_else_makes(library: Library, mask: str) -> None:
    key, value, real = _here(library, *_source(mask))
    bounds = [(0, 4), (4, 4), (4, 17), (17, 23)]
    chunks = [tuple(x[..., a:b, :] for x in (key, value)) for a, b in bounds]
    if real is not None:
        chunks = [(*chunk, real[..., a:b]) for chunk, (a, b) in zip(chunks, bounds, strict=True)]
    done: list[int] = []
    state = summarise_chunks(iter(chunks), advance=done.append)
    assert done == [4, 0, 13, 6]
    difference = (state - summarise(key, value, key_mask=real)).sums
    np.testing.assert_allclose(library.exact(difference), 0, atol=1e-5)


def test_settings_reach_the_state(library: Library) -> None:
    key, value, _ = _here(library, *_source())
    options = {"normalise": False, "coefficients": (1.0, 0.5, 2.0)}
    state, whole = summarise_chunks(key, value, **options), summarise(key, value, **options)
    assert state.weighting == whole.weighting
    assert_same_bits(library, state.sums, whole.sums)


@pytest.mark.parametrize("length", [4, 100])
def test_no_tokens(library: Library, length: int) -> None:
    key, value, _ = (None if x is None else x[..., :0, :] for x in _here(library, *_source()))
    assert not library.exact(summarise_chunks(key, value, chunk_length=length).sums).any()


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("every", [1, 2])
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    library: Library, stop: int, every: int, tmp_path: Path
) -> None:
    key, value, mask = _here(library, *_source("batch"))
    options: dict[str, Any] = {"chunk_length": 4, "checkpoint": tmp_path / "sum", "checkpoint_every": every}
    whole = summarise_chunks(key, value, key_mask=mask, chunk_length=4)

    class Interrupted(Exception):  # noqa: N818
        pass

    seen: list[int] = []

    def advance(tokens: int) -> None:
        seen.append(tokens)
        if len(seen) > stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        summarise_chunks(key, value, key_mask=mask, advance=advance, **options)
    resumed = summarise_chunks(key, value, key_mask=mask, **options)
    assert_same_bits(library, resumed.sums, whole.sums)
    again = summarise_chunks(key, value, key_mask=mask, **options)
    assert_same_bits(library, again.sums, whole.sums)
    loaded = State.load(tmp_path / "sum", backend=library.name, device=library.device)
    assert_same_bits(library, loaded.sums, whole.sums)


def test_what_was_done_is_not_read_again(library: Library, tmp_path: Path) -> None:
    key, value, _ = _here(library, *_source())
    read: list[slice] = []

    class Source:
        shape, dtype = key.shape, key.dtype

        def __getitem__(self, place: tuple[Any, ...]) -> Any:
            read.append(place[1])
            return key[place]

    options = {"chunk_length": 4, "checkpoint": tmp_path / "sum"}
    summarise_chunks(Source(), value, **options)
    read.clear()
    done: list[int] = []
    summarise_chunks(Source(), value, advance=done.append, **options)
    assert read == [slice(0, 4)]  # the first chunk, to see that it is the same source
    assert done == [4, 4, 4, 4, 4, 3]


def test_a_checkpoint_of_something_else_is_refused(library: Library, tmp_path: Path) -> None:
    key, value, mask = _here(library, *_source("batch"))
    path = tmp_path / "sum"
    options: dict[str, Any] = {"chunk_length": 4, "checkpoint": path}
    summarise_chunks(key, value, **options)
    for changed, named in (
        ({"chunk_length": 5}, "chunk_length 4 instead of 5"),
        ({"normalise": False}, "normalise True instead of False"),
        ({"coefficients": (1, 1, 1)}, "coefficients"),
        ({"key_mask": mask}, "checksum of the first chunk"),
    ):
        with pytest.raises(OptionError, match=f"checkpoint .*sum must be of the same.*{named}"):
            summarise_chunks(key, value, **(options | changed))
    with pytest.raises(OptionError, match="checksum of the first chunk"):
        summarise_chunks(value, key, **options)
    with pytest.raises(OptionError, match="key_length 23 instead of 22"):
        summarise_chunks(key[..., :22, :], value[..., :22, :], **options)
    chunks = [(key, value)] * 3
    summarise_chunks(chunks, checkpoint=tmp_path / "chunks")
    with pytest.raises(OptionError, match=r"at least the 3 chunks that checkpoint .* holds; got 2"):
        summarise_chunks(chunks[:2], checkpoint=tmp_path / "chunks")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateFileError, match="must be a whole file"):
        summarise_chunks(key, value, **options)
    summarise(key, value).save(tmp_path / "plain")
    with pytest.raises(OptionError, match="chunk_length None instead of 4"):
        summarise_chunks(key, value, chunk_length=4, checkpoint=tmp_path / "plain")


def test_what_is_no_source(library: Library) -> None:
    key, value, _ = _here(library, *_source())
    with pytest.raises(OptionError, match="chunk_length must be an integer of at least 1; got 0"):
        summarise_chunks(key, value, chunk_length=0)
    with pytest.raises(OptionError, match="checkpoint_every must be"):
        summarise_chunks(key, value, checkpoint_every=0)
    with pytest.raises(OptionError, match="at least one chunk; got no chunks"):
        summarise_chunks([])
    with pytest.raises(OptionError, match=r"chunks \(key, value\)"):
        summarise_chunks([key])
    with pytest.raises(ShapeError, match="same length"):
        summarise_chunks(key, value[..., :5, :])
