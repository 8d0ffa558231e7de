"""Emission of the grouped kernels, for groups of at most a vector of outputs. A block is one vector of outputs: whole
groups side by side."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from waterline.algorithms.columns import ELEM_BYTES, ColumnKernel, ColumnTile
from waterline.codegen.cpu.emitter import I32, Emitter, Value


@dataclass(frozen=True)
class GroupedKernel(ColumnKernel):
    """Base: blocks of whole groups. Weights lie in the order in which they are used, row of the filter by row."""

    group_c: int
    group_k: int

    def input_channel(self, e: Emitter, channel: Value) -> Value:
        return e.mul(e.div(channel, self.group_k), self.group_c)

    def row_bytes(self, e: Emitter) -> int:
        """Of the weights of one row of the filter, for a block."""
        return self.group_c * self.columns.taps * e.lanes * ELEM_BYTES

    def weight_bytes(self, e: Emitter, block: Value, channel: Value) -> Value:
        return e.mul(block, self.rows.taps * self.row_bytes(e))


@dataclass(frozen=True)
class BroadcastKernel(GroupedKernel):
    """The lanes of a vector of sums are the outputs of one group, and for each of them several input channels: a pair
    of channels where a group is half a vector. So what meets a vector of weights is one pair of an input pixel,
    repeated, and a load repeats it: nothing is permuted between multiply-adds. Behind the last one the lanes of an
    output are added up, and the outputs of the groups of a block come together in one vector.

    Weights lie as (block, r, pair, group, s, lane); lanes as (output, channel of the pair).
    """

    def chains(self, lanes: int) -> int:
        return lanes // self.group_k

    def sum_row(
        self, e: Emitter, x: Value, weights: Value, row: Value, tile: ColumnTile, sums: list[Value]
    ) -> list[Value]:
        taps, vector_bytes, groups = self.columns.taps, e.lanes * ELEM_BYTES, e.lanes // self.group_k
        together = groups  # channels that a load repeats: as many as there are groups in a vector
        row_weights = e.at(weights, e.mul(row, self.row_bytes(e)))
        with e.carried_loop(0, self.group_c // together, 1, sums, name="step") as loop:
            sums = list(loop.values)
            step_weights = e.at(row_weights, e.mul(loop.index, groups * taps * vector_bytes))
            step_x = e.at(x, e.mul(loop.index, together * ELEM_BYTES))
            for group in range(groups):
                held = [e.load_vector(step_weights, (group * taps + s) * vector_bytes) for s in range(taps)]
                for column, pairs in tile.taps(self.columns).items():
                    e.forget_loads()
                    at = (column * self.x_strides[1] + group * self.group_c) * ELEM_BYTES
                    value = e.load_repeated(step_x, at, together)
                    for j, s in pairs:
                        sums[j * groups + group] = e.multiply_add(value, held[s], sums[j * groups + group])
            loop.carry(sums)
        return loop.results

    def combine(self, e: Emitter, chains: list[Value]) -> Value:
        """Pairs of vectors become one, whose lanes are sums of neighbours, until one is left: output by output."""
        b, kind = e.builder, ir.VectorType(I32, e.lanes)
        even, odd = (ir.Constant(kind, [2 * lane + first for lane in range(e.lanes)]) for first in (0, 1))
        while len(chains) > 1:
            chains = [
                b.fadd(b.shuffle_vector(one, other, even), b.shuffle_vector(one, other, odd))
                for one, other in zip(chains[::2], chains[1::2], strict=True)
            ]
        return chains[0]


@dataclass(frozen=True)
class PermuteKernel(GroupedKernel):
    """One permutation of an input vector puts channel c of each group in front of all outputs of its group; it then
    meets every tap of the filter row. For groups whose input channels `BroadcastKernel` cannot divide.

    Weights lie as (block, r, c, s, lane).
    """

    def sum_row(
        self, e: Emitter, x: Value, weights: Value, row: Value, tile: ColumnTile, sums: list[Value]
    ) -> list[Value]:
        sums = list(sums)
        taps, vector_bytes = self.columns.taps, e.lanes * ELEM_BYTES
        row_weights = e.at(weights, e.mul(row, self.row_bytes(e)))
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
