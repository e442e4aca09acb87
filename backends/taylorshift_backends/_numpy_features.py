"""Compiled loops over features: summed to a state, read of one, and folded back, for one tile of tokens.

The rows of a state in panels are ordered by the row of the tile that is multiplied, `i`, and then by the offset to the
other, see `_numpy_panels`; a state as the core has it is ordered by offset.
"""

from __future__ import annotations

from typing import Any

from taylorshift_backends import _numpy_kernels as kernels
from taylorshift_backends._numpy_jit import compiled, compiled_in_any_order
from taylorshift_backends._numpy_kernels import ALONG, PANEL, READERS
from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_panels import panel_at
from taylorshift_backends._numpy_vectors import BYTES, ROWS

Array = Any
_summarise_rows, _read_rows, _moments, _quadratic = kernels.summarise, kernels.read, kernels.moments, kernels.quadratic


@compiled
def n_rows(width: int) -> int:
    """Return how many rows a tile has with the first ones once more behind the last."""
    return width + width // 2 + 1


@compiled
def n_far(i: int, width: int) -> int:
    """Return how many features are row `i` times a row from `i` on."""
    return width // 2 + 1 if width % 2 or i < width // 2 else width // 2


@compiled
def n_near(offset: int, width: int) -> int:
    """Return how many features have so large an offset."""
    return width // 2 if 2 * offset == width else width


@compiled
def part_of(n: int, most: int, part: int) -> tuple[int, int]:
    """Return the first and the number of the rows in one of the parts of `n`, about as many in each, `most` at most."""
    parts = -(-n // most)
    first = n * part // parts
    return first, n * (part + 1) // parts - first


@compiled
def add_features(
    tile: Array, counts: Array, panels: Array, tokens: int, width: int, columns: int, sums: Array, moments: Array
) -> None:
    """Add the features of a tile times panels of values to sums, and times counts to moments, a vector a feature."""
    lanes, offsets = BYTES // tile.itemsize, width // 2 + 1
    for i in range(width):
        n = n_far(i, width)
        for part in range(-(-n // ROWS)):
            row, rows = part_of(n, ROWS, part)
            into = (i * offsets + row) * lanes
            _moments(tile, i * TOKENS, tile, (i + row) * TOKENS, counts, 0, moments, into, rows, -(-tokens // lanes))
    for at in range(0, columns, PANEL * lanes):
        vectors, _ = panel_at(at, columns, tile)
        for i in range(width):
            n, start = n_far(i, width), width * offsets * at + i * offsets * vectors * lanes
            for part in range(-(-n // ROWS)):
                row, rows = part_of(n, ROWS, part)
                near, far, into = i * TOKENS, (i + row) * TOKENS, start + row * vectors * lanes
                _summarise_rows(tile, near, tile, far, panels, at * TOKENS, sums, into, rows, vectors, tokens)


@compiled
def give_state(sums: Array, moments: Array, width: int, state: Array) -> None:
    """Write sums and moments to a state, (features, columns), ordered by offset."""
    for i in range(width):
        for offset in range(n_far(i, width)):
            give_row(sums, moments, width, i, offset, state[offset * width + i])


@compiled
def give_row(sums: Array, moments: Array, width: int, i: int, offset: int, row: Array) -> None:
    """Write the sums and the moment of one feature to a row of a state."""
    lanes, offsets, columns = BYTES // row.itemsize, width // 2 + 1, row.shape[0] - 1
    place = i * offsets + offset
    row[columns] = moments[place * lanes : (place + 1) * lanes].sum()
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, row)
        start = width * offsets * at + place * vectors * lanes
        for column in range(n):
            row[at + column] = sums[start + column]


@compiled
def take_state(weighted: Array, width: int, square: float, other: float, state: Array, form: Array) -> None:
    """Write a state, (features, columns), to panels, and its last column to a quadratic form.

    Features that are squares are multiplied by one factor, all others by another. What fills up a vector is zero.
    """
    lanes, offsets, step = BYTES // weighted.itemsize, width // 2 + 1, weighted.shape[1]
    columns, flat = step - 1, weighted.reshape(weighted.size)
    for at in range(0, columns, PANEL * lanes):
        vectors, n = panel_at(at, columns, weighted)
        span = vectors * lanes
        for offset in range(offsets):
            factor, start = other if offset else square, width * offsets * at + offset * span
            source, rows = offset * width * step + at, n_near(offset, width)
            for i in range(rows):
                here, into = source + i * step, start + i * offsets * span
                for column in range(n):
                    state[into + column] = flat[here + column] * factor
                state[into + n : into + span] = 0
    for offset in range(offsets):
        factor = other if offset else square
        for i in range(n_near(offset, width)):
            form[i * offsets + offset] = weighted[offset * width + i, columns] * factor


@compiled
def read_features(
    tile: Array, state: Array, form: Array, tokens: int, width: int, columns: int, panels: Array, last: Array
) -> None:
    """Write what the features of a tile read of panels of a state, and of the form, one number a token."""
    lanes, offsets = BYTES // tile.itemsize, width // 2 + 1
    last[:] = 0
    for i in range(width):
        for token in range(0, tokens, ALONG * lanes):
            here = i * TOKENS + token
            _quadratic(tile, here, tile, here, form, i * offsets, last, token, n_far(i, width))
    for at in range(0, columns, PANEL * lanes):
        vectors, _ = panel_at(at, columns, tile)
        span, readers, panel = vectors * lanes, READERS[vectors - 1], at * TOKENS
        panels[panel : panel + TOKENS * span] = 0
        for i in range(width):
            start = width * offsets * at + i * offsets * span
            for token in range(0, tokens, readers):
                here, into = i * TOKENS + token, panel + token * span
                _read_rows(tile, here, tile, here, state, start, panels, into, vectors, n_far(i, width))


@compiled
def quadratic_form(moments: Array, width: int, form: Array) -> None:
    """Write moments, a vector a feature, times their multiplicity."""
    form[:] = 0
    add_lanes(moments, form.shape[0], form)
    squares = form[:: width // 2 + 1]
    form *= 2
    squares /= 2


@compiled_in_any_order
def add_lanes(vectors: Array, n: int, sums: Array) -> None:
    """Add the lanes of each of so many vectors to a number each."""
    lanes = BYTES // vectors.itemsize
    for i in range(n):
        total = sums[i]
        for lane in range(lanes):
            total += vectors[i * lanes + lane]
        sums[i] = total


@compiled
def scale_squares(sums: Array, width: int, columns: int, factor: float) -> None:
    """Multiply the sums of the features that are squares: halved, all sums are half of what counts with multiplicity."""
    lanes, offsets = BYTES // sums.itemsize, width // 2 + 1
    for at in range(0, columns, PANEL * lanes):
        vectors, _ = panel_at(at, columns, sums)
        for i in range(width):
            start = width * offsets * at + i * offsets * vectors * lanes
            for place in range(start, start + vectors * lanes):
                sums[place] *= factor
