"""Emission of the definition."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from waterline.codegen.cpu.emitter import F32, Emitter, Value
from waterline.codegen.cpu.epilogue import finish_vector
from waterline.codegen.cpu.kernel import Kernel
from waterline.spec import ConvSpec, Epilogue

ELEM_BYTES = 4


@dataclass(frozen=True)
class NaiveKernel(Kernel):
    """Item = (image, output row). `spec` is of a batch of one; strides are those of (C, H, W) in elements.

    One output element after the other, computed in a vector of one lane, so that the epilogue is the common one.
    """

    spec: ConvSpec
    x_strides: tuple[int, ...]
    y_strides: tuple[int, ...]
    residual_strides: tuple[int, ...]
    epilogue: Epilogue

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, spec = emitter, self.spec
        x, weight, bias, y, residual = (e.load_pointer(args, 8 * i) for i in range(5))
        x_image, y_image, residual_image = (e.load_i64(args, 8 * i) for i in (5, 6, 7))
        with e.loop(begin, end, name="item") as item:
            image, p = e.div(item, spec.p), e.mod(item, spec.p)
            x_here = e.at(x, e.mul(image, x_image))
            y_here = e.at(y, e.mul(image, y_image))
            residual_here = e.at(residual, e.mul(image, residual_image)) if self.epilogue.residual else residual
            with e.loop(0, spec.q, name="q") as q, e.loop(0, spec.k, name="k") as k:
                total = self._sum(e, x_here, weight, p, q, k)
                if self.epilogue.bias:
                    total = e.builder.fadd(total, e.load(bias, F32, e.mul(k, ELEM_BYTES), 4))
                at = self._offset(e, self.residual_strides, k, p, q) if self.epilogue.residual else 0
                value = finish_vector(e, self.epilogue, e.splat(total, 1), residual_here, at, 1)
                e.store_vector(value, y_here, self._offset(e, self.y_strides, k, p, q))

    def _offset(self, e: Emitter, strides: tuple[int, ...], c: Value, h: Value, w: Value) -> Value:
        total = e.add(e.add(e.mul(c, strides[0]), e.mul(h, strides[1])), e.mul(w, strides[2]))
        return e.mul(total, ELEM_BYTES)

    def _sum(self, e: Emitter, x: Value, weight: Value, p: Value, q: Value, k: Value) -> Value:
        spec, b = self.spec, e.builder
        first_channel = e.mul(e.div(k, spec.group_k), spec.group_c)
        with e.carried_loop(0, spec.taps, 1, [ir.Constant(F32, 0.0)], name="tap") as taps:
            r, s = e.div(taps.index, spec.s), e.mod(taps.index, spec.s)
            h = e.sub(e.add(e.mul(p, spec.stride[0]), e.mul(r, spec.dilation[0])), spec.pad[0])
            w = e.sub(e.add(e.mul(q, spec.stride[1]), e.mul(s, spec.dilation[1])), spec.pad[1])
            inside = b.and_(
                self._is_data(e, h, spec.upsampled_h, spec.upsample[0]),
                self._is_data(e, w, spec.upsampled_w, spec.upsample[1]),
            )
            channels = b.select(inside, e.index(spec.group_c), e.index(0))
            row, column = b.sdiv(h, e.index(spec.upsample[0])), b.sdiv(w, e.index(spec.upsample[1]))
            with e.carried_loop(0, channels, 1, taps.values, name="c") as loop:
                at = self._offset(e, self.x_strides, e.add(first_channel, loop.index), row, column)
                tap = e.add(e.mul(e.add(e.mul(k, spec.group_c), loop.index), spec.taps), taps.index)
                factor = e.load(weight, F32, e.mul(tap, ELEM_BYTES), 4)
                loop.carry([e.multiply_add(e.load(x, F32, at, 4), factor, loop.values[0])])
            taps.carry(loop.results)
        return taps.results[0]

    def _is_data(self, e: Emitter, index: Value, size: int, upsample: int) -> Value:
        """Whether a row or column of the upsampled, padded image is one of the input's own."""
        inside = e.builder.icmp_unsigned("<", index, e.index(size))
        if upsample == 1:
            return inside
        return e.builder.and_(inside, e.builder.icmp_signed("==", e.builder.srem(index, e.index(upsample)), e.index(0)))
