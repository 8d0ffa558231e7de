"""`indirect`: any convolution as a matrix product whose rows are found through a buffer of offsets.

Source: Dukhan, "The Indirect Convolution Algorithm" (2019). For each tile of output pixels, each tap (r, s) and each
pixel of the tile the indirection buffer holds where the row of C channels that the tap sees begins; a tap outside the
image points at a row of zeros. The buffer describes one image, in offsets of 32 bits from its first element, so it is
built once and depends neither on the input's address nor on the batch: half the size of a buffer of pointers, C times
smaller than im2col's patches in f32.

Where filter rows are contiguous in memory (a dense image without padding whose pixels hold few channels: first layers)
a whole filter row of s*c elements is one run, and the buffer has r entries a pixel instead of r*s.

Work: the direct algorithm's multiply-adds. Numerics: one chain of multiply-adds over (r, s, c), then the bias.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views
from waterline.algorithms.blocking import GemmConfig, Product, gemm_configs, gemm_seconds, product_flops
from waterline.algorithms.gemm_layer import LeftOperand, Rows, gemm_call, pack_gemm_weights, pixel_stride
from waterline.codegen.cpu.gemm import ELEM_BYTES, GemmKernel, row_tails
from waterline.codegen.cpu.kernel import Call, Input, Packed
from waterline.errors import Refused
from waterline.machine import Machine
from waterline.spec import ConvSpec, TensorView

LARGEST_OFFSET = 2**31 - 1
# Filter rows are taken as one run where a pixel has fewer channels than this.
MERGE_BELOW_CHANNELS = 16


class Indirect(Algorithm):
    name = "indirect"

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        if spec.groups != 1:
            return Refusal(f"it computes one group, the layer has {spec.groups}")
        return refuse_offsets(spec)

    def configs(self, spec: ConvSpec, machine: Machine) -> list[GemmConfig]:
        return gemm_configs(product_of(spec), machine)

    def cost(self, spec: ConvSpec, config: GemmConfig, machine: Machine) -> Cost:
        product = product_of(spec)
        seconds = gemm_seconds(spec, product, config, machine, spec.n)
        return Cost(seconds, spec.n * product_flops(product, machine), spec.least_bytes)

    def implement(self, spec: ConvSpec, config: GemmConfig, views: Views, machine: Machine) -> Implementation:
        call = indirect_call(spec, config, views, machine, self.cost(spec, config, machine).seconds)
        return Implementation((call,))

    def pack_weights(
        self, spec: ConvSpec, config: GemmConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        return pack_gemm_weights(spec, config, weight, bias, machine)

    def pack_tables(self, spec: ConvSpec, config: GemmConfig, views: Views, machine: Machine) -> dict[str, np.ndarray]:
        return indirect_tables(spec, config, views)


def refuse_offsets(spec: ConvSpec) -> Refusal | None:
    elems = spec.c * spec.h * spec.w
    if elems > LARGEST_OFFSET:
        return Refusal(f"an image has {elems} elements, offsets of 32 bits reach {LARGEST_OFFSET}")
    return None


def merges_rows(spec: ConvSpec, x: TensorView) -> bool:
    """Whether the taps of a filter row are neighbours in memory, and short enough for that to matter."""
    return (
        spec.s > 1
        and spec.groups == 1
        and spec.c < MERGE_BELOW_CHANNELS
        and spec.pad == (0, 0, 0, 0)
        and spec.dilation[1] == 1
        and spec.upsample == (1, 1)
        and x.strides[3] == spec.c
    )


def product_of(spec: ConvSpec) -> Product:
    """The product behind a layer. Small images are taken as if their filter rows merged: the planner pads them so."""
    merged = spec.c < MERGE_BELOW_CHANNELS and spec.pad == (0, 0, 0, 0)
    runs, run = (spec.r, spec.s * spec.group_c) if merged else (spec.taps, spec.group_c)
    row_bytes = float(spec.stride[0] * spec.stride[1] * spec.c * ELEM_BYTES)
    return Product(spec.p * spec.q, runs, run, spec.group_k, spec.groups, True, row_bytes)


def indirect_call(spec: ConvSpec, config: GemmConfig, views: Views, machine: Machine, seconds: float) -> Call:
    """The call of the GEMM kernel through the indirection buffer, for any number of groups."""
    merged = merges_rows(spec, views.x)
    rows = spec.p * spec.q
    runs, run = (spec.r, spec.s * spec.c) if merged else (spec.taps, spec.group_c)
    product = replace(product_of(spec), runs=runs, run_elems=run)
    chunking = config.chunking(product)
    kernel = GemmKernel(
        runs=runs,
        run_elems=run,
        columns=spec.group_k,
        groups=spec.groups,
        tile=config.tile,
        tails=row_tails(rows, config.rows),
        block_tiles=config.block_tiles,
        panel_outer=config.panel_outer,
        row_stride_elems=0,
        y_stride_elems=pixel_stride(views.y),
        residual_stride_elems=pixel_stride(views.residual) if views.residual else 0,
        epilogue=spec.epilogue,
        chunk_runs=chunking.chunk_runs,
        prefetch_passes=chunking.prefetch_passes,
        near_bytes=config.near_bytes,
        group_images=config.group_images,
    )
    left = LeftOperand(Input(0), views.x.strides[0], Packed("table"), Packed("zero"))
    return gemm_call(kernel, spec, views, machine, Rows.of_images(spec.n, rows, config), seconds, left)


def indirect_tables(spec: ConvSpec, config: GemmConfig, views: Views) -> dict[str, np.ndarray]:
    offsets = tap_offsets(spec, views.x)
    if merges_rows(spec, views.x):
        offsets = offsets.reshape(-1, spec.r, spec.s)[:, :, 0]
    return {"table": tile_table(offsets, config.rows), "zero": np.zeros(max(spec.group_c, 64), np.float32)}


def tap_offsets(spec: ConvSpec, x: TensorView) -> np.ndarray:
    """(p * q, r * s) int32: the element of the image at which a tap's channels begin, -1 where it sees padding."""
    rows = np.arange(spec.p)[:, None] * spec.stride[0] + np.arange(spec.r)[None, :] * spec.dilation[0] - spec.pad[0]
    columns = np.arange(spec.q)[:, None] * spec.stride[1] + np.arange(spec.s)[None, :] * spec.dilation[1] - spec.pad[1]
    row_inside = (rows >= 0) & (rows < spec.upsampled_h) & (rows % spec.upsample[0] == 0)
    column_inside = (columns >= 0) & (columns < spec.upsampled_w) & (columns % spec.upsample[1] == 0)
    row_offsets = rows // spec.upsample[0] * x.strides[2]
    column_offsets = columns // spec.upsample[1] * x.strides[3]
    offsets = row_offsets[:, None, :, None] + column_offsets[None, :, None, :]
    inside = row_inside[:, None, :, None] & column_inside[None, :, None, :]
    if offsets.max() > LARGEST_OFFSET:  # a view into a concatenation spans more than its own elements
        raise Refused(f"{spec.id}: its image spans {x.span_elems} elements, offsets reach {LARGEST_OFFSET}")
    return np.where(inside, offsets, -1).reshape(spec.p * spec.q, spec.taps).astype(np.int32)


def tile_table(offsets: np.ndarray, tile_rows: int) -> np.ndarray:
    """(rows, runs) -> the kernel's order: for each tile, for each run, the tile's rows; the last tile is shorter."""
    full = offsets.shape[0] // tile_rows * tile_rows
    tiles = offsets[:full].reshape(-1, tile_rows, offsets.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(np.concatenate([tiles.reshape(-1), offsets[full:].T.reshape(-1)]), np.int32)
