"""Dense convolution on GPUs for training: the forward pass with weights as training holds them, and the data gradient.

Forward: `indirect`, behind a launch that packs the weights, as they change from step to step. A 1x1 filter whose tiles
are whole is packed as it lies.

Data: dx[n, h, w, c] = sum_{k, r, s} dy[n, p, q, k] weight[k, c, r, s] over the p, q, r, s with p*sh + r*dh - top = h,
and so for w (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016), section 4).
* Stride 1: a convolution of dy with reversed taps and exchanged channels; `indirect` on weights that are packed so.
* Strides: pixels of dx that agree modulo the strides see the same taps, each the next output back from the last one's.
  A tile is of one such class, and its depth is over the class's own taps and k: nothing is multiplied by zeros that a
  stride would insert. Classes that no tap sees are zero.

Tensors and layouts are those of `algorithms.gradients`; packed weights are those of `indirect`. The weight gradient is
in `gpu_weight_gradient.py`. Work: the direct algorithm's, and padding to tiles. Numerics: sums in f32, one chain over
(r, s, k). Each layer's epilogue is the forward pass's; dy is the gradient of the layer's sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import triton

from waterline.algorithms.base import Refusal
from waterline.algorithms.direct_gemm.gpu import GpuTile
from waterline.algorithms.gpu import INPUT_PRECISION, GpuImplementation, Workspace, X, Y
from waterline.algorithms.gradients import DX, DY, WEIGHT, gradient_spec
from waterline.algorithms.indirect.gpu import EFFICIENCY, INDIRECT_GPU, LARGEST_OFFSET, DepthLayout
from waterline.algorithms.indirect.gpu_data_kernels import dense_data_gradient, dense_pack
from waterline.algorithms.indirect.gpu_tiles import (
    L2_BYTES_PER_CYCLE,
    TILES,
    addressed,
    best_depth,
    product_seconds,
    row_bytes_per_cycle,
)
from waterline.algorithms.indirect.gpu_weight_gradient import layer_constants, weight_configs, weight_gradient_of
from waterline.codegen.gpu.kernel import ALIGNMENT_BYTES, GpuCall, GpuLaunch
from waterline.errors import Refused
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec

PACKED = "packed_weight"
MOST_STRIDED_ROWS = 128  # of a tile whose rows each keep an address, a row and a column
PACK_SIDE = 64  # of what a program packs


def refuse(spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
    """Why a layer is not trained by these kernels, or None."""
    if spec.groups != 1:
        return Refusal(f"the layer has {spec.groups} groups, these are products of all channels")
    refusal = INDIRECT_GPU.refuse(spec, gpu, precision)
    if refusal is not None:
        return refusal
    # The data gradient's taps lie before and behind dy by as much as the filter and the padding reach.
    reach = [spec.dilation[i] * (taps - 1) + max(map(abs, spec.pad[i::2])) for i, taps in enumerate((spec.r, spec.s))]
    numbers = {
        "an image of gradients": (spec.p + 2 * reach[0]) * (spec.q + 2 * reach[1]) * spec.k,
        "the filters": -(-spec.c // 256) * 256 * spec.taps * -(-spec.k // 64) * 64,
        "the input's pixels": math.prod((spec.n, *_class_size(spec), *spec.stride)),
    }
    for name, number in numbers.items():
        if number > LARGEST_OFFSET - 256:
            return Refusal(f"{name} have {number} elements, offsets of 32 bits reach {LARGEST_OFFSET}")
    return None


def forward(spec: ConvSpec, gpu: Gpu, precision: str) -> GpuImplementation:
    """Of x and weight, and what the epilogue reads: y. Raises Refused."""
    _check(spec, gpu, precision)
    return _indirect(spec, gpu, precision, X, Y, is_gradient=False)


def data_gradient(spec: ConvSpec, gpu: Gpu, precision: str) -> GpuImplementation:
    """Of dy and weight: dx. Raises Refused."""
    _check(spec, gpu, precision)
    if 0 in (spec.n, spec.h, spec.w):
        return GpuImplementation(())
    if spec.stride != (1, 1):
        return strided_of(spec, strided_tiles(spec, gpu, precision)[0], precision)
    return _indirect(gradient_spec(spec), gpu, precision, DY, DX, is_gradient=True)


def weight_gradient(spec: ConvSpec, gpu: Gpu, precision: str) -> GpuImplementation:
    """Of x and dy: dw. Raises Refused."""
    _check(spec, gpu, precision)
    return weight_gradient_of(spec, weight_configs(spec, gpu, precision)[0], precision)


def _check(spec: ConvSpec, gpu: Gpu, precision: str) -> None:
    if refusal := refuse(spec, gpu, precision):
        raise Refused(f"{spec.id}: {refusal.reason}")


def _renamed(launches: Sequence[GpuCall], names: dict[str, str]) -> tuple[GpuCall, ...]:
    """On tensors of other names."""

    def renamed(launch: GpuCall) -> GpuCall:
        assert isinstance(launch, GpuLaunch), "of kernels"
        arguments = tuple(names.get(each, each) if isinstance(each, str) else each for each in launch.arguments)
        return replace(launch, arguments=arguments)

    return tuple(renamed(launch) for launch in launches)


# ---- products of whole images ---------------------------------------------------------------------------------------
def _indirect(spec: ConvSpec, gpu: Gpu, precision: str, x: str, y: str, is_gradient: bool) -> GpuImplementation:
    """A launch that packs the weights, and one of the convolution: of a layer, or of dy where it is its gradient."""
    if spec.n == 0:
        return GpuImplementation(())
    config = INDIRECT_GPU.configs(spec, gpu, precision)[0]
    made = INDIRECT_GPU.implement(spec, config, gpu, precision)
    packing = Packing.of(spec, config.tile, DepthLayout.of(spec, config, precision))
    if spec.taps == 1 and packing.elems == spec.k * spec.c and not is_gradient:
        return GpuImplementation(_renamed(made.launches, {X: x, Y: y}), made.workspaces)
    launches = (packing.launch(is_gradient), *_renamed(made.launches, {X: x, WEIGHT: PACKED, Y: y}))
    return GpuImplementation(launches, (Workspace(PACKED, packing.elems), *made.workspaces))


@dataclass(frozen=True)
class Packing:
    """Where the weights of a convolution lie for `indirect`: columns x rows x row_elems, the last row cut at depth."""

    spec: ConvSpec
    columns: int
    depth: int
    row_elems: int
    layout: DepthLayout

    @classmethod
    def of(cls, spec: ConvSpec, tile: GpuTile, layout: DepthLayout) -> Packing:
        chunk_elems = layout.chunks * tile.depth
        columns = -(-spec.k // tile.columns) * tile.columns
        if layout.run:
            return cls(spec, columns, chunk_elems, layout.run, layout)
        return cls(spec, columns, spec.taps * chunk_elems, chunk_elems, layout)

    @property
    def elems(self) -> int:
        return self.columns * self.depth

    def launch(self, is_gradient: bool) -> GpuLaunch:
        """From a layer's weight; is_gradient: the convolution is of dy, its channels are the layer's k."""
        along = min(PACK_SIDE, triton.next_power_of_2(self.row_elems))
        constants = {
            "CHANNELS": self.spec.c,
            "COLUMNS": self.spec.k,
            "R": self.spec.r,
            "S": self.spec.s,
            "ALL_COLUMNS": self.columns,
            "DEPTH": self.depth,
            "ROW": self.row_elems,
            "LEAD": self.layout.lead,
            "IS_RUNS": self.layout.run > 0,
            "IS_GRADIENT": is_gradient,
            "BLOCK_PLACES": PACK_SIDE,
            "BLOCK_ALONG": along,
        }
        rows = -(-self.depth // self.row_elems)
        grid = (-(-self.columns * rows // PACK_SIDE), -(-self.row_elems // along))
        return GpuLaunch(dense_pack, grid, (WEIGHT, PACKED), constants)


# ---- data gradients of strided layers -------------------------------------------------------------------------------
def _class_size(spec: ConvSpec) -> tuple[int, int]:
    """Rows and columns of the pixels that agree modulo the strides, of the largest class."""
    return -(-spec.h // spec.stride[0]), -(-spec.w // spec.stride[1])


def strided_tiles(spec: ConvSpec, gpu: Gpu, precision: str) -> list[GpuTile]:
    """For the data gradient of a strided layer, those that take the least time first."""
    classes, rows = math.prod(spec.stride), spec.n * math.prod(_class_size(spec))
    depth = best_depth(spec.k, precision)
    vector_bytes = math.gcd(ALIGNMENT_BYTES, spec.k * PRECISION_BYTES[precision])

    def seconds(tile: GpuTile) -> float:
        tiles = classes * -(-rows // tile.rows) * -(-spec.c // tile.columns)
        # The taps are those of all classes together.
        tile_depth = spec.taps / classes * -(-spec.k // depth) * depth
        row_rate = row_bytes_per_cycle(vector_bytes)
        efficiency = EFFICIENCY["taps"]
        return product_seconds(tile, tiles, tile_depth, efficiency, row_rate, L2_BYTES_PER_CYCLE, gpu, precision)

    sides = [(rows, columns) for rows, columns, _ in TILES if rows <= MOST_STRIDED_ROWS and columns <= 2 * rows]
    made = [addressed(*each, depth, gpu, precision) for each in sides]
    return sorted((tile for tile in made if tile is not None), key=seconds)


def strided_of(spec: ConvSpec, tile: GpuTile, precision: str) -> GpuImplementation:
    """The launches of a strided layer's data gradient with a tile."""
    layout = DepthLayout(-(-spec.k // tile.depth), 0, 0)
    packing = Packing.of(gradient_spec(spec), tile, layout)
    column_tiles, rows = packing.columns // tile.columns, spec.n * math.prod(_class_size(spec))
    # Taps of a class are `step` apart; the first follows from the inverse of the dilation.
    common = [math.gcd(stride, dilation) for stride, dilation in zip(spec.stride, spec.dilation, strict=True)]
    steps = [stride // each for stride, each in zip(spec.stride, common, strict=True)]
    inverses = [pow(spec.dilation[i] // common[i], -1, steps[i]) for i in range(2)]
    constants = {
        **layer_constants(spec),
        **{"R": spec.r, "STEP_H": steps[0], "STEP_W": steps[1], "INVERSE_H": inverses[0], "INVERSE_W": inverses[1]},
        "CHUNKS": layout.chunks,
        "COLUMN_TILES": column_tiles,
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "BLOCK_DEPTH": tile.depth,
        "PRECISION": INPUT_PRECISION[precision],
    }
    product = GpuLaunch(
        dense_data_gradient,
        (column_tiles * math.prod(spec.stride) * -(-rows // tile.rows),),
        (DY, PACKED, DX, rows),
        constants,
        warps=tile.warps,
        stages=tile.stages,
    )
    return GpuImplementation((packing.launch(is_gradient=True), product), (Workspace(PACKED, packing.elems),))


__all__ = ["Packing", "data_gradient", "forward", "refuse", "strided_of", "strided_tiles", "weight_gradient"]
