"""Unary, Binary and PRelu: one load of each input, one store, the activation in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Arg, Call, Input, Kernel, Output
from waterline.codegen.cpu.power import power
from waterline.graph.ops import Binary, PRelu, Unary
from waterline.machine import Machine
from waterline.operators.lanes import load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, Nest, broadcast_batch, chunk, is_batched, nest
from waterline.spec import Activation, TensorView


def _prelu(e: Emitter, x: Value, slope: Value) -> Value:
    positive = e.builder.fcmp_ordered(">", x, functions.constant(x, 0.0))
    return e.builder.select(positive, x, e.builder.fmul(x, slope))


COMBINATIONS: dict[str, Callable[..., Value]] = {
    "first": lambda e, a: a,
    "add": lambda e, a, c: e.builder.fadd(a, c),
    "sub": lambda e, a, c: e.builder.fsub(a, c),
    "mul": lambda e, a, c: e.builder.fmul(a, c),
    "div": lambda e, a, c: e.builder.fdiv(a, c),
    "max": functions.maximum,
    "min": functions.minimum,
    "pow": power,
    "prelu": _prelu,
}


@dataclass(frozen=True)
class Elementwise(Kernel):
    """`after(combination(inputs))`. Args: the output, the inputs, as in the nest; the bytes between their images."""

    combination: str
    after: Activation | None
    nest: Nest

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        count = len(self.nest.strides)
        pointers = [e.load_pointer(args, 8 * i) for i in range(count)]
        batch = [e.load_i64(args, 8 * (count + i)) for i in range(count)]
        inner = [strides[-1] for strides in self.nest.strides]

        def body(offsets: list[Value], count: int | None) -> None:
            operands = list(zip(pointers, offsets, inner, strict=True))
            values = [load_lanes(e, pointer, offset, stride, count) for pointer, offset, stride in operands[1:]]
            result = COMBINATIONS[self.combination](e, *values)
            if self.after is not None:
                result = functions.apply(e, self.after, result)
            pointer, offset, stride = operands[0]
            store_lanes(e, result, pointer, offset, stride, count)

        self.nest.for_each_vector(e, begin, end, body, batch)


def lower_elementwise(
    combination: str, after: Activation | None, inputs: Sequence[TensorView], output: TensorView
) -> list[Call]:
    batched = is_batched(output)
    operands, batch = broadcast_batch([output, *inputs], output.shape, batched)
    loops = nest(output.shape, [view.strides for view in operands], batched=batched)
    items = loops.image_items * (output.shape[0] if batched else 1)
    item_bytes = loops.item_elems * F32_BYTES * (1 + len(inputs))
    args: tuple[Arg, ...] = (Output(), *(Input(i) for i in range(len(inputs))), *batch)
    return [Call(Elementwise(combination, after, loops), args, items, chunk(items, item_bytes))]


def lower_unary(op: Unary, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine) -> list[Call]:
    return lower_elementwise("first", op.function, inputs, outputs[0])


def lower_binary(
    op: Binary, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    return lower_elementwise(op.kind, op.after, inputs, outputs[0])


def lower_prelu(op: PRelu, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine) -> list[Call]:
    return lower_elementwise("prelu", None, inputs, outputs[0])
