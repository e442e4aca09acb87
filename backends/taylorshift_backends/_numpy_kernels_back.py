"""The innermost products of gradients, beside those of `_numpy_kernels`: tokens lie along the vectors in all of them.

Results stand in tiles, feature by feature or column by column, as the factors do: then a block of results is as high as
there are rows, and no column is computed for nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from taylorshift_backends._numpy_kernels import NARROW, SPAN, kernel, row_of
from taylorshift_backends._numpy_options import TOKENS

if TYPE_CHECKING:
    from taylorshift_backends._numpy_vectors import Vectors

_Pointer = Any
_Number = Any


@kernel
def fold_back(
    v: Vectors,
    near: _Pointer,
    far: _Pointer,
    weighted: _Pointer,
    columns: _Pointer,
    to_near: _Pointer,
    to_far: _Pointer,
    rows: _Number,
    n: _Number,
    step: _Number,
) -> None:
    """Add the gradients of `rows` features to the rows they are products of, for SPAN vectors of tokens.

    The gradient to a feature is the sum over `n` columns of a row of `weighted`, `step` apart, times a row of `columns`.
    """

    def of_rows(n_rows: int) -> None:
        starts = [weighted]
        for _ in range(1, n_rows):
            starts.append(v.at(starts[-1], step))
        block = v.block(
            n,
            lambda i, row: v.at(starts[row], i),
            partial(row_of, v, columns, SPAN),
            n_rows,
            SPAN,
        )
        for place in range(SPAN):
            total = v.load(to_near, place)
            for row, gradients in enumerate(block):
                total = v.add_product(gradients[place], v.load(v.at(far, row * TOKENS), place), total)
            v.store(total, to_near, place)  # before the far rows: one of them may be the near one
            factor = v.load(near, place)
            for row, gradients in enumerate(block):
                v.add_to(v.at(to_far, row * TOKENS), place, gradients[place], factor)

    v.cases(rows, range(1, NARROW + 1), of_rows)


@kernel
def read_and_fold_back(
    v: Vectors,
    near: _Pointer,
    tile: _Pointer,
    form: _Pointer,
    columns: _Pointer,
    sums: _Pointer,
    to_near: _Pointer,
    rows: _Number,
    width: _Number,
    step: _Number,
) -> None:
    """Add what a row of a tile brings together with all rows, to sums, and to the gradient of that row.

    For SPAN vectors of tokens and `rows` columns: rows of the tile meet rows of the form, `step` apart; what comes of
    them is added to the sums times the near row, and to the gradient times the columns.
    """

    def of_rows(n_rows: int) -> None:
        def number(i: Any, row: int) -> Any:
            return v.at(v.at(form, v.times(i, step)), row)

        block = v.block(width, number, partial(row_of, v, tile, SPAN), n_rows, SPAN)
        for place in range(SPAN):
            total, factor = v.load(to_near, place), v.load(near, place)
            for row, found in enumerate(block):
                total = v.add_product(found[place], v.load(v.at(columns, row * TOKENS), place), total)
                v.add_to(v.at(sums, row * TOKENS), place, found[place], factor)
            v.store(total, to_near, place)

    v.cases(rows, range(1, NARROW + 1), of_rows)


@kernel
def score_back(
    v: Vectors,
    queries: _Pointer,
    cotangents: _Pointer,
    keys: _Pointer,
    values: _Pointer,
    squares: _Pointer,
    to_scores: _Pointer,
    width: _Number,
    columns: _Number,
) -> None:
    """Write the squared scores of NARROW queries and SPAN vectors of keys, and those times cotangents times values."""

    def met(near: Any, far: Any, n: Any) -> list[list[Any]]:
        return v.block(
            n, lambda i, query: v.at(v.at(near, i, TOKENS), query), partial(row_of, v, far, SPAN), NARROW, SPAN
        )

    for query, row in enumerate(met(queries, keys, width)):  # kept there: registers hold one block
        for place, score in enumerate(row):
            v.store(score, v.at(squares, query * TOKENS), place)
    for query, row in enumerate(met(cotangents, values, columns)):
        there, into = v.at(squares, query * TOKENS), v.at(to_scores, query * TOKENS)
        for place, to_square in enumerate(row):
            score = v.load(there, place)
            v.store(v.product(to_square, score), into, place)
            v.store(v.product(score, score), there, place)


@kernel
def weigh_across(v: Vectors, scores: _Pointer, tile: _Pointer, sums: _Pointer, rows: _Number, n: _Number) -> None:
    """Add to SPAN vectors of keys in `rows` rows of sums: the sums over `n` queries of rows of a tile times scores."""

    def of_rows(n_rows: int) -> None:
        block = v.block(
            n, lambda query, row: v.at(v.at(tile, row * TOKENS), query), partial(row_of, v, scores, SPAN), n_rows, SPAN
        )
        for row, found in enumerate(block):
            for place, total in enumerate(found):
                v.add_to(v.at(sums, row * TOKENS), place, total)

    v.cases(rows, range(1, NARROW + 1), of_rows)
