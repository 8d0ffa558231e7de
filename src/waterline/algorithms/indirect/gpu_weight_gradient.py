"""The weight gradient of dense convolutions on GPUs.

    dw[k, c, r, s] = sum_{n, p, q} dy[n, p, q, k] x[n, p*sh + r*dh - top, q*sw + s*dw - left, c]

is a product of k x pixels and pixels x (r, s, c), with the pixels of all images as its depth. There are few tiles of
results, so programs split the depth among them (after Osama et al., "Stream-K" (2023), section 3: fixed splits), leave
sums in f32, and a second launch adds up those of each weight, always in the same order: results are the same from run
to run.

How x comes (`WeightConfig.loads`):
* "images": bulk copies of one pixel of many images, which lie inside the image all or none; outputs that see nothing
  through a tap are left out. Wants `has_bulk_copies`, and a batch that fills them.
* "taps": each row computes its address; a tile's columns are channels of one tap.
* "flat": for few channels; a tile's columns are of all taps, and each element computes its address.

Tensors and layouts are those of `algorithms.gradients`. Pixels behind the last meet zeros, so x must be finite. Work:
the direct algorithm's, and padding to tiles. Numerics: sums in f32, one chain for each split, then one over the splits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import triton

from waterline.algorithms.direct_gemm.gpu import GpuTile
from waterline.algorithms.gpu import INPUT_PRECISION, GpuImplementation, Workspace, X
from waterline.algorithms.gradients import DW, DY
from waterline.algorithms.indirect.gpu import EFFICIENCY, has_outside, refuse_boxes
from waterline.algorithms.indirect.gpu_tiles import (
    L2_BYTES_PER_CYCLE,
    TILES,
    addressed,
    best_depth,
    product_seconds,
    row_bytes_per_cycle,
    staged,
)
from waterline.algorithms.indirect.gpu_weight_kernels import (
    dense_weight_sums,
    dense_weight_sums_of_images,
    dense_weight_total,
)
from waterline.codegen.gpu.kernel import ALIGNMENT_BYTES, GpuLaunch
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec

SUMS = "sums_of_splits"
MOST_FLAT_CHANNELS = 32  # from where on the padding of one tap's channels costs less than addresses of elements
MOST_FLAT_COLUMNS = 64  # of a tile: addresses of elements take registers
LEAST_STEPS = 4  # products of a split, which fill its loads under way
MOST_WAVES = 4
MOST_CONFIGS = 8
TOTAL_SPLITS, TOTAL_ELEMS = 16, 1024  # that are added up at a time: splits, and sums of all of them


@dataclass(frozen=True)
class WeightConfig:
    """loads: "images", "taps" or "flat". tile: rows k, columns (r, s, c), depth pixels. splits: of all pixels."""

    loads: str
    tile: GpuTile
    splits: int

    def tap_columns(self, spec: ConvSpec) -> int:
        """Columns from one tap to the next."""
        return spec.c if self.loads == "flat" else -(-spec.c // self.tile.columns) * self.tile.columns

    def tiles(self, spec: ConvSpec) -> tuple[int, int]:
        """Of k, and of (r, s, c)."""
        return -(-spec.k // self.tile.rows), -(-spec.taps * self.tap_columns(spec) // self.tile.columns)

    def steps(self, spec: ConvSpec) -> int:
        """Products of all splits of a tile."""
        if self.loads == "images":
            return -(-spec.n // self.tile.depth) * spec.p * spec.q
        return -(-spec.n * spec.p * spec.q // self.tile.depth)

    def sums_elems(self, spec: ConvSpec) -> int:
        """Of one split."""
        return math.prod(self.tiles(spec)) * self.tile.rows * self.tile.columns


def weight_configs(spec: ConvSpec, gpu: Gpu, precision: str) -> list[WeightConfig]:
    """Few, the fastest first."""
    found = list(_configs(spec, gpu, precision))
    return sorted(found, key=lambda config: weight_seconds(spec, config, gpu, precision))[:MOST_CONFIGS]


def _configs(spec: ConvSpec, gpu: Gpu, precision: str) -> Iterator[WeightConfig]:
    is_boxes = refuse_boxes(spec, gpu, precision) is None
    has_copies = is_boxes and spec.n > 0 and spec.k * PRECISION_BYTES[precision] % ALIGNMENT_BYTES == 0
    for rows, columns, warps in TILES:
        for loads in ("images", "taps", "flat"):
            if loads == "images" and not has_copies:
                continue
            if loads == "flat" and (spec.c > MOST_FLAT_CHANNELS or columns > MOST_FLAT_COLUMNS):
                continue
            elems = spec.n if loads == "images" else spec.n * spec.p * spec.q
            depth = best_depth(max(elems, 1), precision)
            if loads == "images":
                tile = staged(rows, columns, depth, warps, gpu, precision)
            else:
                tile = addressed(rows, columns, depth, gpu, precision)
            if tile is None:
                continue
            whole = WeightConfig(loads, tile, 1)
            tiles, most = math.prod(whole.tiles(spec)), max(whole.steps(spec) // LEAST_STEPS, 1)
            waves = (max(wave * gpu.multiprocessors // tiles, 1) for wave in range(1, MOST_WAVES + 1))
            for splits in sorted({min(each, most) for each in waves}):
                yield WeightConfig(loads, tile, splits)


def weight_seconds(spec: ConvSpec, config: WeightConfig, gpu: Gpu, precision: str) -> float:
    """Of both launches, estimated."""
    tile = config.tile
    programs = math.prod(config.tiles(spec)) * config.splits
    # A split begins by waiting for its first loads.
    depth = (-(-config.steps(spec) // config.splits) + tile.stages) * tile.depth
    elem_bytes = PRECISION_BYTES[precision]
    if config.loads == "images":
        k_rate = c_rate = float(L2_BYTES_PER_CYCLE)
    else:
        k_rate, c_rate = (
            row_bytes_per_cycle(math.gcd(ALIGNMENT_BYTES, channels * elem_bytes)) for channels in (spec.k, spec.c)
        )
    efficiency = EFFICIENCY["boxes" if config.loads == "images" else "taps"]
    seconds = product_seconds(tile, programs, depth, efficiency, k_rate, c_rate, gpu, precision)
    # Sums are written and read again.
    return seconds + 2 * 4 * config.splits * config.sums_elems(spec) / gpu.memory_bytes_per_s


def layer_constants(spec: ConvSpec) -> dict[str, Any]:
    """What the kernels of both gradients know of the layer."""
    return {
        **{name.upper(): getattr(spec, name) for name in "hwckpqs"},
        **{"STRIDE_H": spec.stride[0], "STRIDE_W": spec.stride[1], "TOP": spec.pad[0], "LEFT": spec.pad[1]},
        **{"DILATION_H": spec.dilation[0], "DILATION_W": spec.dilation[1]},
    }


def weight_gradient_of(spec: ConvSpec, config: WeightConfig, precision: str) -> GpuImplementation:
    """The launches with a config."""
    tile, (row_tiles, column_tiles) = config.tile, config.tiles(spec)
    constants: dict[str, Any] = {
        **layer_constants(spec),
        "CHUNKS": -(-spec.c // tile.columns),
        "ROW_TILES": row_tiles,
        "COLUMN_TILES": column_tiles,
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "BLOCK_DEPTH": tile.depth,
        "PRECISION": INPUT_PRECISION[precision],
    }
    if config.loads == "images":
        function, count = dense_weight_sums_of_images, spec.n
    else:
        is_flat = config.loads == "flat"
        constants |= {
            "R": spec.r,
            "IS_FLAT": is_flat,
            "IS_POINTWISE": spec.is_pointwise and not is_flat,
            "HAS_OUTSIDE": has_outside(spec),
        }
        function, count = dense_weight_sums, spec.n * spec.p * spec.q
    parts = GpuLaunch(
        function,
        (row_tiles * column_tiles * config.splits,),
        (X, DY, SUMS, count, config.splits),
        constants,
        {SUMS: "f32"},
        warps=tile.warps,
        stages=tile.stages,
    )
    elems = spec.k * spec.c * spec.taps
    block_splits = min(TOTAL_SPLITS, triton.next_power_of_2(config.splits))
    sums_elems = config.sums_elems(spec)
    total = GpuLaunch(
        dense_weight_total,
        (-(-elems * block_splits // TOTAL_ELEMS),),
        (SUMS, DW, config.splits),
        {
            "C": spec.c,
            "K": spec.k,
            "TAPS": spec.taps,
            "TAP_COLUMNS": config.tap_columns(spec),
            "COLUMNS": column_tiles * tile.columns,
            "SPLIT": sums_elems,
            "BLOCK_SPLITS": block_splits,
            "BLOCK_ELEMS": TOTAL_ELEMS // block_splits,
        },
        {SUMS: "f32"},
    )
    return GpuImplementation((parts, total), (Workspace(SUMS, config.splits * sums_elems, "f32"),))


__all__ = ["WeightConfig", "layer_constants", "weight_configs", "weight_gradient_of", "weight_seconds"]
