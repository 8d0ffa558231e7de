"""Structured emission of LLVM IR: functions, loops, vectors and masks as Python values.

Knows nothing of convolution. An `Emitter` writes one function; address arithmetic is in bytes on opaque pointers, and
everything that a machine decides (lanes, fused multiply-add) is asked of the `Machine` that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from waterline.machine import Machine

I1 = ir.IntType(1)
I8 = ir.IntType(8)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
F32 = ir.FloatType()
F64 = ir.DoubleType()
PTR = ir.PointerType()
VOID = ir.VoidType()
CACHE_LINE_BYTES = 64

Value = Any  # an llvmlite value


def i64(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


class CarriedLoop:
    """A counted loop that carries values: `index` and `values` inside, `results` after it."""

    def __init__(self, index: Value, values: list[Value]) -> None:
        self.index = index
        self.values = values
        self.results: list[Value] = []
        self._next: list[Value] | None = None

    def carry(self, values: Sequence[Value]) -> None:
        """Names the values that the next round (or, after the last, `results`) begins with."""
        self._next = list(values)

    def next_values(self) -> list[Value]:
        assert self._next is not None or not self.values, "a carried loop must name its next values"
        return self._next or []


class Emitter:
    """Emission of one function `name(parameters) -> void` into `module`.

    Args:
        module: the LLVM module that receives the function and the declarations of its intrinsics.
        machine: decides vector lanes and fused multiply-add.
        parameters: types of the parameters; `arguments` are their values.
        internal: a helper of this module, which LLVM may inline, rather than an entry.
    """

    def __init__(
        self,
        module: ir.Module,
        machine: Machine,
        name: str,
        parameters: Sequence[ir.Type],
        result: ir.Type = VOID,
        *,
        internal: bool = False,
        noinline: bool = False,
    ) -> None:
        self.module = module
        self.machine = machine
        self.lanes = machine.lanes("f32")
        self.function = ir.Function(module, ir.FunctionType(result, list(parameters)), name)
        self.function.attributes.add("nounwind")
        if internal:
            self.function.linkage = "internal"
        if noinline:
            self.function.attributes.add("noinline")
        self.arguments = list(self.function.args)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.vector = ir.VectorType(F32, self.lanes)

    # ---- control flow -------------------------------------------------------------------------------------------
    @contextmanager
    def carried_loop(
        self, start: Value | int, stop: Value | int, step: int, values: Sequence[Value] = (), *, name: str = "i"
    ) -> Iterator[CarriedLoop]:
        """`for index in range(start, stop, step)` with values carried from round to round (phis, never memory)."""
        b = self.builder
        runs = isinstance(start, int) and isinstance(stop, int) and start < stop  # at least once, for certain
        start_value, stop_value = self.index(start), self.index(stop)
        before = b.block
        body = b.append_basic_block(f"{name}.body")
        after = b.append_basic_block(f"{name}.after")
        if runs:
            b.branch(body)
        else:
            b.cbranch(b.icmp_signed("<", start_value, stop_value), body, after)
        b.position_at_end(body)
        index = b.phi(I64, name)
        index.add_incoming(start_value, before)
        phis = []
        for value in values:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        loop = CarriedLoop(index, list(phis))
        yield loop
        following = loop.next_values()
        following_index = b.add(index, i64(step), flags=["nsw"])
        end = b.block
        b.cbranch(b.icmp_signed("<", following_index, stop_value), body, after)
        index.add_incoming(following_index, end)
        for phi, value in zip(phis, following, strict=True):
            phi.add_incoming(value, end)
        b.position_at_end(after)
        for value, result in zip(values, following, strict=True):
            phi = b.phi(value.type)
            if not runs:
                phi.add_incoming(value, before)
            phi.add_incoming(result, end)
            loop.results.append(phi)

    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: int = 1, *, name: str = "i") -> Iterator[Value]:
        """`for index in range(start, stop, step)`; yields the index (i64)."""
        with self.carried_loop(start, stop, step, name=name) as loop:
            yield loop.index

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.builder.if_then(condition):
            yield

    def finish(self) -> None:
        self.builder.ret_void()

    # ---- integers and addresses ---------------------------------------------------------------------------------
    def index(self, value: Value | int) -> Value:
        return i64(value) if isinstance(value, int) else value

    def add(self, a: Value | int, c: Value | int) -> Value:
        if isinstance(c, int) and c == 0:
            return self.index(a)
        if isinstance(a, int) and a == 0:
            return self.index(c)
        return self.builder.add(self.index(a), self.index(c))

    def sub(self, a: Value | int, c: Value | int) -> Value:
        return self.builder.sub(self.index(a), self.index(c))

    def mul(self, a: Value | int, c: Value | int) -> Value:
        if isinstance(c, int) and c == 1:
            return self.index(a)
        return self.builder.mul(self.index(a), self.index(c))

    def div(self, a: Value, c: Value | int) -> Value:
        """Unsigned division."""
        return a if isinstance(c, int) and c == 1 else self.builder.udiv(a, self.index(c))

    def mod(self, a: Value, c: Value | int) -> Value:
        return i64(0) if isinstance(c, int) and c == 1 else self.builder.urem(a, self.index(c))

    def minimum(self, a: Value | int, c: Value | int) -> Value:
        a, c = self.index(a), self.index(c)
        return self.builder.select(self.builder.icmp_signed("<", a, c), a, c)

    def maximum(self, a: Value | int, c: Value | int) -> Value:
        a, c = self.index(a), self.index(c)
        return self.builder.select(self.builder.icmp_signed(">", a, c), a, c)

    def at(self, pointer: Value, offset_bytes: Value | int) -> Value:
        """The address `offset_bytes` after `pointer`."""
        if isinstance(offset_bytes, int) and offset_bytes == 0:
            return pointer
        return self.builder.gep(pointer, [self.index(offset_bytes)], inbounds=True, source_etype=I8)

    def load(
        self, pointer: Value, kind: ir.Type = F32, offset_bytes: Value | int = 0, align: int | None = None
    ) -> Value:
        return self.builder.load(self.at(pointer, offset_bytes), typ=kind, align=align)

    def load_pointer(self, pointer: Value, offset_bytes: int = 0) -> Value:
        return self.load(pointer, PTR, offset_bytes, 8)

    def load_i64(self, pointer: Value, offset_bytes: int = 0) -> Value:
        return self.load(pointer, I64, offset_bytes, 8)

    def store(self, value: Value, pointer: Value, offset_bytes: Value | int = 0, align: int = 4) -> None:
        self.builder.store(value, self.at(pointer, offset_bytes), align=align)

    def stack(self, size_bytes: int, align: int = CACHE_LINE_BYTES) -> Value:
        """Memory of this function's frame."""
        with self.builder.goto_entry_block():
            slot = self.builder.alloca(ir.ArrayType(I8, size_bytes))
        slot.align = align
        slot.type = PTR  # llvmlite's alloca gives a typed pointer, which LLVM no longer knows
        return slot

    def prefetch(
        self, pointer: Value, offset_bytes: Value | int = 0, locality: int = 3, *, to_write: bool = False
    ) -> None:
        """Asks for a cache line, to read it (into all levels at locality 3, the second at 2) or to write it."""
        function = self.intrinsic("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        self.builder.call(
            function,
            [
                self.at(pointer, offset_bytes),
                ir.Constant(I32, int(to_write)),
                ir.Constant(I32, locality),
                ir.Constant(I32, 1),
            ],
        )

    def forget_loads(self) -> None:
        """Makes LLVM load again, behind this point, what it has loaded before it; emits no instruction.

        Without it, equal loads become one whose result is kept: on the stack, where an emitter means to read memory
        twice because the registers are full.
        """
        self.builder.asm(ir.FunctionType(VOID, []), "", "~{memory}", [], True)

    def ticks(self) -> Value:
        """An i64 counter that runs at a constant rate, the same on all cores: for shares of time, not for seconds.

        It orders nothing: what surrounds it may overlap it by some hundred instructions.
        """
        if self.machine.arch == "x86_64":
            return self.builder.call(self.intrinsic("llvm.readcyclecounter", I64, []), [])
        # LLVM would read the cycle counter, which traps in programs; the counter of the timer is theirs to read.
        read = self.intrinsic("llvm.read_volatile_register.i64", I64, [ir.MetaDataType()])
        return self.builder.call(read, [self.module.add_metadata(["cntvct_el0"])])

    # ---- vectors ------------------------------------------------------------------------------------------------
    def vector_type(self, lanes: int | None = None) -> ir.Type:
        return ir.VectorType(F32, lanes or self.lanes)

    def splat(self, value: Value | float, lanes: int | None = None) -> Value:
        """A vector with `value` (a float or an f32 value) in each lane."""
        kind = self.vector_type(lanes)
        if isinstance(value, int | float):
            return ir.Constant(kind, [float(value)] * kind.count)
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(one, undefined, mask)

    def load_repeated(self, pointer: Value, offset_bytes: Value | int, count: int) -> Value:
        """`count` elements (a power of two), again and again to the end of a vector: one load, no permutation."""
        if count <= 2:
            # As one number of twice the width; of two elements LLVM would make a load and a permutation.
            one = self.load(pointer, F32 if count == 1 else F64, offset_bytes, 4)
            kind = ir.VectorType(one.type, self.lanes // count)
            undefined = ir.Constant(kind, ir.Undefined)
            first = self.builder.insert_element(undefined, one, ir.Constant(I32, 0))
            mask = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
            return self.builder.bitcast(self.builder.shuffle_vector(first, undefined, mask), self.vector_type())
        some = self.load_vector(pointer, offset_bytes, lanes=count)
        mask = ir.Constant(ir.VectorType(I32, self.lanes), [lane % count for lane in range(self.lanes)])
        return self.builder.shuffle_vector(some, ir.Constant(some.type, ir.Undefined), mask)

    def load_vector(
        self, pointer: Value, offset_bytes: Value | int = 0, count: int | None = None, lanes: int | None = None
    ) -> Value:
        """`count` elements (all lanes by default); lanes from `count` on are zero and their memory is not touched."""
        lanes = lanes or self.lanes
        kind = self.vector_type(lanes)
        if count is None or count == lanes:
            return self.load(pointer, kind, offset_bytes, 4)
        function = self.intrinsic(f"llvm.masked.load.v{lanes}f32.p0", kind, [PTR, I32, ir.VectorType(I1, lanes), kind])
        return self.builder.call(
            function,
            [self.at(pointer, offset_bytes), ir.Constant(I32, 4), self.lane_mask(count, lanes), self.splat(0.0, lanes)],
        )

    def store_vector(
        self, value: Value, pointer: Value, offset_bytes: Value | int = 0, count: int | None = None
    ) -> None:
        """Stores the first `count` lanes (all by default)."""
        lanes = value.type.count
        if count is None or count == lanes:
            self.store(value, pointer, offset_bytes, 4)
            return
        function = self.intrinsic(
            f"llvm.masked.store.v{lanes}f32.p0", VOID, [value.type, PTR, I32, ir.VectorType(I1, lanes)]
        )
        self.builder.call(
            function, [value, self.at(pointer, offset_bytes), ir.Constant(I32, 4), self.lane_mask(count, lanes)]
        )

    def lane_mask(self, count: int, lanes: int) -> Value:
        return ir.Constant(ir.VectorType(I1, lanes), [int(lane < count) for lane in range(lanes)])

    def multiply_add(self, a: Value, c: Value, addend: Value) -> Value:
        """a * c + addend: one rounding where the machine has fused multiply-add, two elsewhere."""
        if self.machine.has_fma:
            function = self.intrinsic(f"llvm.fma.{suffix(a.type)}", a.type, [a.type] * 3)
            return self.builder.call(function, [a, c, addend])
        return self.builder.fadd(self.builder.fmul(a, c), addend)

    def intrinsic(self, name: str, result: ir.Type, parameters: Sequence[ir.Type]) -> ir.Function:
        """The declaration of an intrinsic or of a function of another module."""
        known = self.module.globals.get(name)
        if known is None:
            known = ir.Function(self.module, ir.FunctionType(result, list(parameters)), name)
        return known


def suffix(kind: ir.Type) -> str:
    """The type part of an overloaded intrinsic's name."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    return {F32: "f32", F64: "f64", I32: "i32", I64: "i64"}[kind]
