"""Emission of the patch matrix."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from waterline.codegen.cpu.emitter import I32, I64, Emitter, Value
from waterline.codegen.cpu.kernel import Kernel

ELEM_BYTES = 4


@dataclass(frozen=True)
class PatchKernel(Kernel):
    """Item = (image, output pixel): copies the channels that each tap sees, zeros where it sees padding."""

    taps: int
    channels: int

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        x, offsets, patches = (e.load_pointer(args, 8 * i) for i in range(3))
        rows, image_bytes = (e.load_i64(args, 8 * i) for i in (3, 4))
        with e.loop(begin, end, name="item") as item:
            image, row = e.div(item, rows), e.builder.urem(item, rows)
            source = e.at(x, e.mul(image, image_bytes))
            target = e.at(patches, e.mul(item, self.taps * self.channels * ELEM_BYTES))
            with e.loop(0, self.taps, name="tap") as tap:
                offset = e.load(offsets, I32, e.mul(e.add(e.mul(row, self.taps), tap), 4), 4)
                inside = e.builder.icmp_signed(">=", offset, ir.Constant(I32, 0))
                to = e.at(target, e.mul(tap, self.channels * ELEM_BYTES))
                with e.builder.if_else(inside) as (then, otherwise):
                    with then:
                        begin_of_row = e.at(source, e.mul(e.builder.sext(offset, I64), ELEM_BYTES))
                        self._fill(e, to, begin_of_row)
                    with otherwise:
                        self._fill(e, to, None)

    def _fill(self, e: Emitter, target: Value, source: Value | None) -> None:
        """Copies one pixel's channels, or writes zeros."""
        full = self.channels - self.channels % e.lanes
        with e.loop(0, full, e.lanes, name="channel") as c:
            value = e.splat(0.0) if source is None else e.load_vector(source, e.mul(c, ELEM_BYTES))
            e.store_vector(value, target, e.mul(c, ELEM_BYTES))
        if self.channels % e.lanes:
            count, at = self.channels % e.lanes, full * ELEM_BYTES
            e.store_vector(e.splat(0.0) if source is None else e.load_vector(source, at, count), target, at, count)
