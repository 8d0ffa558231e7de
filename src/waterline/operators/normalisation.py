"""LayerNorm and GroupNorm: the mean first, then the variance around it, then the result, from the nearest cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import F32, Emitter, Value
from waterline.codegen.cpu.kernel import Arg, Call, Input, Kernel, Output
from waterline.graph.ops import GroupNorm, LayerNorm
from waterline.machine import Machine
from waterline.operators.accumulation import UNROLLED_TERMS, accumulate, merging
from waterline.operators.lanes import fold, keep, load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, ITEM_ELEMS, Nest, chunk, is_batched, nest
from waterline.spec import TensorView

STREAMS = 4


@dataclass(frozen=True)
class LayerNormalisation(Kernel):
    """Args: output, input, scale, and the bias if there is one.

    Attributes:
        rows: loops over what is normalised by itself; operands output and input.
        axes: loops over what is normalised together; operands output, input, scale, bias.
    """

    rows: Nest
    axes: Nest
    epsilon: float

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        pointers = [e.load_pointer(args, 8 * i) for i in range(len(self.axes.strides))]
        steps = [strides[-1] for strides in self.axes.strides]
        loops = list(zip(self.axes.sizes, self.axes.strides[1], strict=True))
        count = math.prod(self.axes.sizes)
        _, add = merging(e, "sum")

        def row(offsets: list[Value]) -> None:
            to, source = offsets

            def load(offset: Value | int, lanes: int | None) -> Value:
                return load_lanes(e, pointers[1], e.add(source, offset), steps[1], lanes)

            def mean(term: Callable[[Value | int, int | None], Value]) -> Value:
                (lanes,) = accumulate(e, "sum", loops, lambda *place: [term(*place)], step=e.lanes, streams=STREAMS)
                return e.builder.fdiv(fold(e, lanes, add), F32(float(count)))

            centre = e.splat(mean(load))

            def square(offset: Value | int, lanes: int | None) -> Value:
                distance = keep(e, e.builder.fsub(load(offset, lanes), centre), lanes, 0.0)
                return e.builder.fmul(distance, distance)

            spread = e.splat(e.builder.fadd(mean(square), F32(self.epsilon)), 1)
            root = functions.call(e, "sqrt", spread)
            inverse = e.builder.fdiv(functions.constant(root, 1.0), root)
            factor = e.splat(fold(e, inverse, add))

            def write(places: list[Value], lanes: int | None) -> None:
                x = load_lanes(e, pointers[1], places[1], steps[1], lanes)
                y = e.builder.fmul(e.builder.fsub(x, centre), factor)
                scale, *bias = (
                    load_lanes(e, pointer, place, step, lanes)
                    for pointer, place, step in list(zip(pointers, places, steps, strict=True))[2:]
                )
                y = e.multiply_add(y, scale, bias[0]) if bias else e.builder.fmul(y, scale)
                store_lanes(e, y, pointers[0], places[0], steps[0], lanes)

            self.for_each_vector(e, [to, source, *([e.index(0)] * (len(pointers) - 2))], 0, write)

        self.rows.for_each_point(e, begin, end, row)

    def for_each_vector(
        self, e: Emitter, offsets: list[Value], axis: int, body: Callable[[list[Value], int | None], None]
    ) -> None:
        """`body(offsets, count)` over all of `axes`, vectors along the innermost."""
        size = self.axes.sizes[axis]
        if axis < len(self.axes.sizes) - 1:
            with e.loop(0, size, name="normalised") as index:
                self.for_each_vector(e, self.axes.moved(e, offsets, index, axis), axis + 1, body)
            return
        full, tail = divmod(size, e.lanes)
        if full <= UNROLLED_TERMS:
            for vector in range(full):
                body(self.axes.moved(e, offsets, vector * e.lanes, axis), None)
        else:
            with e.loop(0, full * e.lanes, e.lanes, name="vector") as index:
                body(self.axes.moved(e, offsets, index, axis), None)
        if tail:
            body(self.axes.moved(e, offsets, full * e.lanes, axis), tail)


def lower_layer_norm(
    op: LayerNorm, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x, y = inputs[0], outputs[0]
    batched = op.axis > 0 and is_batched(y)
    rows = nest(y.shape[: op.axis], [y.strides[: op.axis], x.strides[: op.axis]], batched=batched)
    axes = nest(
        y.shape[op.axis :],
        [y.strides[op.axis :], x.strides[op.axis :], *(view.strides for view in inputs[1:])],
        batched=False,
    )
    count = math.prod(axes.sizes)
    rows = rows.with_points(ITEM_ELEMS // max(1, count))
    items = rows.image_items * (x.shape[0] if batched else 1)
    args: tuple[Arg, ...] = (Output(), *(Input(i) for i in range(len(inputs))))
    kernel = LayerNormalisation(rows, axes, op.epsilon)
    return [Call(kernel, args, items, chunk(items, 2 * F32_BYTES * count * rows.item_elems))]


@dataclass(frozen=True)
class GroupNormalisation(Kernel):
    """Args: output, input, scale, bias. A work item is `block` channels (whole groups) of an image.

    Scratch holds two numbers for each channel of the block: its group's mean, and the factor to come.

    Attributes:
        channels, group: of the tensor and of a group.
        block: channels of a work item, which are a multiple of `group` and divide `channels`.
        space: loops over the positions; operands output and input.
        strides: of the channels, output and input.
    """

    channels: int
    group: int
    block: int
    space: Nest
    strides: tuple[int, int]
    parameter_strides: tuple[int, int]
    epsilon: float

    @property
    def scratch_elems(self) -> int:
        """Of one of the two rows, with room for whole vectors of any machine."""
        return -(-self.block // 16) * 16

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x, scale, bias = (e.load_pointer(args, 8 * i) for i in range(4))
        means, factors = scratch, e.at(scratch, self.scratch_elems * F32_BYTES)
        loops = list(zip(self.space.sizes, self.space.strides[1], strict=True))
        stride_out, stride_in = self.strides
        positions = math.prod(self.space.sizes)
        blocks = self.channels // self.block

        def sums(source: Value, target: Value, term: Callable[[Value, Value | int], Value]) -> None:
            """Each channel's sum of term(x, first channel) over space."""

            def body(channel: Value | int, count: int | None) -> None:
                place = e.add(source, e.mul(channel, stride_in * F32_BYTES))

                def value(offset: Value | int, _: int | None) -> list[Value]:
                    return [term(load_lanes(e, x, e.add(place, offset), stride_in, count), channel)]

                (total,) = accumulate(e, "sum", loops, value, streams=STREAMS)
                e.store_vector(total, target, e.mul(channel, F32_BYTES), count)

            self.for_each_vector(e, body)

        def spread_over_groups(row: Value, finish: Callable[[Value], Value]) -> None:
            """Replaces the numbers of a group's channels by finish(their mean)."""
            with e.loop(0, self.block, self.group, name="group") as first:
                with e.carried_loop(0, self.group, 1, [F32(0.0)], name="channel") as loop:
                    value = e.load(row, F32, e.mul(e.add(first, loop.index), F32_BYTES), F32_BYTES)
                    loop.carry([e.builder.fadd(loop.values[0], value)])
                result = finish(e.builder.fdiv(loop.results[0], F32(float(self.group * positions))))
                with e.loop(0, self.group, name="channel") as index:
                    e.store(result, row, e.mul(e.add(first, index), F32_BYTES))

        def inverse_root(variance: Value) -> Value:
            spread = e.splat(e.builder.fadd(variance, F32(self.epsilon)), 1)
            root = functions.call(e, "sqrt", spread)
            inverse = e.builder.fdiv(functions.constant(root, 1.0), root)
            return fold(e, inverse, lambda a, c: a)

        with e.loop(begin, end, name="item") as item:
            n, first = e.div(item, blocks), e.mul(e.mod(item, blocks), self.block)
            to = e.add(e.mul(n, self.space.batch[0] * F32_BYTES), e.mul(first, stride_out * F32_BYTES))
            source = e.add(e.mul(n, self.space.batch[1] * F32_BYTES), e.mul(first, stride_in * F32_BYTES))

            sums(source, means, lambda value, channel: value)
            spread_over_groups(means, lambda mean: mean)

            def square(value: Value, channel: Value | int) -> Value:
                distance = e.builder.fsub(value, e.load_vector(means, e.mul(channel, F32_BYTES)))
                return e.builder.fmul(distance, distance)

            sums(source, factors, square)
            spread_over_groups(factors, inverse_root)

            def normalise(offsets: list[Value], axis: int) -> None:
                if axis < len(self.space.sizes):
                    with e.loop(0, self.space.sizes[axis], name="space") as index:
                        normalise(self.space.moved(e, offsets, index, axis), axis + 1)
                    return
                self.for_each_vector(e, lambda channel, count: write(offsets, channel, count))

            def write(offsets: list[Value], channel: Value | int, count: int | None) -> None:
                here = e.mul(channel, F32_BYTES)
                value = load_lanes(e, x, e.add(offsets[1], e.mul(here, stride_in)), stride_in, count)
                distance = e.builder.fsub(value, e.load_vector(means, here))
                y = e.builder.fmul(distance, e.load_vector(factors, here))
                weight, shift = (
                    load_lanes(e, pointer, e.mul(e.add(first, channel), stride * F32_BYTES), stride, count)
                    for pointer, stride in zip((scale, bias), self.parameter_strides, strict=True)
                )
                y = e.multiply_add(y, weight, shift)
                store_lanes(e, y, output, e.add(offsets[0], e.mul(here, stride_out)), stride_out, count)

            normalise([to, source], 0)

    def for_each_vector(self, e: Emitter, body: Callable[[Value | int, int | None], None]) -> None:
        """`body(channel, count)` over the channels of a block."""
        full, tail = divmod(self.block, e.lanes)
        with e.loop(0, full * e.lanes, e.lanes, name="vector") as channel:
            body(channel, None)
        if tail:
            body(full * e.lanes, tail)


def lower_group_norm(
    op: GroupNorm, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x, y = inputs[0], outputs[0]
    channels = x.shape[1]
    group = channels // op.groups
    # As few groups as fill a vector, or all of them.
    together = next(
        count
        for count in range(1, op.groups + 1)
        if op.groups % count == 0 and (count * group >= machine.lanes() or count == op.groups)
    )
    # Axis 0 is always the batch here: groups of different images share nothing.
    positions = nest((x.shape[0], *x.shape[2:]), [(v.strides[0], *v.strides[2:]) for v in (y, x)], batched=True)
    kernel = GroupNormalisation(
        channels,
        group,
        group * together,
        positions,
        (y.strides[1], x.strides[1]),
        (inputs[1].strides[0], inputs[2].strides[0]),
        op.epsilon,
    )
    items = x.shape[0] * (channels // kernel.block)
    item_bytes = 4 * F32_BYTES * kernel.block * math.prod(positions.sizes)
    args = (Output(), Input(0), Input(1), Input(2))
    return [Call(kernel, args, items, chunk(items, item_bytes), scratch_bytes=2 * kernel.scratch_elems * F32_BYTES)]
