"""Emission of the grouped kernel for groups narrower than a vector."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from waterline.algorithms.columns import ELEM_BYTES, ColumnKernel, ColumnTile
from waterline.codegen.cpu.emitter import I32, Emitter, Value


@dataclass(frozen=True)
class GroupedKernel(ColumnKernel):
    """A vector of outputs holds whole groups. One permutation of an input vector puts channel c of each group in front
    of all outputs of its group; it then meets every tap of the filter row.

    Weights lie as (block, r, c, s, lane): for each block of outputs, the vectors in the order in which they are used.
    """

    group_c: int
    group_k: int

    def input_channel(self, e: Emitter, channel: Value) -> Value:
        return e.mul(e.div(channel, self.group_k), self.group_c)

    def weight_bytes(self, e: Emitter, block: Value, channel: Value) -> Value:
        return e.mul(block, self.rows.taps * self.group_c * self.columns.taps * e.lanes * ELEM_BYTES)

    def sum_row(
        self, e: Emitter, x: Value, weights: Value, row: Value, tile: ColumnTile, sums: list[Value]
    ) -> list[Value]:
        sums = list(sums)
        taps, vector_bytes = self.columns.taps, e.lanes * ELEM_BYTES
        row_weights = e.at(weights, e.mul(row, self.group_c * taps * vector_bytes))
        reads = tile.taps(self.columns)
        loaded = e.lanes // self.group_k * self.group_c
        for c in range(self.group_c):
            held = [e.load_vector(row_weights, (c * taps + s) * vector_bytes) for s in range(taps)]
            lanes = [lane // self.group_k * self.group_c + c for lane in range(e.lanes)]
            mask = ir.Constant(ir.VectorType(I32, e.lanes), lanes)
            for column, pairs in reads.items():
                e.forget_loads()
                data = e.load_vector(x, column * self.x_strides[1] * ELEM_BYTES, lanes=loaded)
                value = e.builder.shuffle_vector(data, ir.Constant(data.type, ir.Undefined), mask)
                for j, s in pairs:
                    sums[j] = e.multiply_add(value, held[s], sums[j])
        return sums
