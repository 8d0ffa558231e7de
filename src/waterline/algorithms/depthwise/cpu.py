"""Emission of the depthwise kernel."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.algorithms.columns import ELEM_BYTES, ColumnKernel, ColumnTile
from waterline.codegen.cpu.emitter import Emitter, Value


@dataclass(frozen=True)
class DepthwiseKernel(ColumnKernel):
    """Vectors run over channels. An input vector is loaded once a filter row and meets all its taps in registers.

    `live_taps` filter columns are held in registers at a time. Weights lie as (r, s, c).
    """

    live_taps: int

    def input_channel(self, e: Emitter, channel: Value) -> Value:
        return channel

    def weight_bytes(self, e: Emitter, block: Value, channel: Value) -> Value:
        return e.mul(channel, ELEM_BYTES)

    def sum_row(
        self, e: Emitter, x: Value, weights: Value, row: Value, tile: ColumnTile, sums: list[Value]
    ) -> list[Value]:
        sums = list(sums)
        counts = self.counts(e.lanes)
        taps, channel_bytes = self.columns.taps, self.output_channels * ELEM_BYTES
        row_weights = e.at(weights, e.mul(row, taps * channel_bytes))
        reads = tile.taps(self.columns)
        for first in range(0, taps, self.live_taps):
            if first:
                e.forget_loads()
            live = range(first, min(first + self.live_taps, taps))
            held = {
                (s, v): e.load_vector(row_weights, s * channel_bytes + v * e.lanes * ELEM_BYTES, count)
                for s in live
                for v, count in enumerate(counts)
            }
            for column, pairs in reads.items():
                here = [(j, s) for j, s in pairs if s in live]
                if not here:
                    continue
                for v, count in enumerate(counts):
                    at = (column * self.x_strides[1] + v * e.lanes) * ELEM_BYTES
                    value = e.load_vector(x, at, count)
                    for j, s in here:
                        i = j * self.vectors + v
                        sums[i] = e.multiply_add(value, held[s, v], sums[i])
        return sums
