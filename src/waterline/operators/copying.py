"""Kernels that move or write elements in the order of the output: `Copy` and `Fill`.

Kernels of movement take the args output, input, and the distances in bytes at which the moved part begins in them: a
part of a concatenation or of a slice needs no kernel of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from waterline.codegen.cpu.emitter import F32, Emitter, Value
from waterline.codegen.cpu.kernel import Kernel
from waterline.operators.lanes import load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, Nest

UNROLL = 4


def moved_pointers(e: Emitter, args: Value) -> tuple[Value, Value]:
    """Output and input, each moved to where the work begins."""
    output = e.at(e.load_pointer(args, 0), e.load_i64(args, 16))
    return output, e.at(e.load_pointer(args, 8), e.load_i64(args, 24))


@dataclass(frozen=True)
class Copy(Kernel):
    """Any strides. `nest` has the operands output and input."""

    nest: Nest

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = moved_pointers(e, args)
        stride_out, stride_in = (strides[-1] for strides in self.nest.strides)

        def body(offsets: list[Value], count: int | None) -> None:
            store_lanes(e, load_lanes(e, x, offsets[1], stride_in, count), output, offsets[0], stride_out, count)

        self.nest.for_each_vector(e, begin, end, body)


@dataclass(frozen=True)
class Fill(Kernel):
    """Args: output. `nest` has it as the only operand."""

    value: float
    nest: Nest

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output = e.load_pointer(args, 0)
        value = e.splat(self.value)
        stride = self.nest.strides[0][-1]

        def body(offsets: list[Value], count: int | None) -> None:
            store_lanes(e, value, output, offsets[0], stride, count)

        self.nest.for_each_vector(e, begin, end, body)


@dataclass(frozen=True)
class Renumbering(Kernel):
    """A reshape between layouts that share no axes, element by element. Args: output, input.

    Attributes:
        loops: over the output's elements; the operands are the output and its elements' numbers in logical order.
        shape, strides: of the input.
    """

    loops: Nest
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = e.load_pointer(args, 0), e.load_pointer(args, 8)

        def body(offsets: list[Value]) -> None:
            number, source = e.div(offsets[1], F32_BYTES), e.index(0)
            for axis in range(len(self.shape) - 1, -1, -1):
                digit = number if axis == 0 else e.mod(number, self.shape[axis])
                number = e.div(number, self.shape[axis])
                source = e.add(source, e.mul(digit, self.strides[axis] * F32_BYTES))
            e.store(e.load(x, F32, source, F32_BYTES), output, offsets[0])

        self.loops.for_each_point(e, begin, end, body)


def fill_run(e: Emitter, value: Value, pointer: Value, offset_bytes: Value | int, elems: int) -> None:
    """Writes `elems` neighbours, a number known at compile time."""
    lanes = e.lanes
    full, tail = divmod(elems, lanes)
    if full <= UNROLL:
        for vector in range(full):
            e.store_vector(value, pointer, e.add(offset_bytes, vector * lanes * F32_BYTES))
    else:
        with e.loop(0, full, name="fill") as index:
            e.store_vector(value, pointer, e.add(offset_bytes, e.mul(index, lanes * F32_BYTES)))
    if tail:
        e.store_vector(value, pointer, e.add(offset_bytes, full * lanes * F32_BYTES), tail)
