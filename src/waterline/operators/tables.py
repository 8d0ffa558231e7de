"""Constant tables in a kernel's module: what a formula of the position would cost more to compute than to look up."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from waterline.codegen.cpu.emitter import F32, I32, I64, Emitter, Value

ENTRY_BYTES = 4


class Table:
    """Numbers that the kernel looks up by index: whole ones (32 bits, read as i64) or f32."""

    def __init__(self, e: Emitter, name: str, values: Sequence[int] | Sequence[float], *, whole: bool = True) -> None:
        self.emitter = e
        self.kind = I32 if whole else F32
        array = ir.ArrayType(self.kind, len(values))
        self.pointer = ir.GlobalVariable(e.module, array, f"{e.function.name}.{name}")
        self.pointer.linkage = "internal"
        self.pointer.global_constant = True
        self.pointer.align = ENTRY_BYTES
        self.pointer.initializer = ir.Constant(array, list(values))

    def __getitem__(self, index: Value) -> Value:
        e = self.emitter
        value = e.load(self.pointer, self.kind, e.mul(index, ENTRY_BYTES), ENTRY_BYTES)
        return e.builder.sext(value, I64) if self.kind == I32 else value
