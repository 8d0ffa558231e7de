"""Resize: nearest neighbours as a mapped copy; linear and cubic as weighted sums of 2 x 2 or 4 x 4 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Call, Input, Kernel, Output
from waterline.graph.ops import Resize
from waterline.machine import Machine
from waterline.operators.lanes import load_lanes, store_lanes
from waterline.operators.mapping import lower_mapped
from waterline.operators.nest import F32_BYTES, ITEM_ELEMS, chunk
from waterline.operators.tables import Table
from waterline.reference.movement import coordinates, neighbours
from waterline.spec import TensorView


@dataclass(frozen=True)
class Taps:
    """For each output position of an axis: the input's indices and their weights, as many for each."""

    indices: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, op: Resize, axis: int, size: int, count: int) -> Taps:
        scale = None if op.scale is None else op.scale[axis]
        indices, weights = neighbours(op, coordinates(op, count, size, scale))
        inside = np.clip(np.stack(indices), 0, size - 1).T
        rounded = np.stack(weights).astype(np.float32).T
        return cls(
            tuple(tuple(int(i) for i in row) for row in inside),
            tuple(tuple(float(w) for w in row) for row in rounded),
        )


@dataclass(frozen=True)
class Interpolation(Kernel):
    """Args: output, input. A work item is `span` channels of a row of the output.

    Attributes:
        strides: of N, C, H and W in elements; output, then input.
    """

    rows: Taps
    columns: Taps
    channels: int
    span: int
    strides: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def spans(self) -> int:
        return -(-self.channels // self.span)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = e.load_pointer(args, 0), e.load_pointer(args, 8)
        p_count, q_count = len(self.rows.indices), len(self.columns.indices)
        taps = len(self.rows.indices[0])
        (n_out, c_out, h_out, w_out), (n_in, c_in, h_in, w_in) = (
            tuple(stride * F32_BYTES for stride in strides) for strides in self.strides
        )
        full, tail = divmod(self.channels, e.lanes)
        tables = [
            (
                Table(e, f"{name}.indices", [i for row in axis.indices for i in row]),
                Table(e, f"{name}.weights", [w for row in axis.weights for w in row], whole=False),
            )
            for name, axis in (("rows", self.rows), ("columns", self.columns))
        ]

        def lookup(axis: int, position: Value, stride: int) -> tuple[list[Value], list[Value]]:
            """Offsets in bytes and weights of a position's taps."""
            places = [e.add(e.mul(position, taps), tap) for tap in range(taps)]
            indices, weights = tables[axis]
            return [e.mul(indices[place], stride) for place in places], [e.splat(weights[place]) for place in places]

        with e.loop(begin, end, name="item") as item:
            span, row = e.mod(item, self.spans), e.div(item, self.spans)
            p, n = e.mod(row, p_count), e.div(row, p_count)
            first = e.mul(span, self.span)
            stop = e.minimum(e.add(first, self.span), full * e.lanes)
            row_offsets, row_weights = lookup(0, p, h_in)
            source = e.mul(n, n_in)
            to = e.add(e.mul(n, n_out), e.mul(p, h_out))
            with e.loop(0, q_count, name="q") as q:
                column_offsets, column_weights = lookup(1, q, w_in)
                pixel = e.add(to, e.mul(q, w_out))

                def vector(channel: Value | int, count: int | None) -> None:
                    base = e.add(source, e.mul(channel, c_in))
                    total = None
                    for row_offset, row_weight in zip(row_offsets, row_weights, strict=True):
                        line = None
                        for column_offset, column_weight in zip(column_offsets, column_weights, strict=True):
                            place = e.add(e.add(base, row_offset), column_offset)
                            value = load_lanes(e, x, place, self.strides[1][1], count)
                            line = (
                                e.builder.fmul(value, column_weight)
                                if line is None
                                else e.multiply_add(value, column_weight, line)
                            )
                        total = (
                            e.builder.fmul(line, row_weight)
                            if total is None
                            else e.multiply_add(line, row_weight, total)
                        )
                    store_lanes(e, total, output, e.add(pixel, e.mul(channel, c_out)), self.strides[0][1], count)

                with e.loop(first, stop, e.lanes, name="channel") as channel:
                    vector(channel, None)
                if tail:
                    with e.when(e.builder.icmp_signed("==", span, e.index(self.spans - 1))):
                        vector(full * e.lanes, tail)


def lower_resize(
    op: Resize, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x, y = inputs[0], outputs[0]
    taps = [Taps.of(op, axis, x.shape[2 + axis], y.shape[2 + axis]) for axis in (0, 1)]
    if op.mode == "nearest":
        indices = [tuple(row[0] for row in axis.indices) for axis in taps]
        identity = [tuple(range(x.shape[2 + axis])) == indices[axis] for axis in (0, 1)]
        return lower_mapped(x, y, [(), (), *(() if same else i for same, i in zip(identity, indices, strict=True))])
    lanes = machine.lanes()
    channels, columns = x.shape[1], y.shape[3]
    wanted = max(1, ITEM_ELEMS // columns // lanes) * lanes
    span = min(wanted, -(-channels // lanes) * lanes)
    kernel = Interpolation(taps[0], taps[1], channels, span, (y.strides, x.strides))
    items = x.shape[0] * y.shape[2] * kernel.spans
    weight = len(taps[0].indices[0]) ** 2 // 2
    return [Call(kernel, (Output(), Input(0)), items, chunk(items, span * columns * F32_BYTES * weight))]
