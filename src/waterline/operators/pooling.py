"""Pool and AdaptivePool: vectors of channels, windows from tables.

A window that lies inside the image wholly and is small is emitted without loops; others loop over the part of the
window that is inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import F32, Emitter, Value
from waterline.codegen.cpu.kernel import Call, Input, Kernel, Output
from waterline.codegen.cpu.power import power
from waterline.graph.ops import AdaptivePool, Pool
from waterline.machine import Machine
from waterline.operators.accumulation import merging
from waterline.operators.lanes import load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, Nest, chunk
from waterline.operators.reduction import lower_global_pool
from waterline.operators.tables import Table
from waterline.spec import TensorView

GROUP_VECTORS = 4
UNROLLED_TAPS = 12


@dataclass(frozen=True)
class Windows:
    """The windows of one spatial axis.

    Attributes:
        size: elements of the input.
        count: windows.
        taps: elements of a window; 0: adaptive windows, which share the axis evenly.
        stride, before, dilation: of windows with taps.
        padded: elements behind the input that an average counts, -1 where it counts none outside.
    """

    size: int
    count: int
    taps: int = 0
    stride: int = 1
    before: int = 0
    dilation: int = 1
    padded: int = -1

    def inside(self, window: int) -> range:
        """Indices of the input's elements in a window."""
        if self.taps == 0:
            return range(window * self.size // self.count, -(-(window + 1) * self.size // self.count))
        first = window * self.stride - self.before
        skipped = max(0, -(first // self.dilation))
        taps = range(first, first + self.taps * self.dilation, self.dilation)[skipped:]
        return range(taps.start, min(taps.stop, max(self.size, taps.start)), self.dilation)

    def divisor(self, window: int) -> int:
        """Elements that an average divides by."""
        if self.padded < 0 or self.taps == 0:
            return len(self.inside(window))
        first = window * self.stride - self.before
        return sum(first + t * self.dilation < self.size + self.padded for t in range(self.taps))

    @property
    def whole(self) -> range:
        """Windows with all of their taps inside."""
        windows = [w for w in range(self.count) if self.taps and len(self.inside(w)) == self.taps]
        return range(windows[0], windows[-1] + 1) if windows else range(0)


@dataclass(frozen=True)
class Pooling(Kernel):
    """Args: output, input.

    Attributes:
        kind, norm: of `Pool`.
        rows, columns: windows along H and W.
        input_strides: of H and W, in elements.
        loops: over the output's P, Q and C, in this order, a group of vectors in a span.
    """

    kind: str
    norm: int
    rows: Windows
    columns: Windows
    input_strides: tuple[int, int]
    loops: Nest

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = e.load_pointer(args, 0), e.load_pointer(args, 8)
        tables = [
            (
                Table(e, f"{name}.first", [w.inside(i).start for i in range(w.count)]),
                Table(e, f"{name}.taps", [len(w.inside(i)) for i in range(w.count)]),
                Table(e, f"{name}.divisor", [w.divisor(i) for i in range(w.count)]),
            )
            for name, w in (("rows", self.rows), ("columns", self.columns))
        ]
        stride_out, stride_in = (strides[-1] for strides in self.loops.strides)
        step = e.lanes * F32_BYTES
        start, merge = merging(e, "max" if self.kind == "max" else "sum")
        has_whole_windows = (
            self.rows.taps * self.columns.taps <= UNROLLED_TAPS and self.rows.whole and self.columns.whole
        )

        def load(place: Value, counts: list[int | None]) -> list[Value]:
            return [
                self.prepared(e, load_lanes(e, x, e.add(place, v * step * stride_in), stride_in, count))
                for v, count in enumerate(counts)
            ]

        def store(totals: list[Value], divisor: Value, to: Value, counts: list[int | None]) -> None:
            for v, (total, count) in enumerate(zip(totals, counts, strict=True)):
                result = self.finished(e, total, divisor)
                store_lanes(e, result, output, e.add(to, v * step * stride_out), stride_out, count)

        def whole_window(place: Value, to: Value, counts: list[int | None]) -> None:
            taps = [
                load(e.add(place, self.tap_offset(r, s)), counts)
                for r in range(self.rows.taps)
                for s in range(self.columns.taps)
            ]
            totals = [self.total(e, list(values)) for values in zip(*taps, strict=True)]
            store(totals, e.splat(float(len(taps)), e.lanes), to, counts)

        def partial_window(place: Value, p: Value, q: Value, to: Value, counts: list[int | None]) -> None:
            (_, row_taps, row_divisor), (_, column_taps, column_divisor) = tables
            neutral = [e.splat(start)] * len(counts)
            with e.carried_loop(0, row_taps[p], 1, neutral, name="r") as outer:
                row = e.add(place, e.mul(outer.index, self.tap_offset(1, 0)))
                with e.carried_loop(0, column_taps[q], 1, neutral, name="s") as inner:
                    values = load(e.add(row, e.mul(inner.index, self.tap_offset(0, 1))), counts)
                    inner.carry([merge(a, c) for a, c in zip(inner.values, values, strict=True)])
                outer.carry([merge(a, c) for a, c in zip(outer.values, inner.results, strict=True)])
            divisor = e.builder.sitofp(e.mul(row_divisor[p], column_divisor[q]), F32)
            store(outer.results, e.splat(divisor), to, counts)

        def window(offsets: list[Value], p: Value, q: Value, counts: list[int | None]) -> None:
            to, image = offsets
            row_stride, column_stride = self.input_strides
            place = e.add(image, e.mul(tables[0][0][p], row_stride * F32_BYTES))
            place = e.add(place, e.mul(tables[1][0][q], column_stride * F32_BYTES))
            if not has_whole_windows:
                partial_window(place, p, q, to, counts)
                return
            is_whole = e.builder.and_(is_in(e, p, self.rows.whole), is_in(e, q, self.columns.whole))
            with e.builder.if_else(is_whole) as (then, otherwise):
                with then:
                    whole_window(place, to, counts)
                with otherwise:
                    partial_window(place, p, q, to, counts)

        self.for_each_window(e, begin, end, window)

    def for_each_window(
        self,
        e: Emitter,
        begin: Value,
        end: Value,
        window: Callable[[list[Value], Value, Value, list[int | None]], None],
    ) -> None:
        """Work items are rows of outputs, a group of channels at a time."""
        p_count, q_count, channels = self.loops.sizes
        lanes = e.lanes
        group: list[int | None] = [None] * (self.loops.span // lanes)
        full, ragged = divmod(channels, self.loops.span)
        last: list[int | None] = [None] * (ragged // lanes) + ([ragged % lanes] if ragged % lanes else [])

        def along_row(offsets: list[Value], p: Value, counts: list[int | None]) -> None:
            with e.loop(0, q_count, name="q") as q:
                window(self.loops.moved(e, offsets, q, 1), p, q, counts)

        with e.loop(begin, end, name="item") as item:
            span = e.mod(item, self.loops.spans)
            row = e.div(item, self.loops.spans)
            p, n = e.mod(row, p_count), e.div(row, p_count)
            offsets = [e.mul(n, stride * F32_BYTES) for stride in self.loops.batch]
            offsets = self.loops.moved(e, offsets, p, 0)
            offsets = self.loops.moved(e, offsets, e.mul(span, self.loops.span), 2)
            if not full or not last:
                along_row(offsets, p, last or group)
            else:
                with e.builder.if_else(e.builder.icmp_unsigned("<", span, e.index(full))) as (then, otherwise):
                    with then:
                        along_row(offsets, p, group)
                    with otherwise:
                        along_row(offsets, p, last)

    def tap_offset(self, r: int, s: int) -> int:
        """Bytes from a window's first tap to tap (r, s)."""
        row, column = self.input_strides
        return (r * self.rows.dilation * row + s * self.columns.dilation * column) * F32_BYTES

    def total(self, e: Emitter, values: list[Value]) -> Value:
        """All of `values`, pairwise. NaN of a maximum is looked for beside it, two values at a time."""
        if self.kind != "max":
            while len(values) > 1:
                sums = [e.builder.fadd(a, c) for a, c in zip(values[::2], values[1::2], strict=False)]
                values = sums + ([values[-1]] if len(values) % 2 else [])
            return values[0]
        if e.machine.arch == "aarch64" or len(values) == 1:
            best = values[0]
            for value in values[1:]:
                best = functions.maximum(e, best, value)
            return best
        best = values[0]
        for value in values[1:]:
            best = functions.above(e, best, value)
        is_nan = functions.is_nan(e, values[-1])
        for a, c in zip(values[:-1:2], values[1::2], strict=False):
            is_nan = e.builder.or_(is_nan, functions.is_nan(e, a, c))
        return e.builder.select(is_nan, functions.constant(best, math.nan), best)

    def prepared(self, e: Emitter, value: Value) -> Value:
        if self.kind != "lp":
            return value
        if self.norm == 2:
            return e.builder.fmul(value, value)
        size = functions.call(e, "fabs", value)
        return size if self.norm == 1 else power(e, size, functions.constant(value, self.norm))

    def finished(self, e: Emitter, total: Value, divisor: Value) -> Value:
        if self.kind == "average":
            return e.builder.fdiv(total, divisor)
        if self.kind != "lp" or self.norm == 1:
            return total
        if self.norm == 2:
            return functions.call(e, "sqrt", total)
        return power(e, total, functions.constant(total, 1 / self.norm))


def is_in(e: Emitter, index: Value, indices: range) -> Value:
    """start <= index < stop, by one unsigned comparison."""
    return e.builder.icmp_unsigned("<", e.sub(index, indices.start), e.index(len(indices)))


def lower_windows(
    kind: str, norm: int, rows: Windows, columns: Windows, x: TensorView, y: TensorView, machine: Machine
) -> list[Call]:
    lanes = machine.lanes()
    channels = x.shape[1]
    # Elements that are not neighbours are loaded one by one: no more than a vector of them for each tap.
    width = min(GROUP_VECTORS, -(-channels // lanes)) if x.strides[1] == 1 else 1
    loops = Nest(
        (rows.count, columns.count, channels),
        ((y.strides[2], y.strides[3], y.strides[1]), (0, 0, x.strides[1])),
        (y.strides[0], x.strides[0]),
        rows=1,
        span=width * lanes,
    )
    items = x.shape[0] * rows.count * loops.spans
    taps = math.prod(w.taps or -(-w.size // w.count) for w in (rows, columns))
    item_bytes = columns.count * width * lanes * (taps + 3) // 4 * F32_BYTES  # taps are read again from L1
    kernel = Pooling(kind, norm, rows, columns, (x.strides[2], x.strides[3]), loops)
    return [Call(kernel, (Output(), Input(0)), items, chunk(items, item_bytes))]


def lower_pool(op: Pool, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine) -> list[Call]:
    x, y = inputs[0], outputs[0]
    rows, columns = (
        Windows(
            x.shape[2 + i],
            y.shape[2 + i],
            op.kernel[i],
            op.stride[i],
            op.pad[i],
            op.dilation[i],
            padded=op.pad[i + 2] if op.count_include_pad and op.kind == "average" else -1,
        )
        for i in (0, 1)
    )
    if y.shape[2:] == (1, 1) and op.kind != "lp" and len(rows.whole) == len(columns.whole) == 1:
        covers = all(len(w.inside(0)) == w.size and w.dilation == 1 for w in (rows, columns))
        if covers:
            return lower_global_pool(AdaptivePool(op.kind), inputs, outputs, machine)
    return lower_windows(op.kind, op.norm, rows, columns, x, y, machine)


def lower_adaptive_pool(
    op: AdaptivePool, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x, y = inputs[0], outputs[0]
    if op.size == (1, 1):
        return lower_global_pool(op, inputs, outputs, machine)
    rows, columns = (Windows(x.shape[2 + i], op.size[i]) for i in (0, 1))
    return lower_windows(op.kind, 2, rows, columns, x, y, machine)
