"""`Mapped`: a copy whose input index on some axes comes from a table: mirrored borders, nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Call, Input, Kernel, Output
from waterline.operators.lanes import load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, ITEM_ELEMS, chunk, is_batched
from waterline.operators.tables import Table
from waterline.spec import TensorView


@dataclass(frozen=True)
class MappedAxis:
    """`size` elements of the output; element i is the input's element indices[i], or i where there are none."""

    size: int
    output_stride: int
    input_stride: int
    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mapped(Kernel):
    """Args: output, input. `axes` are loops, outermost first, at least two; an item is `rows` of the last but one."""

    axes: tuple[MappedAxis, ...]
    batch: tuple[int, int]
    rows: int

    @property
    def image_items(self) -> int:
        return math.prod(axis.size for axis in self.axes[:-2]) * -(-self.axes[-2].size // self.rows)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = e.load_pointer(args, 0), e.load_pointer(args, 8)
        tables = [Table(e, f"indices{i}", axis.indices) if axis.indices else None for i, axis in enumerate(self.axes)]

        def moved(offsets: tuple[Value, Value], index: Value, axis: int) -> tuple[Value, Value]:
            table, loop = tables[axis], self.axes[axis]
            source = index if table is None else table[index]
            return (
                e.add(offsets[0], e.mul(index, loop.output_stride * F32_BYTES)),
                e.add(offsets[1], e.mul(source, loop.input_stride * F32_BYTES)),
            )

        blocks = -(-self.axes[-2].size // self.rows)
        with e.loop(begin, end, name="item") as item:
            n = e.div(item, self.image_items)
            rest = e.mod(item, self.image_items)
            offsets = (e.mul(n, self.batch[0] * F32_BYTES), e.mul(n, self.batch[1] * F32_BYTES))
            block, rest = e.mod(rest, blocks), e.div(rest, blocks)
            for axis in range(len(self.axes) - 3, -1, -1):
                offsets = moved(offsets, e.mod(rest, self.axes[axis].size), axis)
                rest = e.div(rest, self.axes[axis].size)
            first = e.mul(block, self.rows)
            stop = e.minimum(e.add(first, self.rows), self.axes[-2].size)
            with e.loop(first, stop, name="row") as row:
                self.copy_row(e, output, x, moved(offsets, row, len(self.axes) - 2), tables[-1])

    def copy_row(self, e: Emitter, output: Value, x: Value, offsets: tuple[Value, Value], table: Table | None) -> None:
        to, source = offsets
        axis = self.axes[-1]

        def piece(index: Value | int, place: Value | int, lanes: int, count: int | None) -> None:
            value = load_lanes(
                e, x, e.add(source, e.mul(place, axis.input_stride * F32_BYTES)), axis.input_stride, count, lanes
            )
            at = e.add(to, e.mul(index, axis.output_stride * F32_BYTES))
            store_lanes(e, value, output, at, axis.output_stride, count)

        if table is not None:
            with e.loop(0, axis.size, name="element") as index:
                piece(index, table[index], 1, None)
            return
        full, tail = divmod(axis.size, e.lanes)
        with e.loop(0, full * e.lanes, e.lanes, name="vector") as index:
            piece(index, index, e.lanes, None)
        if tail:
            piece(full * e.lanes, full * e.lanes, e.lanes, tail)


def lower_mapped(x: TensorView, y: TensorView, indices: Sequence[tuple[int, ...]]) -> list[Call]:
    """y[i, j, ...] = x[indices[0][i], indices[1][j], ...]; no indices on an axis: it is copied as it is."""
    batched = is_batched(y) and not indices[0]
    axes = [
        MappedAxis(y.shape[axis], y.strides[axis], x.strides[axis], indices[axis])
        for axis in range(int(batched), len(y.shape))
        if y.shape[axis] != 1 or indices[axis]
    ]
    axes.sort(key=lambda axis: -axis.output_stride)
    merged: list[MappedAxis] = []
    for axis in axes:
        outer = merged[-1] if merged else None
        if (
            outer is not None
            and not outer.indices
            and not axis.indices
            and outer.output_stride == axis.output_stride * axis.size
            and outer.input_stride == axis.input_stride * axis.size
        ):
            merged[-1] = replace(axis, size=outer.size * axis.size)
        else:
            merged.append(axis)
    while len(merged) < 2:
        merged.insert(0, MappedAxis(1, 0, 0))
    rows = max(1, min(merged[-2].size, ITEM_ELEMS // merged[-1].size))
    batch = (y.strides[0], x.strides[0]) if batched else (0, 0)
    kernel = Mapped(tuple(merged), batch, rows)
    items = kernel.image_items * (y.shape[0] if batched else 1)
    return [Call(kernel, (Output(), Input(0)), items, chunk(items, 2 * rows * merged[-1].size * F32_BYTES))]
