"""LocalResponseNorm: a pixel's squares in scratch between zeros, then sums of neighbours as shifted loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Call, Input, Kernel, Output
from waterline.codegen.cpu.power import power
from waterline.graph.ops import LocalResponseNorm
from waterline.machine import Machine
from waterline.operators.copying import fill_run
from waterline.operators.lanes import load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, ITEM_ELEMS, Nest, chunk, is_batched, nest
from waterline.spec import TensorView

WIDEST_LANES = 16


@dataclass(frozen=True)
class ResponseNormalisation(Kernel):
    """Args: output, input.

    Attributes:
        pixels: loops over everything but channels; operands output and input.
        strides: of the channels, output and input.
    """

    op: LocalResponseNorm
    channels: int
    pixels: Nest
    strides: tuple[int, int]

    @property
    def scratch_elems(self) -> int:
        return self.channels + 2 * self.op.size + WIDEST_LANES  # vectors reach over the end

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = e.load_pointer(args, 0), e.load_pointer(args, 8)
        stride_out, stride_in = self.strides
        before = (self.op.size - 1) // 2
        zero = e.splat(0.0)
        fill_run(e, zero, scratch, 0, before)
        fill_run(e, zero, scratch, (before + self.channels) * F32_BYTES, self.op.size + e.lanes)

        def pixel(offsets: list[Value]) -> None:
            to, source = offsets

            def load(channel: Value | int, count: int | None) -> Value:
                return load_lanes(e, x, e.add(source, e.mul(channel, stride_in * F32_BYTES)), stride_in, count)

            def keep_square(channel: Value | int, count: int | None) -> None:
                value = load(channel, count)
                e.store_vector(
                    e.builder.fmul(value, value), scratch, e.add(e.mul(channel, F32_BYTES), before * F32_BYTES)
                )

            def normalise(channel: Value | int, count: int | None) -> None:
                window = e.at(scratch, e.mul(channel, F32_BYTES))
                with e.carried_loop(1, self.op.size, 1, [e.load_vector(window)], name="neighbour") as loop:
                    square = e.load_vector(window, e.mul(loop.index, F32_BYTES))
                    loop.carry([e.builder.fadd(loop.values[0], square)])
                total = loop.results[0]
                alpha = functions.constant(total, self.op.alpha / self.op.size)
                base = e.multiply_add(total, alpha, functions.constant(total, self.op.bias))
                y = self.divided(e, load(channel, count), base)
                store_lanes(e, y, output, e.add(to, e.mul(channel, stride_out * F32_BYTES)), stride_out, count)

            for body in (keep_square, normalise):
                full, tail = divmod(self.channels, e.lanes)
                with e.loop(0, full * e.lanes, e.lanes, name="vector") as channel:
                    body(channel, None)
                if tail:
                    body(full * e.lanes, tail)

        self.pixels.for_each_point(e, begin, end, pixel)

    def divided(self, e: Emitter, x: Value, base: Value) -> Value:
        """x / base^beta."""
        if self.op.beta == 1:
            return e.builder.fdiv(x, base)
        if self.op.beta in (0.5, 0.75):
            root = functions.call(e, "sqrt", base)
            if self.op.beta == 0.75:
                root = e.builder.fmul(root, functions.call(e, "sqrt", root))
            return e.builder.fdiv(x, root)
        return e.builder.fdiv(x, power(e, base, functions.constant(base, self.op.beta)))


def lower_response_norm(
    op: LocalResponseNorm, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x, y = inputs[0], outputs[0]
    batched = is_batched(y)
    channels = x.shape[1]
    rest = (x.shape[0], 1, *x.shape[2:])
    pixels = nest(rest, [y.strides, x.strides], batched=batched).with_points(ITEM_ELEMS // channels)
    kernel = ResponseNormalisation(op, channels, pixels, (y.strides[1], x.strides[1]))
    items = pixels.image_items * (x.shape[0] if batched else 1)
    item_bytes = 2 * F32_BYTES * channels * pixels.item_elems * 4  # a root and a division weigh like four copies
    args = (Output(), Input(0))
    return [Call(kernel, args, items, chunk(items, item_bytes), scratch_bytes=kernel.scratch_elems * F32_BYTES)]
