"""Tiles of the kernel of `block_fusion:inverted` on GPUs, and what they take of a multiprocessor."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.algorithms.block_fusion.gpu_inverted_stages import InvertedStages
from waterline.algorithms.block_fusion.gpu_kernels import held
from waterline.algorithms.block_fusion.gpu_packing import padded
from waterline.codegen.gpu.kernel import WARP_THREADS
from waterline.machine.gpu import PRECISION_BYTES, Gpu


@dataclass(frozen=True)
class GpuInverted:
    """What a block of threads computes.

    Attributes:
        rows, columns: of the result's pixels. chunk: hidden channels at a time. step: pixels that are expanded at a
            time.
        depth, outputs: widest part of the expansion's depth, and of the projection's result.
        stages: loads that are under way in the expansion.
    """

    rows: int
    columns: int
    chunk: int
    step: int
    depth: int
    outputs: int
    warps: int
    stages: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def threads(self) -> int:
        return WARP_THREADS * self.warps


# On the matrix unit.
MATRIX_TILES = (
    GpuInverted(8, 16, 64, 128, 64, 64, 8, 2),
    GpuInverted(8, 16, 32, 128, 64, 64, 8, 2),
    GpuInverted(8, 8, 64, 64, 64, 64, 4, 2),
    GpuInverted(4, 16, 64, 64, 64, 64, 4, 2),
    GpuInverted(8, 8, 32, 64, 64, 64, 4, 2),
    GpuInverted(4, 4, 32, 64, 64, 64, 4, 2),
)
# Of numbers of 32 bits, with the channels before an expansion and behind a projection up to which the compiler needs no
# memory beside a thread's registers; in exact products of f32 a thread holds both operands in them.
WORD_TILES = {
    "tf32": ((GpuInverted(8, 8, 32, 64, 32, 32, 8, 1), 160, 128), (GpuInverted(4, 4, 16, 64, 32, 64, 4, 1), 192, 320)),
    "f32": ((GpuInverted(4, 4, 16, 16, 16, 32, 4, 1), 192, 192),),
}
WORD_REGISTERS = {"tf32": 255, "f32": 128}
FULL_PIXELS = 64  # what the asynchronous product of four warps takes at once
MOST_REGISTERS = 255
REGISTER_STEP = 8  # in which they are given to threads
MOST_RESIDENT = 4  # blocks of a multiprocessor, whose buffers its first-level cache holds


def tiles_of(stages: InvertedStages, gpu: Gpu, precision: str) -> list[GpuInverted]:
    """Those that registers suffice for, and that are worth it."""
    if precision in WORD_TILES:
        depth = stages.expand.c if stages.expand else 0
        k = stages.project.k if stages.project else 0
        found = [tile for tile, most_depth, most_k in WORD_TILES[precision] if depth <= most_depth and k <= most_k]
    else:
        found = [tile for tile in MATRIX_TILES if registers_of(stages, tile, gpu, precision) <= MOST_REGISTERS]
    if stages.expand or precision == "f32":
        return found
    # A small one gives more blocks a part of the work, for a slower product behind: only an expansion is worth that.
    return [tile for tile in found if tile.pixels >= FULL_PIXELS]


def patch_of(stages: InvertedStages, config: GpuInverted) -> tuple[int, int]:
    """Rows and columns of the image that a tile's taps read, a tile that is no larger than the result."""
    inner = stages.filter
    rows, columns = min(config.rows, inner.p), min(config.columns, inner.q)
    return (
        (rows - 1) * inner.stride[0] + (inner.r - 1) * inner.dilation[0] + 1,
        (columns - 1) * inner.stride[1] + (inner.s - 1) * inner.dilation[1] + 1,
    )


def patch_pixels(stages: InvertedStages, config: GpuInverted) -> int:
    """Pixels that are expanded for a tile: whole steps."""
    rows, columns = patch_of(stages, config)
    return padded(rows * columns, config.step)


def item_count(stages: InvertedStages, config: GpuInverted) -> int:
    end = stages.end
    tiles = end.n * -(-end.p // config.rows) * -(-end.q // config.columns)
    return tiles if stages.project else tiles * -(-stages.hidden // config.chunk)


def shared_bytes_of(stages: InvertedStages, config: GpuInverted, precision: str) -> int:
    """Of the operands of both products and of a chunk that changes its layout, at most."""
    elems = config.chunk * max(config.pixels, config.step) + config.chunk * kept_channels(stages, config)
    if stages.expand is not None:
        elems += held(stages.expand.c, config.depth) * (config.chunk + config.stages * config.step)
    return elems * PRECISION_BYTES[precision]


def kept_channels(stages: InvertedStages, config: GpuInverted) -> int:
    """Channels of sums that a tile has in registers."""
    return held(stages.project.k, config.outputs) if stages.project else 0


def registers_of(stages: InvertedStages, config: GpuInverted, gpu: Gpu, precision: str) -> int:
    """Of a thread that has none in memory, fitted to what the compiler needs for MobileNets and EfficientNets."""
    if precision in WORD_REGISTERS:
        return WORD_REGISTERS[precision]
    sums = config.pixels * kept_channels(stages, config) / config.threads
    chunk = max(config.pixels, config.step) * config.chunk / config.threads
    found = max(56 + 2.6 * chunk, 44 + 1.5 * chunk + 1.5 * sums)
    found += 0.8 * config.chunk * kept_channels(stages, config) / config.threads
    if gpu.capability[0] < 9 and stages.expand is not None:
        # The matrix unit takes weights from registers, each warp all of them, if others leave room.
        share = 0.5 if stages.project else 0.125
        found += 8 + share * held(stages.expand.c, config.depth) * config.chunk / WARP_THREADS
    return int(found)


def resident_blocks(stages: InvertedStages, config: GpuInverted, gpu: Gpu, precision: str) -> int:
    """Blocks that a multiprocessor runs at a time."""
    registers = padded(registers_of(stages, config, gpu, precision), REGISTER_STEP)  # no more than 256
    shared_bytes = shared_bytes_of(stages, config, precision)
    fit = min(gpu.registers // (config.threads * registers), gpu.shared_bytes // shared_bytes)
    return max(1, min(MOST_RESIDENT, fit))


__all__ = [
    "MOST_REGISTERS",
    "REGISTER_STEP",
    "GpuInverted",
    "item_count",
    "patch_of",
    "patch_pixels",
    "resident_blocks",
    "shared_bytes_of",
    "tiles_of",
]
