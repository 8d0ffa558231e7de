"""Softmax: three passes over each row, in vectors along it or across many rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Call, Input, Kernel, Output
from waterline.graph.ops import Softmax
from waterline.machine import Machine
from waterline.operators.accumulation import accumulate, merging
from waterline.operators.lanes import fold, keep, load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, ITEM_ELEMS, Nest, chunk, is_batched, nest
from waterline.spec import TensorView

STREAMS = 2  # exponentials in flight; each is emitted once for every stream
EXP_WEIGHT = 8  # an exponential takes the time of so many copies


@dataclass(frozen=True)
class SoftmaxKernel(Kernel):
    """Args: output, input.

    Attributes:
        log: the logarithm of the result.
        size, strides: of the axis, output and input.
        rows: loops over the other axes; operands output and input.
        along: vectors lie along the axis.
    """

    log: bool
    size: int
    strides: tuple[int, int]
    rows: Nest
    along: bool

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        pointers = e.load_pointer(args, 0), e.load_pointer(args, 8)
        if self.along:
            self.rows.for_each_point(
                e, begin, end, lambda offsets: self.emit_rows(e, pointers, offsets, self.strides, e.lanes, None)
            )
            return
        steps = self.rows.strides[0][-1], self.rows.strides[1][-1]

        def group(offsets: list[Value], counts: list[int | None]) -> None:
            self.emit_rows(e, pointers, offsets, steps, 1, counts[0])

        self.rows.for_each_group(e, begin, end, group)

    def emit_rows(
        self,
        e: Emitter,
        pointers: tuple[Value, Value],
        offsets: list[Value],
        steps: tuple[int, int],
        step: int,
        valid: int | None,
    ) -> None:
        """One row along the axis (step: lanes), or a vector of rows of which `valid` exist (step: 1).

        `steps` are the distances between the lanes of a vector in the output and in the input.
        """
        b = e.builder
        axes = [(self.size, 1)]  # places along the axis are counted in elements' bytes; each tensor has its stride

        def place(operand: int, offset: Value | int) -> Value:
            return e.add(offsets[operand], e.mul(offset, self.strides[operand]))

        def load(operand: int, offset: Value | int, count: int | None) -> Value:
            return load_lanes(e, pointers[operand], place(operand, offset), steps[operand], count or valid)

        def store(value: Value, offset: Value | int, count: int | None) -> None:
            store_lanes(e, value, pointers[0], place(0, offset), steps[0], count or valid)

        def merged(kind: str, term: Callable[[Value | int, int | None], Value]) -> Value:
            (lanes,) = accumulate(e, kind, axes, lambda *at: [term(*at)], step=step, streams=STREAMS)
            return e.splat(fold(e, lanes, merging(e, kind)[1])) if step > 1 else lanes

        greatest = merged("max", lambda at, count: keep(e, load(1, at, count), count, -float("inf")))

        def exponential(at: Value | int, count: int | None) -> Value:
            value = functions.exp(e, b.fsub(load(1, at, count), greatest))
            if not self.log:
                store(value, at, count)
            return keep(e, value, count, 0.0)

        total = merged("sum", exponential)
        if self.log:
            total = functions.log(e, total)

        def finish(at: Value | int, count: int | None) -> None:
            if self.log:
                store(b.fsub(b.fsub(load(1, at, count), greatest), total), at, count)
            else:
                store(b.fdiv(load(0, at, count), total), at, count)

        full, tail = divmod(self.size, step)
        with e.loop(0, full, name="element") as index:
            finish(e.mul(index, step * F32_BYTES), None)
        if tail:
            finish(full * step * F32_BYTES, tail)


def lower_softmax(
    op: Softmax, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x, y = inputs[0], outputs[0]
    batched = is_batched(y) and op.axis != 0
    size = x.shape[op.axis]
    shape = tuple(1 if axis == op.axis else d for axis, d in enumerate(x.shape))
    rows = nest(shape, [y.strides, x.strides], batched=batched)
    # Across, if there are neighbours to fill vectors with: rows that lie side by side, or an axis that does not.
    along = x.strides[op.axis] == 1 or rows.sizes[-1] == 1 or rows.strides[1][-1] != 1
    rows = rows.with_points(ITEM_ELEMS // EXP_WEIGHT // size) if along else rows.with_items(1, machine.lanes())
    kernel = SoftmaxKernel(op.log, size, (y.strides[op.axis], x.strides[op.axis]), rows, along)
    items = rows.image_items * (x.shape[0] if batched else 1)
    item_bytes = 2 * F32_BYTES * rows.item_elems * size * EXP_WEIGHT
    return [Call(kernel, (Output(), Input(0)), items, chunk(items, item_bytes))]
