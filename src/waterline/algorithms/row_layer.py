"""A convolution layer as a call of a kernel that computes rows of output: depthwise, grouped and naive."""

from __future__ import annotations

from waterline.algorithms.base import Views, chunk_items
from waterline.algorithms.columns import ELEM_BYTES, Window
from waterline.codegen.cpu.kernel import Call, Input, Kernel, Number, Output, Packed
from waterline.spec import ConvSpec


def windows(spec: ConvSpec) -> tuple[Window, Window]:
    """The geometry of rows and of columns."""
    rows = Window(spec.r, spec.stride[0], spec.dilation[0], spec.pad[0], spec.h, spec.p)
    columns = Window(spec.s, spec.stride[1], spec.dilation[1], spec.pad[1], spec.w, spec.q)
    return rows, columns


def row_call(kernel: Kernel, spec: ConvSpec, views: Views, seconds: float) -> Call:
    """Items are (image, output row)."""
    residual = views.residual
    args = (
        Input(0),
        Packed("weight"),
        Packed("bias") if spec.epilogue.bias else Number(0),
        Output(),
        Input(2 + spec.epilogue.bias) if residual else Number(0),
        Number(views.x.strides[0] * ELEM_BYTES),
        Number(views.y.strides[0] * ELEM_BYTES),
        Number(residual.strides[0] * ELEM_BYTES if residual else 0),
    )
    items = spec.n * spec.p
    return Call(kernel, args, items, chunk_items(items, seconds))
