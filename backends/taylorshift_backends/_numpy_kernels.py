"""The innermost products of features and of scores: blocks of results in registers, one function for each.

A tile of tokens lies feature by feature, TOKENS numbers a row, with its first rows once more behind the last. Its
features with row `i` are that row times the rows from `i` on, and are never written down: to sum them times values, the
values are multiplied with row `i` once and then meet the other rows; to read a state with them, the other rows meet the
state, and what they read is multiplied with row `i` at the end.

A kernel takes arrays, each with the place of its first element, then numbers. Values, sums and states come in panels of
so many vectors of columns, row after row.
"""

from __future__ import annotations

from functools import partial
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any

from numba import types
from numba.extending import intrinsic

from taylorshift_backends._numpy_options import TOKENS
from taylorshift_backends._numpy_vectors import ROWS, Vectors

if TYPE_CHECKING:
    from collections.abc import Callable

PANEL = 2  # vectors of columns
SPAN = 2  # vectors of tokens in a block of scores
NARROW = ROWS * PANEL // SPAN  # rows in a block of scores
READERS = (2 * ROWS, ROWS)  # tokens in a block that reads a panel of one vector, of two
ALONG = 6  # vectors of tokens at once in a quadratic form
_Pointer = Any
_Number = Any


def kernel(write: Callable[..., None]) -> Any:
    """Return what numba takes for a function; `write` is given vectors of the arrays' dtype, pointers, and numbers."""

    def typed(typing: Any, *arguments: Any) -> Any:  # noqa: ARG001  as numba calls it
        kinds = [each if isinstance(each, types.Array) else types.intp for each in arguments]

        def code(context: Any, builder: Any, _: Any, values: list[Any]) -> None:
            vectors, given = Vectors(context, builder, kinds[0].dtype), []
            remaining = iter(zip(kinds, values, strict=True))
            for kind, value in remaining:
                is_array = isinstance(kind, types.Array)
                given.append(vectors.pointer(kind, value, next(remaining)[1]) if is_array else value)
            write(vectors, *given)

        return types.void(*kinds), code

    typed.__signature__ = _signature(write)  # type: ignore[attr-defined]  # numba asks how many arguments there are
    return intrinsic(typed)


def row_of(v: Vectors, tile: _Pointer, count: int, row: _Number) -> list[Any]:
    """Return the first vectors of a row of a tile."""
    return [v.load(v.at(tile, row, TOKENS), place) for place in range(count)]


def _signature(write: Callable[..., None]) -> Signature:
    """Return the signature of the function that `write` writes: two arguments for each pointer."""
    _, *named = signature(write).parameters.values()
    names = [
        name
        for each in named
        for name in ((each.name, f"{each.name}_at") if each.annotation == "_Pointer" else (each.name,))
    ]
    return Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("typing", *names)])


@kernel
def transpose(v: Vectors, rows: _Pointer, columns: _Pointer, step: _Number, apart: _Number) -> None:
    """Write as many rows of a vector each, `step` apart, as the vector has numbers, as columns: rows so far `apart`."""
    start, into, vectors = rows, columns, []
    for _ in range(v.lanes):
        vectors.append(v.load(start))
        start = v.at(start, step)
    for vector in v.transposed(vectors):
        v.store(vector, into)
        into = v.at(into, apart)


@kernel
def copy(
    v: Vectors,
    source: _Pointer,
    target: _Pointer,
    step: _Number,
    stride: _Number,
    columns: _Number,
    n: _Number,
) -> None:
    """Write `n` rows of so many vectors, `step` apart, to rows `stride` apart."""

    def of_panel(columns: int) -> None:
        def body(row: Any, _: list[Any]) -> list[Any]:
            here, there = v.at(source, v.times(row, step)), v.at(target, v.times(row, stride))
            for column in range(columns):
                v.store(v.load(here, column), there, column)
            return []

        v.loop(n, [], body)

    v.cases(columns, range(1, PANEL + 1), of_panel)


@kernel
def divide(
    v: Vectors,
    panel: _Pointer,
    shift: _Pointer,
    factors: _Pointer,
    output: _Pointer,
    step: _Number,
    columns: _Number,
    n: _Number,
) -> None:
    """Write ``(row + shift) * factor`` of `n` rows of a panel to rows `step` apart."""

    def of_panel(columns: int) -> None:
        shifts = [v.load(shift, column) for column in range(columns)]

        def body(row: Any, _: list[Any]) -> list[Any]:
            here, there = v.at(panel, row, columns * v.lanes), v.at(output, v.times(row, step))
            factor = v.spread(v.at(factors, row))
            for column, each in enumerate(shifts):
                v.store(v.product(v.total(v.load(here, column), each), factor), there, column)
            return []

        v.loop(n, [], body)

    v.cases(columns, range(1, PANEL + 1), of_panel)


@kernel
def summarise(
    v: Vectors,
    near: _Pointer,
    far: _Pointer,
    values: _Pointer,
    sums: _Pointer,
    rows: _Number,
    panel: _Number,
    n: _Number,
) -> None:
    """Add to `rows` rows of sums: the sums over `n` tokens of a far row times the near one times values."""

    def of_panel(columns: int) -> None:
        def weighted(token: Any) -> list[Any]:
            factor, row = v.spread(v.at(near, token)), v.at(values, token, columns * v.lanes)
            return [v.product(factor, v.load(row, column)) for column in range(columns)]

        def of_rows(n_rows: int) -> None:
            block = v.block(n, lambda token, row: v.at(v.at(far, row * TOKENS), token), weighted, n_rows, columns)
            for place, total in enumerate(each for row in block for each in row):
                v.add_to(sums, place, total)

        v.cases(rows, range(1, ROWS + 1), of_rows)

    v.cases(panel, range(1, PANEL + 1), of_panel)


@kernel
def read(
    v: Vectors, near: _Pointer, far: _Pointer, state: _Pointer, sums: _Pointer, panel: _Number, offsets: _Number
) -> None:
    """Add to the sums of READERS[panel - 1] tokens: the sums over far rows of those times near ones times rows of a state."""

    def of_panel(columns: int) -> None:
        def rows(offset: Any) -> list[Any]:
            row = v.at(state, offset, columns * v.lanes)
            return [v.load(row, column) for column in range(columns)]

        readers = READERS[columns - 1]
        block = v.block(offsets, lambda offset, token: v.at(v.at(far, offset, TOKENS), token), rows, readers, columns)
        for token, row in enumerate(block):
            factor = v.spread(v.at(near, token))
            for column, total in enumerate(row):
                v.add_to(sums, token * columns + column, total, factor)

    v.cases(panel, range(1, PANEL + 1), of_panel)


@kernel
def moments(
    v: Vectors, near: _Pointer, far: _Pointer, weights: _Pointer, sums: _Pointer, rows: _Number, spans: _Number
) -> None:
    """Add to `rows` vectors: the sums over `spans` vectors of tokens of a far row times the near one times weights."""

    def of_rows(n_rows: int) -> None:
        def body(place: Any, totals: list[Any]) -> list[Any]:
            here = [v.at(each, place, v.lanes) for each in (near, weights, far)]
            factor = v.product(v.load(here[0]), v.load(here[1]))
            others = (v.load(v.at(here[2], row * TOKENS)) for row in range(n_rows))
            return [v.add_product(factor, other, total) for other, total in zip(others, totals, strict=True)]

        for row, total in enumerate(v.loop(spans, [v.zero()] * n_rows, body)):
            v.add_to(sums, row, total)

    v.cases(rows, range(1, ROWS + 1), of_rows)


@kernel
def quadratic(v: Vectors, near: _Pointer, far: _Pointer, form: _Pointer, sums: _Pointer, offsets: _Number) -> None:
    """Add to one number a token, of ALONG vectors: the sum over far rows of those times the near one times a number each."""
    (row,) = v.block(offsets, lambda offset, _: v.at(form, offset), partial(row_of, v, far, ALONG), 1, ALONG)
    for place, total in enumerate(row):
        v.add_to(sums, place, total, v.load(near, place))


@kernel
def score(
    v: Vectors,
    queries: _Pointer,
    keys: _Pointer,
    weights: _Pointer,
    scores: _Pointer,
    totals: _Pointer,
    width: _Number,
) -> None:
    """Write the squared scores of NARROW queries and SPAN vectors of keys; add them, times weights, to a vector a query."""
    block = v.block(
        width,
        lambda i, query: v.at(v.at(queries, i, TOKENS), query),
        partial(row_of, v, keys, SPAN),
        NARROW,
        SPAN,
    )
    for query, row in enumerate(block):
        squares = [v.product(each, each) for each in row]
        total = v.load(totals, query)
        for place, square in enumerate(squares):
            v.store(square, v.at(scores, query * TOKENS), place)
            total = v.add_product(square, v.load(weights, place), total)
        v.store(total, totals, query)


@kernel
def weigh(v: Vectors, scores: _Pointer, values: _Pointer, sums: _Pointer, panel: _Number, n: _Number) -> None:
    """Add to the sums of ROWS queries: their sums over `n` keys of squared scores times values."""

    def of_panel(columns: int) -> None:
        def rows(key: Any) -> list[Any]:
            row = v.at(values, key, columns * v.lanes)
            return [v.load(row, column) for column in range(columns)]

        block = v.block(n, lambda key, query: v.at(v.at(scores, query * TOKENS), key), rows, ROWS, columns)
        for place, total in enumerate(each for row in block for each in row):
            v.add_to(sums, place, total)

    v.cases(panel, range(1, PANEL + 1), of_panel)


@kernel
def add_totals(
    v: Vectors, sums: _Pointer, values: _Pointer, before: _Pointer, after: _Pointer, factors: _Pointer, shares: _Pointer,
    panel: _Number, n: _Number,
) -> None:  # fmt: skip
    """Multiply the sums of `n` tokens by a factor each, and add the totals of values up to each times a share each."""

    def of_panel(columns: int) -> None:
        start = [v.load(before, column) for column in range(columns)]

        def body(token: Any, own: list[Any]) -> list[Any]:
            here, value = (v.at(each, token, columns * v.lanes) for each in (sums, values))
            factor, share = (v.spread(v.at(each, token)) for each in (factors, shares))
            own = [v.total(each, v.load(value, column)) for column, each in enumerate(own)]
            for column, each in enumerate(own):
                total = v.product(v.total(start[column], each), share)
                v.store(v.add_product(v.load(here, column), factor, total), here, column)
            return own

        for column, each in enumerate(v.loop(n, [v.zero()] * columns, body)):
            v.store(v.total(start[column], each), after, column)

    v.cases(panel, range(1, PANEL + 1), of_panel)
