"""A convolution layer as a call of the GEMM kernel: what direct_gemm, indirect, im2col and grouped share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from waterline.algorithms.arguments import LayerArgs
from waterline.algorithms.base import Views, chunk_items
from waterline.algorithms.blocking import GemmConfig
from waterline.codegen.cpu.gemm import ELEM_BYTES, GemmKernel, pack_bias, pack_panels
from waterline.codegen.cpu.kernel import Arg, Call, Input, Number, Packed
from waterline.machine import Machine
from waterline.spec import ConvSpec, TensorView

NOTHING = Number(0)


@dataclass(frozen=True)
class Rows:
    """The rows of a product: so many in each image, cut into so many blocks."""

    images: int
    rows: int
    blocks: int

    @classmethod
    def of_images(cls, images: int, rows: int, config: GemmConfig) -> Rows:
        return cls(images, rows, max(1, -(-(rows // config.rows) // config.block_tiles)))


@dataclass(frozen=True)
class LeftOperand:
    """Where the rows come from, if not from the layer's input as it lies."""

    x: Arg
    x_image_elems: int
    table: Arg = NOTHING
    zero: Arg = NOTHING


def pixel_stride(view: TensorView) -> int:
    """Distance in elements of neighbouring pixels of (N, C, H, W); of images, where these have one pixel."""
    for axis in (3, 2, 0):
        if view.shape[axis] > 1:
            return view.strides[axis]
    return view.strides[0]


def gemm_call(
    kernel: GemmKernel,
    spec: ConvSpec,
    views: Views,
    machine: Machine,
    rows: Rows,
    seconds: float,
    left: LeftOperand | None = None,
    phase: str = "",
) -> Call:
    """A call of `kernel` on a layer's tensors. `seconds` is what one core needs for it, for the size of chunks."""
    of_layer = LayerArgs.of(spec, views)
    left = left or LeftOperand(Input(0), views.x.strides[0])
    items = rows.images * rows.blocks * kernel.groups * kernel.panels(machine.lanes())
    args: tuple[Arg, ...] = (
        left.x,
        left.table,
        left.zero,
        Packed("panels"),
        *of_layer.epilogue,
        Number(rows.images),
        Number(rows.rows),
        Number(rows.blocks),
        Number(left.x_image_elems * ELEM_BYTES),
        of_layer.y_image,
        of_layer.residual_image,
    )
    return Call(kernel, args, items, chunk_items(items, seconds), phase=phase)


def pack_gemm_weights(
    spec: ConvSpec, config: GemmConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
) -> dict[str, np.ndarray]:
    """Panels over d = (tap, channel), and the bias."""
    lanes = machine.lanes()
    depth_major = weight.reshape(spec.k, spec.group_c, spec.taps).transpose(0, 2, 1).reshape(spec.k, -1)
    packed = {"panels": pack_panels(depth_major, spec.groups, config.vectors, lanes)}
    if bias is not None:
        packed["bias"] = pack_bias(bias, lanes)
    return packed
