"""Reduce, and pooling of whole images: accumulations over some axes of a tensor.

Two ways, by where neighbours in memory lie: *across*, vectors of kept elements (channels, while space is reduced), and
*along*, vectors of reduced elements, whose lanes are merged at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Call, Input, Kernel, Output
from waterline.graph.ops import AdaptivePool, Reduce
from waterline.machine import Machine
from waterline.operators.accumulation import accumulate, merging
from waterline.operators.lanes import fold, keep, load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, ITEM_ELEMS, Nest, chunk, is_batched, merge_axes, nest
from waterline.spec import TensorView

ACCUMULATIONS = {"mean": "sum", "sum": "sum", "l2": "sum", "max": "max", "min": "min"}
ACCUMULATORS = 4  # vectors that are added to independently


@dataclass(frozen=True)
class Reduction(Kernel):
    """Args: output, input, as in `kept`.

    Attributes:
        kind: of `Reduce`.
        kept: loops over the output's elements.
        axes: (size, stride in elements) of the reduced loops, the innermost last.
        along: vectors lie along the innermost reduced loop.
    """

    kind: str
    kept: Nest
    axes: tuple[tuple[int, int], ...]
    along: bool

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = e.load_pointer(args, 0), e.load_pointer(args, 8)
        if self.along:
            self.reduce_along(e, output, x, begin, end)
        else:
            self.reduce_across(e, output, x, begin, end)

    def reduce_along(self, e: Emitter, output: Value, x: Value, begin: Value, end: Value) -> None:
        kind = ACCUMULATIONS[self.kind]
        neutral, merge = merging(e, kind)

        def point(offsets: list[Value]) -> None:
            to, source = offsets

            def term(offset: Value, count: int | None) -> list[Value]:
                value = load_lanes(e, x, e.add(source, offset), self.axes[-1][1], count)
                return [keep(e, self.prepared(e, value), count, neutral)]

            (lanes,) = accumulate(e, kind, self.axes, term, step=e.lanes, streams=ACCUMULATORS)
            store_lanes(e, self.finished(e, e.splat(fold(e, lanes, merge), 1)), output, to, 1)

        self.kept.for_each_point(e, begin, end, point)

    def reduce_across(self, e: Emitter, output: Value, x: Value, begin: Value, end: Value) -> None:
        stride_out, stride_in = (strides[-1] for strides in self.kept.strides)

        def group(offsets: list[Value], counts: list[int | None]) -> None:
            to, source = offsets
            step = e.lanes * F32_BYTES

            def term(offset: Value, _: int | None) -> list[Value]:
                place = e.add(source, offset)
                return [
                    self.prepared(e, load_lanes(e, x, e.add(place, v * step * stride_in), stride_in, count))
                    for v, count in enumerate(counts)
                ]

            streams = max(1, ACCUMULATORS // len(counts))
            totals = accumulate(e, ACCUMULATIONS[self.kind], self.axes, term, width=len(counts), streams=streams)
            for v, (total, count) in enumerate(zip(totals, counts, strict=True)):
                store_lanes(e, self.finished(e, total), output, e.add(to, v * step * stride_out), stride_out, count)

        self.kept.for_each_group(e, begin, end, group)

    def prepared(self, e: Emitter, value: Value) -> Value:
        return e.builder.fmul(value, value) if self.kind == "l2" else value

    def finished(self, e: Emitter, total: Value) -> Value:
        if self.kind == "l2":
            return functions.call(e, "sqrt", total)
        if self.kind == "mean":
            return e.builder.fdiv(total, functions.constant(total, math.prod(size for size, _ in self.axes)))
        return total


def lower_axes(
    kind: str, axes: Sequence[int], x: TensorView, kept_strides: Sequence[int], machine: Machine
) -> list[Call]:
    """The reduction of `axes`; `kept_strides` are the output's strides on every axis of x (any on reduced ones)."""
    batched = is_batched(x) and 0 not in axes
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    reduced = merge_axes([(x.shape[axis], x.strides[axis]) for axis in axes])
    along = math.prod(shape[int(batched) :]) == 1 or bool(reduced and reduced[-1][1] == 1)
    if along and not reduced:
        reduced = ((1, 1),)
    kept = nest(shape, [kept_strides, x.strides], batched=batched)
    count = math.prod(size for size, _ in reduced)
    lanes = machine.lanes()
    if along:
        kept = kept.with_points(ITEM_ELEMS // max(1, count))
        item_bytes = kept.item_elems * count * F32_BYTES
    else:
        vectors = -(-kept.sizes[-1] // lanes)
        width = min(ACCUMULATORS, max(1, vectors // 4))  # four items at least, where an image has one row only
        kept = kept.with_items(1, width * lanes)
        item_bytes = width * lanes * count * F32_BYTES
    items = kept.image_items * (x.shape[0] if batched else 1)
    kernel = Reduction(kind, kept, reduced, along)
    return [Call(kernel, (Output(), Input(0)), items, chunk(items, item_bytes))]


def lower_reduce(
    op: Reduce, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x, y = inputs[0], outputs[0]
    if op.keepdims:
        strides = list(y.strides)
    else:
        left = iter(y.strides)
        strides = [0 if axis in op.axes else next(left) for axis in range(len(x.shape))]
    return lower_axes(op.kind, op.axes, x, strides, machine)


def lower_global_pool(
    op: AdaptivePool, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    kind = {"average": "mean", "max": "max"}[op.kind]
    return lower_axes(kind, (2, 3), inputs[0], outputs[0].strides, machine)
