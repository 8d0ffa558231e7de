"""How long tiles of an implicit matrix product take, and which tiles fit: for `indirect` and the gradients.

Estimates: what a multiprocessor multiplies and what it reads from the second-level cache overlap, and waves of tiles
follow each other.
"""

from __future__ import annotations

from waterline.algorithms.direct_gemm.gpu import GpuTile
from waterline.codegen.gpu.kernel import WARP_THREADS
from waterline.machine.gpu import PRECISION_BYTES, Gpu

# Rows, columns, warps.
TILES = (
    (128, 256, 8),
    (256, 128, 8),
    (128, 128, 4),
    (256, 64, 8),
    (64, 256, 4),
    (128, 64, 4),
    (64, 128, 4),
    (64, 64, 4),
    (64, 32, 4),
    (64, 16, 4),
)
# Products of f32 that are exact are not the matrix unit's, and hold their operands in registers.
MOST_EXACT_ELEMS = 64 * 64
EXACT_DEPTH = 16
DEPTH_BYTES = 128  # of one product, at most: what shared memory serves without conflicts
MOST_STAGES = 4
LEAST_WARPS, MOST_WARPS = 4, 8
ADDRESSED_SUMS = 64  # of a thread that computes addresses of both operands
# That a multiprocessor reads while all read, of 64 that its port passes; and that rows found by their addresses bring,
# for each byte of a vector: a warp's load takes a dozen instructions with its addresses and conditions. Estimates.
L2_BYTES_PER_CYCLE = 45
ROW_BYTES_PER_CYCLE = 10


def best_depth(elems: int, precision: str) -> int:
    """Of one product, for a whole depth of so many elements: that which pads and begins anew least."""
    fitting = [each for each in (64, 32, 16) if each * PRECISION_BYTES[precision] <= DEPTH_BYTES]
    if precision == "f32":
        return EXACT_DEPTH
    return min(fitting, key=lambda each: -(-elems // each) * (each + 8))


def staged(rows: int, columns: int, depth: int, warps: int, gpu: Gpu, precision: str) -> GpuTile | None:
    """With as many stages as fit, or None."""
    stage_bytes = GpuTile(rows, columns, depth, warps, 1).shared_bytes(PRECISION_BYTES[precision])
    # Four warps leave room for a second block, but never less than three stages.
    stages = min(max(gpu.shared_bytes * warps // 8 // stage_bytes, 3), MOST_STAGES)
    is_large = precision == "f32" and rows * columns > MOST_EXACT_ELEMS
    return None if stages * stage_bytes > gpu.shared_bytes or is_large else GpuTile(rows, columns, depth, warps, stages)


def addressed(rows: int, columns: int, depth: int, gpu: Gpu, precision: str) -> GpuTile | None:
    """Staged, where both operands arrive by addresses, which take registers beside the sums."""
    warps = max(rows * columns // (ADDRESSED_SUMS * WARP_THREADS), LEAST_WARPS)
    return staged(rows, columns, depth, warps, gpu, precision) if warps <= MOST_WARPS else None


def row_bytes_per_cycle(vector_bytes: int) -> float:
    """That arrive of rows which are found by their addresses, in vectors of so many bytes."""
    return min(L2_BYTES_PER_CYCLE, ROW_BYTES_PER_CYCLE * vector_bytes)


def product_seconds(
    tile: GpuTile, tiles: int, depth: float, efficiency: float, row_rate: float, column_rate: float, gpu: Gpu,
    precision: str,
) -> float:  # fmt: skip
    """Waves of tiles one after the other, each as long as its products or as its loads from the second-level cache.

    Args:
        depth: of a tile's whole product. efficiency: of the peak, of a full wave of large tiles.
        row_rate, column_rate: bytes a cycle that a multiprocessor reads of either operand.
    """
    products = tile.rows * tile.columns * depth
    # What is not products is longer in small tiles and short steps.
    reading = tile.rows * tile.columns / (tile.rows + tile.columns)
    share = efficiency * tile.depth / (tile.depth + 8) * reading / (reading + 8)
    multiply_seconds = 2 * products * gpu.multiprocessors / (gpu.peak(precision) * share)
    # An element of a row meets all columns of the tile, an element of a column all rows.
    cycles = products * PRECISION_BYTES[precision] * (1 / tile.columns / row_rate + 1 / tile.rows / column_rate)
    return -(-tiles // gpu.multiprocessors) * max(multiply_seconds, cycles / gpu.clock_hz)


__all__ = [
    "L2_BYTES_PER_CYCLE",
    "TILES",
    "addressed",
    "best_depth",
    "product_seconds",
    "row_bytes_per_cycle",
    "staged",
]
