"""1x1 convolutions on GPUs: a matrix product with persistent blocks and the epilogue before the only store.

Layouts: activations NHWC, so that pixels are the rows of a product; weights (c, k). Sums in f32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from waterline.algorithms.base import Refusal
from waterline.algorithms.gpu import (
    BIAS,
    INPUT_PRECISION,
    RESIDUAL,
    TORCH_TYPES,
    GpuAlgorithm,
    GpuCost,
    GpuImplementation,
    X,
    Y,
    roofline,
)
from waterline.algorithms.gpu_parts import PARTS, summation, summation_seconds, workspace, worthwhile_splits
from waterline.codegen.gpu.epilogue import finish, has_activations
from waterline.codegen.gpu.kernel import WARP_THREADS, GpuLaunch
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec, Epilogue


@triton.jit
def direct_gemm(
    x,
    weight,
    bias,
    residual,
    y,
    rows,
    x_stride,
    y_stride,
    residual_stride,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """y[row, k] = epilogue(sum_c x[row, c] weight[c, k]).

    Blocks are persistent: all of them step through the tiles together. Tiles are taken in groups of GROUP_ROWS rows of
    tiles, so that those that run together read the same inputs and weights from the second-level cache. With SPLITS > 1
    the depth is cut into as many parts, y has as many times its rows, and a tile of each is written.
    """
    steps: tl.constexpr = (DEPTH + BLOCK_DEPTH - 1) // BLOCK_DEPTH
    column_tiles: tl.constexpr = (COLUMNS + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    for part_tile in range(tl.program_id(0), row_tiles * column_tiles * SPLITS, PROGRAMS):
        tile, part = part_tile // SPLITS, part_tile % SPLITS
        group = tile // (GROUP_ROWS * column_tiles)
        first = group * GROUP_ROWS
        height = tl.minimum(row_tiles - first, GROUP_ROWS)
        within = tile % (GROUP_ROWS * column_tiles)
        row = (first + within % height) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        column = (within // height) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        is_row, is_column = row < rows, column < COLUMNS
        depth = tl.arange(0, BLOCK_DEPTH)
        row_at = row.to(tl.int64)
        sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
        for step in range(steps * part // SPLITS, steps * (part + 1) // SPLITS):
            at = step * BLOCK_DEPTH + depth
            is_depth = at < DEPTH
            a = tl.load(x + row_at[:, None] * x_stride + at[None, :], is_row[:, None] & is_depth[None, :], 0.0)
            b = tl.load(weight + at[:, None] * COLUMNS + column[None, :], is_depth[:, None] & is_column[None, :], 0.0)
            sums = tl.dot(a, b, sums, input_precision=PRECISION)
        is_place = is_row[:, None] & is_column[None, :]
        places = row_at[:, None] * residual_stride + column[None, :]
        out = finish(
            sums,
            bias,
            residual,
            column,
            is_column,
            places,
            is_place,
            EPILOGUE,
        )
        y_row = (row_at + part * rows.to(tl.int64))[:, None] if SPLITS > 1 else row_at[:, None]
        tl.store(y + y_row * y_stride + column[None, :], out.to(y.dtype.element_ty), is_place)


@dataclass(frozen=True)
class GpuTile:
    """What a block computes at a time: rows and columns of the result, the depth of one product; warps and stages.

    splits: parts that the whole depth is cut into, see `gpu_parts`.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    splits: int = 1

    def count(self, rows: int, columns: int) -> int:
        """Tiles of a result."""
        return -(-rows // self.rows) * -(-columns // self.columns)

    def shared_bytes(self, elem_bytes: int) -> int:
        """Of the operands that are under way."""
        return self.stages * (self.rows + self.columns) * self.depth * elem_bytes


# Large ones first: of those that keep all multiprocessors busy the largest moves least.
TILES = (
    GpuTile(128, 256, 64, 8, 3),
    GpuTile(256, 128, 64, 8, 3),
    GpuTile(128, 128, 64, 4, 3),
    GpuTile(128, 64, 64, 4, 4),
    GpuTile(64, 128, 64, 4, 4),
    GpuTile(64, 64, 64, 4, 4),
    GpuTile(64, 32, 64, 4, 4),
)
# Without the matrix unit (f32) a thread keeps its operands in registers too: with more sums than these, or deeper
# products, they spill.
MOST_SCALAR_SUMS = 32
SCALAR_DEPTH = 16
GROUP_ROWS = 8
TILE_EFFICIENCY = 0.8  # of the peak, of a full wave of large tiles


class GpuDirectGemm(GpuAlgorithm):
    name = "direct_gemm"

    def refuse(self, spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
        if not spec.is_pointwise or spec.groups != 1:
            return Refusal("the layer is not a 1x1 convolution with stride 1, one group and no padding")
        if not has_activations(spec.epilogue):
            return Refusal(f"its epilogue is {spec.epilogue}")
        return None

    def configs(self, spec: ConvSpec, gpu: Gpu, precision: str) -> list[GpuTile]:
        rows = spec.n * spec.p * spec.q
        found = [
            replace(tile, splits=splits)
            for tile in product_tiles(rows, spec.k, spec.c, gpu, precision)
            for splits in worthwhile_splits(tile.count(rows, spec.k), -(-spec.c // tile.depth), gpu)
        ]
        return sorted(found, key=lambda tile: self.cost(spec, tile, gpu, precision).seconds)

    def cost(self, spec: ConvSpec, config: GpuTile, gpu: Gpu, precision: str) -> GpuCost:
        rows = spec.n * spec.p * spec.q
        product = roofline(
            spec.flops,
            spec.least_bytes * PRECISION_BYTES[precision] / spec.elem_bytes,
            gpu,
            precision,
            tile_efficiency(rows, spec.k, config, gpu),
        )
        return replace(product, seconds=product.seconds + summation_seconds(spec, config.splits, gpu))

    def implement(self, spec: ConvSpec, config: GpuTile, gpu: Gpu, precision: str) -> GpuImplementation:
        rows, splits = spec.n * spec.p * spec.q, config.splits
        programs = min(config.count(rows, spec.k) * splits, gpu.multiprocessors)
        constants = {
            "DEPTH": spec.c,
            "COLUMNS": spec.k,
            "BLOCK_ROWS": config.rows,
            "BLOCK_COLUMNS": config.columns,
            "BLOCK_DEPTH": config.depth,
            "GROUP_ROWS": GROUP_ROWS,
            "PROGRAMS": programs,
            "SPLITS": splits,
            "PRECISION": INPUT_PRECISION[precision],
            "EPILOGUE": spec.epilogue if splits == 1 else Epilogue(),
        }
        # Pointers that are not read are given all the same: a kernel has one signature.
        has_bias, has_residual = (splits == 1 and each for each in (spec.epilogue.bias, spec.epilogue.residual))
        result = Y if splits == 1 else PARTS
        arguments = (X, "weight", BIAS if has_bias else "weight", RESIDUAL if has_residual else result, result)
        launch = GpuLaunch(
            direct_gemm,
            (programs,),
            (*arguments, rows, spec.c, spec.k, spec.k),
            constants,
            {BIAS: "f32", PARTS: "f32"},
            warps=config.warps,
            stages=config.stages,
        )
        if splits == 1:
            return GpuImplementation((launch,))
        return GpuImplementation((launch, summation(spec, splits)), (workspace(spec, splits),))

    def pack(self, spec: ConvSpec, config: GpuTile, weight: torch.Tensor, precision: str) -> dict[str, torch.Tensor]:
        return {"weight": weight.reshape(spec.k, spec.c).T.contiguous().to(TORCH_TYPES[precision])}


def product_tiles(rows: int, columns: int, depth: int, gpu: Gpu, precision: str) -> list[GpuTile]:
    """Tiles of a matrix product that fit shared memory, the most efficient first."""
    elem_bytes = PRECISION_BYTES[precision]
    tiles = TILES
    if precision == "f32":
        tiles = tuple(
            replace(tile, depth=SCALAR_DEPTH)
            for tile in TILES
            if tile.rows * tile.columns <= MOST_SCALAR_SUMS * tile.warps * WARP_THREADS
        )
    fitting = [tile for tile in tiles if tile.shared_bytes(elem_bytes) <= gpu.shared_bytes]
    return sorted(fitting, key=lambda tile: -tile_efficiency(rows, columns, tile, gpu))


def tile_efficiency(rows: int, columns: int, tile: GpuTile, gpu: Gpu) -> float:
    """Of the peak: what is left of it by tiles that are not full, by the last wave, by tiles that read much."""
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    full = rows * columns / (row_tiles * tile.rows * column_tiles * tile.columns)
    waves = -(-row_tiles * column_tiles * tile.splits // gpu.multiprocessors)
    busy = row_tiles * column_tiles * tile.splits / (waves * gpu.multiprocessors)
    reading = tile.rows * tile.columns / (tile.rows + tile.columns)
    return TILE_EFFICIENCY * full * busy * reading / (reading + 16)


DIRECT_GEMM_GPU = GpuDirectGemm()
__all__ = ["DIRECT_GEMM_GPU", "GpuDirectGemm", "GpuTile", "product_tiles", "tile_efficiency"]
