"""Winograd convolution on GPUs, for 3x3 filters at stride 1: three launches for all tiles of a group of images.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), algorithm 1. The output is cut into
tiles of m x m pixels, each of which sees n x n pixels of the input, n = m + 2:
1. input transform: `data[point, tile, c] = (B^T d B)[point]`, at n x n points;
2. products: `products[point, tile, k] = sum_c data[point, tile, c] filters[point, k, c]`, all points in one launch;
3. output transform: `Y = A^T products A`, the epilogue, the only store of the output.
The filters, `G g G^T`, are made in float64 when weights are packed, and rounded once.

Work: F(2x2,3x3) has 16 products for 36 of the direct algorithm, 2.25 times fewer; F(4x4,3x3) 36 for 144, 4 times.
Between the launches `data` and `products` lie in memory: 4 times the input's numbers and 4 times the output's for
F(2x2), 2.25 times for F(4x4). On the matrix unit in f16 that takes F(2x2) more time than it saves; `cost` weighs it.

Layouts: channels of `data` and `filters` are padded with zeros to whole steps of the products, tiles to whole blocks:
products need no masks, and both operands lie along the channels, as the matrix unit wants them for tf32.

Numerics: transforms in f32; `data` and `filters` in the layer's precision (tf32: rounded to it, to nearest), sums in
f32. What that arithmetic makes of sums in chains of 8, as the largest error of an output before it is stored (the
paper's table of accuracy); inputs and weights evenly spread over [-1, 1] and stored in the precision, truth in float64:

| c, pixels | f32 direct, F(2x2), F(4x4) | tf32 F(2x2), F(4x4) | f16 F(2x2), F(4x4) | bf16 F(2x2), F(4x4) |
|:--|:--|:--|:--|:--|
| 64, 56x56 | 1.0e-5, 5.8e-6, 2.4e-5 | 1.6e-2, 6.7e-2 | 2.0e-2, 6.6e-2 | 0.13, 0.47 |
| 256, 28x28 | 4.1e-5, 1.5e-5, 5.8e-5 | 3.8e-2, 1.1e-1 | 3.1e-2, 1.1e-1 | 0.24, 0.95 |
| 512, 14x14 | 1.1e-4, 2.3e-5, 1.2e-4 | 3.8e-2, 1.8e-1 | 3.8e-2, 1.5e-1 | 0.34, 1.20 |

Storing such an output in f16 costs 2.9e-2 in the last row, 0.23 in bf16: F(2x2) loses about as much again, F(4x4) five
times as much. `products` are stored in f32 in every precision: in f16 they would add a fifth to F(2x2)'s error and a
third to F(4x4)'s (4.6e-2 and 2.0e-1 in the last row), since the output transform takes large sums from each other.
In f16 |x| may reach 16000 with F(2x2) and 2900 with F(4x4); beyond that `data` may overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from waterline.algorithms.base import Refusal
from waterline.algorithms.direct_gemm.gpu import GpuTile
from waterline.algorithms.gpu import (
    BIAS,
    INPUT_PRECISION,
    RESIDUAL,
    TORCH_TYPES,
    GpuAlgorithm,
    GpuCost,
    GpuImplementation,
    Workspace,
    X,
    Y,
)
from waterline.algorithms.winograd.gpu_transforms import (
    growth,
    is_dyadic,
    rounded_to_tf32,
    sums,
    transform_filters,
    winograd_input,
    winograd_output,
)
from waterline.algorithms.winograd.transforms import Filtering, filtering
from waterline.codegen.gpu.epilogue import has_activations
from waterline.codegen.gpu.kernel import WARP_THREADS, GpuLaunch
from waterline.machine.gpu import LAUNCH_SECONDS, PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec

DATA, FILTERS, PRODUCTS = "data", "filters", "products"
TAPS = 3
LARGEST_NUMBER = 2**31 - 1
# Rounding of an operand of the products; in f32 it is one of the sum's own.
OPERAND_EPS = {"f32": 0.0, "tf32": 2.0**-11, "f16": 2.0**-11, "bf16": 2.0**-8}
SUM_EPS = 2.0**-23
# Of both workspaces together; beyond it groups of tiles follow each other.
WORKSPACE_BYTES = 2 << 30
SUM_BYTES = 4
# Numbers that a thread of a transform keeps, and its warps: enough loads are under way then, and no registers spill.
THREAD_VALUES = 96
TRANSFORM_WARPS = 4
MOST_BLOCK_CHANNELS = 128
COLUMN_ELEMS = 8  # rows of products are padded to as many, for vector accesses


@triton.jit
def winograd_products(
    data,
    filters,
    products,
    rows,
    POINTS: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """products[point, row, k] = sum_c data[point, row, c] filters[point, k, c].

    Persistent blocks, point after point; in each, groups of GROUP_ROWS rows of tiles, as in `direct_gemm`. `rows` and
    DEPTH are whole blocks, and so are the filters' columns; those of the products are not.
    """
    column_tiles: tl.constexpr = (COLUMNS + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    row_tiles = rows // BLOCK_ROWS
    point_tiles = row_tiles * column_tiles
    depth = tl.arange(0, BLOCK_DEPTH)
    row = tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_COLUMNS)
    # Their number at compile time: asked for at run time it takes registers that f32 has not, which spill.
    for item in range(tl.program_id(0), POINTS * point_tiles, PROGRAMS):
        point = item // point_tiles
        tile = item % point_tiles
        first = tile // (GROUP_ROWS * column_tiles) * GROUP_ROWS
        height = tl.minimum(row_tiles - first, GROUP_ROWS)
        within = tile % (GROUP_ROWS * column_tiles)
        first_row = point.to(tl.int64) * rows + (first + within % height) * BLOCK_ROWS
        first_column = within // height * BLOCK_COLUMNS
        filter_row = point.to(tl.int64) * (column_tiles * BLOCK_COLUMNS) + first_column
        a_at = data + first_row * DEPTH + (row[:, None] * DEPTH + depth[None, :])
        b_at = filters + filter_row * DEPTH + (depth[:, None] + column[None, :] * DEPTH)
        total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
        for begin in range(0, DEPTH, BLOCK_DEPTH):
            total = tl.dot(tl.load(a_at + begin), tl.load(b_at + begin), total, input_precision=PRECISION)
        target = products + first_row * COLUMNS + first_column + (row[:, None] * COLUMNS + column[None, :])
        if COLUMNS % BLOCK_COLUMNS == 0:
            tl.store(target, total)
        else:
            tl.store(target, total, (first_column + column < COLUMNS)[None, :])


# Large ones first. The depth is that of the layer's steps, see `depth_of`.
TILES = (
    (128, 256, 8, 3),
    (256, 128, 8, 3),
    (128, 128, 4, 3),
    (128, 128, 8, 3),
    (128, 64, 4, 4),
    (64, 128, 4, 4),
    (64, 64, 4, 4),
    (64, 32, 4, 4),
    (32, 32, 4, 4),
)
# Without the matrix unit (f32) a thread keeps operands in registers too: with more sums, or more loads under way, these
# spill; and a step takes long enough for the next one's loads.
MOST_SCALAR_SUMS = 64
SCALAR_DEPTH = 16
SCALAR_STAGES = 2
OTHER_REGISTERS = 64  # of a thread, beside its sums
GROUP_ROWS = 8
STEP_CHANNELS = 8  # what a step of the products takes beside its own channels, in channels
# Estimates: of the peak, by a full wave of large tiles; of memory's rate, by the transforms; the second-level cache's
# rate against memory's, when it is written as well.
TILE_EFFICIENCY = 0.8
TRANSFORM_EFFICIENCY = 0.8
CACHE_SPEED = 1.5


@dataclass(frozen=True)
class Sizes:
    """Of a layer in the transform domain: tiles along an image's axes and in all, groups of tiles, padded sizes."""

    down: int
    across: int
    tiles: int
    group_tiles: int  # of each group but perhaps the last
    rows: int
    depth: int
    columns: int

    @property
    def groups(self) -> int:
        return -(-self.tiles // self.group_tiles)


@dataclass(frozen=True)
class GpuWinograd(GpuAlgorithm):
    """F(m x m, 3x3)."""

    name: str
    m: int

    @property
    def filtering(self) -> Filtering:
        return filtering(self.m, TAPS)

    @property
    def points(self) -> int:
        return self.filtering.n**2

    def refuse(self, spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
        if (spec.r, spec.s) != (TAPS, TAPS):
            return Refusal(f"it computes 3x3 filters, the layer's are {spec.r}x{spec.s}")
        if not spec.stride == spec.dilation == spec.upsample == (1, 1):
            found = f"{spec.stride}, {spec.dilation} and {spec.upsample}"
            return Refusal(f"it needs stride, dilation and upsampling 1, the layer has {found}")
        if spec.groups != 1:
            return Refusal(f"it computes one group, the layer has {spec.groups}")
        if not has_activations(spec.epilogue):
            return Refusal(f"its epilogue is {spec.epilogue}")
        tiles = spec.n * -(-spec.p // self.m) * -(-spec.q // self.m)
        if tiles * self.points > LARGEST_NUMBER:
            return Refusal(f"{tiles} tiles of {self.points} points are more than {LARGEST_NUMBER} rows of products")
        return None

    def accuracy(self, precision: str) -> str:
        """With four outputs a tile and operands of few bits errors are ten times those of direct summation."""
        return "default" if self.m == 2 or precision == "f32" else "fast"

    def tolerance(self, spec: ConvSpec, precision: str) -> float:
        """How much larger the error of an output may be than direct summation's, at least 1.

        In f32 as `Winograd.tolerance` has it. In other precisions both operands of each product are rounded once more
        than the direct algorithm's, and the inverse transform lets these errors grow as it does those of the sums. They
        do not add up along a sum, as its bound does: the deeper the sum, the less they weigh beside it.
        """
        transforms = 1.0 + 2 * TAPS / spec.c
        operands = 2.0 * OPERAND_EPS[precision] / (SUM_EPS * (spec.c * spec.taps + 2)) * transforms
        return max(1.0, growth(self.filtering)) * ((1.0 if is_dyadic(self.filtering) else transforms) + operands)

    def configs(self, spec: ConvSpec, gpu: Gpu, precision: str) -> list[GpuTile]:
        elem_bytes = PRECISION_BYTES[precision]
        if precision == "f32":
            most = MOST_SCALAR_SUMS * WARP_THREADS
            tiles = [
                GpuTile(rows, columns, SCALAR_DEPTH, warps, SCALAR_STAGES)
                for rows, columns, warps, _ in TILES
                if rows * columns <= most * warps
            ]
        else:
            depth = depth_of(spec.c, elem_bytes)
            tiles = [GpuTile(rows, columns, depth, warps, stages) for rows, columns, warps, stages in TILES]

        def shared_bytes(tile: GpuTile) -> int:
            """Of operands; and of sums on their way to memory where a product is one step, and the next one's operands
            arrive meanwhile."""
            return tile.shared_bytes(elem_bytes) + (spec.c <= tile.depth) * tile.rows * tile.columns * SUM_BYTES

        fitting = [tile for tile in tiles if shared_bytes(tile) <= gpu.shared_bytes]
        return sorted(fitting, key=lambda tile: self.cost(spec, tile, gpu, precision).seconds)

    def cost(self, spec: ConvSpec, config: GpuTile, gpu: Gpu, precision: str) -> GpuCost:
        """The launches' times one after the other, each the longer of its arithmetic and of what it moves."""
        sizes, elem_bytes = self.sizes(spec, config, precision), PRECISION_BYTES[precision]
        numbers, columns = self.points * sizes.rows, -(-spec.k // config.columns) * config.columns
        workspace_bytes = numbers * (sizes.depth * elem_bytes + sizes.columns * SUM_BYTES)
        filter_bytes = self.points * columns * sizes.depth * elem_bytes
        outputs = spec.n * spec.p * spec.q * spec.k * (2 if spec.epilogue.residual else 1)
        outer_bytes = (spec.n * spec.h * spec.w * spec.c + outputs) * elem_bytes
        is_cached = workspace_bytes < gpu.l2_bytes / 2
        speed = gpu.memory_bytes_per_s * (CACHE_SPEED if is_cached else 1.0)

        blocks = numbers // config.rows * (columns // config.columns)
        busy = blocks / max(1, -(-blocks // gpu.multiprocessors) * gpu.multiprocessors)
        reading = config.rows * config.columns / (config.rows + config.columns)
        flops = 2.0 * numbers * columns * sizes.depth
        multiplying = flops / (gpu.peak(precision) * TILE_EFFICIENCY * busy * reading / (reading + 16))
        products = max(multiplying, workspace_bytes / speed + filter_bytes / gpu.memory_bytes_per_s)
        transforms = outer_bytes / gpu.memory_bytes_per_s + sizes.groups * workspace_bytes / speed
        launches = max(0, 3 * sizes.groups - 1) * LAUNCH_SECONDS  # beside the one that every algorithm has
        return GpuCost(
            sizes.groups * products + transforms / TRANSFORM_EFFICIENCY + launches,
            sizes.groups * flops,
            outer_bytes + sizes.groups * (2 * workspace_bytes + filter_bytes),
        )

    def sizes(self, spec: ConvSpec, config: GpuTile, precision: str) -> Sizes:
        down, across = -(-spec.p // self.m), -(-spec.q // self.m)
        tiles = spec.n * down * across
        depth = -(-spec.c // config.depth) * config.depth
        columns = -(-spec.k // COLUMN_ELEMS) * COLUMN_ELEMS
        tile_bytes = self.points * (depth * PRECISION_BYTES[precision] + columns * SUM_BYTES)
        groups = -(-tiles // max(WORKSPACE_BYTES // tile_bytes, config.rows))
        group_tiles = max(1, -(-tiles // max(1, groups)))
        rows = -(-group_tiles // config.rows) * config.rows
        return Sizes(down, across, tiles, group_tiles, rows, depth, columns)

    def implement(self, spec: ConvSpec, config: GpuTile, gpu: Gpu, precision: str) -> GpuImplementation:
        sizes = self.sizes(spec, config, precision)
        launches: list[GpuLaunch] = []
        for first in range(0, sizes.tiles, sizes.group_tiles):
            tiles = min(sizes.group_tiles, sizes.tiles - first)
            launches.append(self._input(spec, config, precision, sizes, first, tiles))
            launches.append(self._products(spec, config, gpu, precision, sizes))
            launches.append(self._output(spec, config, sizes, first, tiles))
        numbers = self.points * sizes.rows
        workspaces = Workspace(DATA, numbers * sizes.depth), Workspace(PRODUCTS, numbers * sizes.columns, "f32")
        return GpuImplementation(tuple(launches), workspaces)

    def pack(self, spec: ConvSpec, config: GpuTile, weight: torch.Tensor, precision: str) -> dict[str, torch.Tensor]:
        """(point, k, c), both padded with zeros to whole blocks."""
        columns = -(-spec.k // config.columns) * config.columns
        depth = -(-spec.c // config.depth) * config.depth
        filters = transform_filters(self.filtering, weight).to(TORCH_TYPES[precision])
        packed = torch.zeros((self.points, columns, depth), dtype=filters.dtype, device=weight.device)
        packed[:, : spec.k, : spec.c] = rounded_to_tf32(filters) if precision == "tf32" else filters
        return {FILTERS: packed}

    # ---- launches ---------------------------------------------------------------------------------------------------
    def _block(self, channels: int, rows: int) -> tuple[int, int]:
        """Tiles and channels of a block of a transform; `channels` a power of two at most."""
        values = 1 << ((THREAD_VALUES // self.points).bit_length() - 1)
        channels = min(channels, MOST_BLOCK_CHANNELS)
        return max(1, min(TRANSFORM_WARPS * WARP_THREADS * values // channels, rows)), channels

    def _input(
        self, spec: ConvSpec, config: GpuTile, precision: str, sizes: Sizes, first: int, tiles: int
    ) -> GpuLaunch:
        block_tiles, block_channels = self._block(sizes.depth & -sizes.depth, config.rows)
        top, left = spec.pad[:2]
        sees = (sizes.down * self.m + TAPS - 1 - top, sizes.across * self.m + TAPS - 1 - left)
        constants = {
            **sums(self.filtering.b),
            "OUTPUTS": self.m,
            "SIDE": self.filtering.n,
            "HEIGHT": spec.h,
            "WIDTH": spec.w,
            "CHANNELS": spec.c,
            "TOP": top,
            "LEFT": left,
            "TILES_DOWN": sizes.down,
            "TILES_ACROSS": sizes.across,
            "HAS_MARGINS": top > 0 or left > 0 or sees[0] > spec.h or sees[1] > spec.w,
            "DEPTH": sizes.depth,
            "BLOCK_TILES": block_tiles,
            "BLOCK_CHANNELS": block_channels,
            "IS_TF32": precision == "tf32",
        }
        grid = (sizes.rows // block_tiles * (sizes.depth // block_channels),)
        return GpuLaunch(
            winograd_input, grid, (X, DATA, first, tiles, sizes.rows), constants, warps=TRANSFORM_WARPS, stages=1
        )

    def _products(self, spec: ConvSpec, config: GpuTile, gpu: Gpu, precision: str, sizes: Sizes) -> GpuLaunch:
        items = self.points * sizes.rows // config.rows * -(-spec.k // config.columns)
        programs = min(items, gpu.multiprocessors * resident_blocks(config, gpu, precision))
        constants = {
            "POINTS": self.points,
            "DEPTH": sizes.depth,
            "COLUMNS": sizes.columns,
            "BLOCK_ROWS": config.rows,
            "BLOCK_COLUMNS": config.columns,
            "BLOCK_DEPTH": config.depth,
            "GROUP_ROWS": GROUP_ROWS,
            "PROGRAMS": programs,
            "PRECISION": INPUT_PRECISION[precision],
        }
        arguments = (DATA, FILTERS, PRODUCTS, sizes.rows)
        types = {PRODUCTS: "f32"}
        return GpuLaunch(winograd_products, (programs,), arguments, constants, types, config.warps, config.stages)

    def _output(self, spec: ConvSpec, config: GpuTile, sizes: Sizes, first: int, tiles: int) -> GpuLaunch:
        block_tiles, block_channels = self._block(triton.next_power_of_2(spec.k), config.rows)
        constants = {
            **sums(self.filtering.a),
            "OUTPUTS": self.m,
            "SIDE": self.filtering.n,
            "HEIGHT": spec.p,
            "WIDTH": spec.q,
            "CHANNELS": spec.k,
            "TILES_DOWN": sizes.down,
            "TILES_ACROSS": sizes.across,
            "COLUMNS": sizes.columns,
            "BLOCK_TILES": block_tiles,
            "BLOCK_CHANNELS": block_channels,
            "EPILOGUE": spec.epilogue,
        }
        # Pointers that are not read are given all the same: a kernel has one signature.
        bias = BIAS if spec.epilogue.bias else PRODUCTS
        residual = RESIDUAL if spec.epilogue.residual else Y
        arguments = (PRODUCTS, bias, residual, Y, first, tiles, sizes.rows)
        types = {PRODUCTS: "f32", BIAS: "f32"}
        grid = (-(-tiles // block_tiles) * -(-spec.k // block_channels),)
        return GpuLaunch(winograd_output, grid, arguments, constants, types, warps=TRANSFORM_WARPS, stages=1)


def resident_blocks(config: GpuTile, gpu: Gpu, precision: str) -> int:
    """Blocks of the products that a multiprocessor runs at once: while one stores its sums, another multiplies."""
    threads = config.warps * WARP_THREADS
    registers = config.rows * config.columns + OTHER_REGISTERS * threads
    shared_bytes = config.shared_bytes(PRECISION_BYTES[precision])
    return max(1, min(gpu.registers // registers, gpu.shared_bytes // shared_bytes))


def depth_of(channels: int, elem_bytes: int) -> int:
    """Channels of a step of the products: 128, 64 or 32 bytes, 16 at least; padding weighs as much as short steps."""
    steps = {max(16, width // elem_bytes) for width in (128, 64, 32)}
    return min(sorted(steps, reverse=True), key=lambda step: -(-channels // step) * (step + STEP_CHANNELS))


WINOGRAD_F2X2_GPU = GpuWinograd("winograd:f2x2", 2)
WINOGRAD_F4X4_GPU = GpuWinograd("winograd:f4x4", 4)
__all__ = ["WINOGRAD_F2X2_GPU", "WINOGRAD_F4X4_GPU", "GpuWinograd"]
