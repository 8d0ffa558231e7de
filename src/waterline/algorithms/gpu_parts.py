"""Matrix products whose depth is split among blocks, where a result has too few tiles for all multiprocessors.

Each block writes its part of the sums in f32, and a second launch adds the parts of an element in their order (the same
from run to run, which atomic additions would not be), with the epilogue. Worth it where the depth is long against what
the second launch costs. (cuBLAS and CUTLASS call it split-K.)
"""

from __future__ import annotations

import triton
import triton.language as tl

from waterline.algorithms.gpu import BIAS, RESIDUAL, Workspace, Y
from waterline.codegen.gpu.epilogue import finish
from waterline.codegen.gpu.kernel import GpuLaunch
from waterline.machine.gpu import CACHE_SPEED, LAUNCH_SECONDS, Gpu
from waterline.spec import ConvSpec

PARTS = "parts"
SPLITS = (1, 2, 4, 8, 16)
LEAST_STEPS = 4  # of the depth, in a part: fewer do not fill the pipeline of loads
BLOCK_ROWS, BLOCK_COLUMNS = 16, 64


@triton.jit
def sum_parts(
    parts,
    bias,
    residual,
    y,
    rows,
    COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """y[row, k] = epilogue(sum_i parts[i, row, k])."""
    column_tiles: tl.constexpr = (COLUMNS + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    tile = tl.program_id(0)
    row = tile // column_tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tile % column_tiles * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    is_column = column < COLUMNS
    is_place = (row < rows)[:, None] & is_column[None, :]
    places = row.to(tl.int64)[:, None] * COLUMNS + column[None, :]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for part in tl.static_range(SPLITS):
        sums += tl.load(parts + (part * rows.to(tl.int64) * COLUMNS + places), is_place, 0.0)
    out = finish(
        sums, bias, residual, column, is_column, places, is_place, EPILOGUE,
    )  # fmt: skip
    tl.store(y + places, out.to(y.dtype.element_ty), is_place)


def summation(spec: ConvSpec, splits: int) -> GpuLaunch:
    """The second launch of a layer."""
    rows = spec.n * spec.p * spec.q
    constants = {"COLUMNS": spec.k, "SPLITS": splits, "BLOCK_ROWS": BLOCK_ROWS, "BLOCK_COLUMNS": BLOCK_COLUMNS}
    constants["EPILOGUE"] = spec.epilogue
    # Pointers that are not read are given all the same: a kernel has one signature.
    bias = BIAS if spec.epilogue.bias else PARTS
    residual = RESIDUAL if spec.epilogue.residual else Y
    grid = (-(-rows // BLOCK_ROWS) * -(-spec.k // BLOCK_COLUMNS),)
    return GpuLaunch(sum_parts, grid, (PARTS, bias, residual, Y, rows), constants, {PARTS: "f32", BIAS: "f32"}, warps=4)


def workspace(spec: ConvSpec, splits: int) -> Workspace:
    return Workspace(PARTS, splits * spec.n * spec.p * spec.q * spec.k, "f32")


def worthwhile_splits(tiles: int, steps: int, gpu: Gpu) -> list[int]:
    """Into how many parts the depth may be split: one, and such numbers that there is work for all and no second wave.

    Args:
        tiles: of the result. steps: products of a block's depth.
    """
    return [
        splits
        for splits in SPLITS
        if splits == 1 or (tiles * splits <= gpu.multiprocessors and steps >= splits * LEAST_STEPS)
    ]


def summation_seconds(spec: ConvSpec, splits: int, gpu: Gpu) -> float:
    """What the parts, which stay in the second-level cache, cost beside the product."""
    if splits == 1:
        return 0.0
    moved_bytes = 2 * 4 * splits * spec.n * spec.p * spec.q * spec.k
    return LAUNCH_SECONDS + moved_bytes / (gpu.memory_bytes_per_s * CACHE_SPEED)


__all__ = ["PARTS", "summation", "summation_seconds", "workspace", "worthwhile_splits"]
