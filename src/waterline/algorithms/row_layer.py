"""A convolution layer as a call of a kernel that computes rows of output: depthwise, grouped and naive."""

from __future__ import annotations

from waterline.algorithms.arguments import LayerArgs
from waterline.algorithms.base import Views, chunk_items
from waterline.algorithms.columns import Window
from waterline.codegen.cpu.kernel import Call, Input, Kernel, Packed
from waterline.spec import ConvSpec


def windows(spec: ConvSpec) -> tuple[Window, Window]:
    """The geometry of rows and of columns."""
    rows = Window(spec.r, spec.stride[0], spec.dilation[0], spec.pad[0], spec.h, spec.p)
    columns = Window(spec.s, spec.stride[1], spec.dilation[1], spec.pad[1], spec.w, spec.q)
    return rows, columns


def row_call(kernel: Kernel, spec: ConvSpec, views: Views, seconds: float) -> Call:
    """Items are (image, output row)."""
    of_layer = LayerArgs.of(spec, views)
    args = (Input(0), Packed("weight"), *of_layer.epilogue, *of_layer.images)
    items = spec.n * spec.p
    return Call(kernel, args, items, chunk_items(items, seconds))
