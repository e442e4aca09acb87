"""Vectors of the processor in functions compiled by numba: what its own loops leave to chance is written as LLVM here.

A product of matrices is fast when a block of results stays in registers while its terms go by, and when each number
that is loaded meets several others. `block` is that loop, for all kernels in `_numpy_kernels`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_target = cpu_target.target_context.codegen().magic_tuple()[2]
_WIDE = "+avx512f" in _target
BYTES = 64 if _WIDE else 32  # of a vector; where the processor has narrower ones, LLVM splits them
ROWS = 12 if _WIDE else 6  # by two vectors: as many registers as a block of results may take
_INDEX = ir.IntType(64)


def index(value: int) -> ir.Constant:
    """Return a number as an index."""
    return ir.Constant(_INDEX, value)


class Vectors:
    """Writes loads, stores and products of whole vectors of one dtype into a function."""

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
        self.context, self.builder = context, builder
        self.lanes = BYTES * 8 // dtype.bitwidth
        self.type = ir.VectorType(context.get_data_type(dtype), self.lanes)
        self.suffix, self.bytes = f"v{self.lanes}f{dtype.bitwidth}", dtype.bitwidth // 8

    def pointer(self, kind: Any, array: Any, offset: Any) -> Any:
        """Return the address of an element of a contiguous array."""
        return self.at(self.context.make_array(kind)(self.context, self.builder, array).data, offset)

    def at(self, pointer: Any, offset: Any, times: int = 1) -> Any:
        """Return the address ``offset * times`` elements on."""
        if isinstance(offset, int):
            offset = index(offset * times)
        elif times != 1:
            offset = self.builder.mul(offset, index(times))
        return self.builder.gep(pointer, [offset])

    def zero(self) -> Any:
        """Return a vector of zeros."""
        return ir.Constant(self.type, [0.0] * self.lanes)

    def load(self, pointer: Any, place: int = 0) -> Any:
        """Return the vector at an address, or one of those behind it."""
        loaded = self.builder.load(self._cast(pointer, place))
        loaded.align = self.bytes
        return loaded

    def store(self, vector: Any, pointer: Any, place: int = 0) -> None:
        """Write a vector."""
        stored = self.builder.store(vector, self._cast(pointer, place))
        stored.align = self.bytes

    def spread(self, pointer: Any) -> Any:
        """Return a vector of one number."""
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, self.builder.load(pointer), ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def transposed(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Return the columns of as many vectors as each has numbers: shuffled like cards until all of a column are in one."""
        half, shuffles = self.lanes // 2, self.lanes.bit_length() - 1
        order = [
            [place + start * half + side * self.lanes for place in range(half) for side in (0, 1)] for start in (0, 1)
        ]
        low, high = (ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), each) for each in order)
        for _ in range(shuffles):
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [self.builder.shuffle_vector(*pair, places) for pair in pairs for places in (low, high)]
        return rows

    def times(self, first: Any, second: Any) -> Any:
        """Return a product of indices."""
        return self.builder.mul(first, second)

    def total(self, first: Any, second: Any) -> Any:
        """Return ``first + second``."""
        return self.builder.fadd(first, second)

    def product(self, first: Any, second: Any) -> Any:
        """Return ``first * second``."""
        return self.builder.fmul(first, second)

    def add_to(self, pointer: Any, place: int, more: Any, factor: Any = None) -> None:
        """Add a vector, perhaps times another, to the one in memory."""
        there = self.load(pointer, place)
        total = self.total(there, more) if factor is None else self.add_product(factor, more, there)
        self.store(total, pointer, place)

    def add_product(self, first: Any, second: Any, total: Any) -> Any:
        """Return ``first * second + total``, rounded once."""
        kind = ir.FunctionType(self.type, [self.type] * 3)
        return self.builder.call(self._function(kind, f"llvm.fma.{self.suffix}"), [first, second, total])

    def loop(self, count: Any, start: Sequence[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Return what ``values = body(i, values)`` makes of `start` for i = 0 .. count - 1."""
        builder, before = self.builder, self.builder.block
        head, done = builder.append_basic_block("head"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", count, index(0)), head, done)
        builder.position_at_end(head)
        i, values = builder.phi(_INDEX), [builder.phi(each.type) for each in start]
        after = body(i, values)
        following, tail = builder.add(i, index(1)), builder.block
        for phi, first, then in zip([i, *values], [index(0), *start], [following, *after], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(then, tail)
        builder.cbranch(builder.icmp_signed("<", following, count), head, done)
        builder.position_at_end(done)
        results = [builder.phi(each.type) for each in start]
        for phi, first, then in zip(results, start, after, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(then, tail)
        return results

    def block(
        self,
        count: Any,
        spread: Callable[[Any, int], Any],
        vectors: Callable[[Any], list[Any]],
        rows: int,
        columns: int,
    ) -> list[list[Any]]:
        """Return the sums over i of ``spread(i, row) * vectors(i)[column]``, a block of registers.

        `spread` gives the address of the number that a whole row is multiplied with.
        """

        def body(i: Any, sums: list[Any]) -> list[Any]:
            several = vectors(i)
            factors = (self.spread(spread(i, row)) for row in range(rows))
            pairs = ((factor, each) for factor in factors for each in several)
            return [self.add_product(*pair, total) for pair, total in zip(pairs, sums, strict=True)]

        sums = self.loop(count, [self.zero()] * (rows * columns), body)
        return [sums[row * columns : (row + 1) * columns] for row in range(rows)]

    def cases(self, value: Any, numbers: Sequence[int], write: Callable[[int], None]) -> None:
        """Write a case for each of `numbers` that `value` may be; for others, nothing happens."""
        builder = self.builder
        done = builder.append_basic_block("done")
        switch = builder.switch(value, done)
        for number in numbers:
            block = builder.append_basic_block(f"case{number}")
            switch.add_case(index(number), block)
            builder.position_at_end(block)
            write(number)
            builder.branch(done)
        builder.position_at_end(done)

    def _cast(self, pointer: Any, place: int) -> Any:
        return self.builder.bitcast(self.at(pointer, place * self.lanes), self.type.as_pointer())

    def _function(self, kind: Any, name: str) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, kind, name)
