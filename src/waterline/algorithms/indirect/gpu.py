"""`indirect` on GPUs: any convolution as a matrix product whose rows are found where they lie.

    y[n, p, q, k] = sum_{r, s, c} x[n, p sh + r dh - top, q sw + s dw - left, c] w[k, c, r, s]

is a product of pixels x depth and depth x k, with the depth over (r, s, c), and without a copy of the pixels' patches.
Sources: Dukhan, "The Indirect Convolution Algorithm" (2019): rows are found through their addresses, and what lies
outside the image is zero. Lavin, "maxDNN" (2015): offsets within a patch serve all pixels, and tiles reach over images.

How the rows come (`IndirectConfig.loads`):
* "boxes": a tile is a box of (images, rows, columns) pixels, and each tap moves a copy of the whole box by hardware
  from a shifted place; what is outside the image arrives as zero. A strided image is seen as (n, h/sh, sh, w/sw, sw c),
  where the pixels of one tap are neighbours. Taps that see nothing of the image are left out. Wants `has_bulk_copies`.
* "taps": each row computes the address of its pixel for each tap. The depth is over taps, and channels within them.
* "runs": for few channels. An image's row is one line of elements, and the taps of a filter's row are one run of it,
  so that only the whole depth is padded. A run begins early enough to be aligned for vectors, with weights of zero.

Layouts: activations NHWC; weights (g, k/g, depth), k and depth padded with zeros to whole tiles. Tiles of groups lie
side by side. Elements that meet such zeros are read from the image, so they must be finite. Work: the direct
algorithm's, and padding. Numerics: sums in f32, one chain over (r, s, c).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

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
    X,
    Y,
    roofline,
)
from waterline.algorithms.gpu_parts import PARTS, summation, summation_seconds, workspace, worthwhile_splits
from waterline.algorithms.indirect.gpu_kernels import indirect_boxes, indirect_rows
from waterline.algorithms.indirect.gpu_tiles import (
    L2_BYTES_PER_CYCLE,
    TILES,
    best_depth,
    product_seconds,
    row_bytes_per_cycle,
    staged,
)
from waterline.codegen.gpu.epilogue import has_activations
from waterline.codegen.gpu.kernel import ALIGNMENT_BYTES, WARP_THREADS, GpuLaunch
from waterline.errors import Refused
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec, Epilogue


@dataclass(frozen=True)
class IndirectConfig:
    """A tile, and how its rows come: "boxes", "taps" or "runs". box: images, rows and columns of pixels of a tile."""

    loads: str
    tile: GpuTile
    box: tuple[int, int, int] = (1, 1, 1)

    @property
    def efficiency(self) -> float:
        return box_efficiency(self.box) if self.loads == "boxes" else EFFICIENCY[self.loads]


MOST_RUNS_SIDE = 128  # rows or columns of a tile of runs
PART_BYTES = 64  # of a thread's results that pass through the epilogue at once
GROUP_ROWS = 8
MOST_CONFIGS = 8
LEAST_GROUP_CHANNELS = 16  # in and out: the least that a matrix instruction multiplies
MOST_BOX = 256  # pixels along one axis that a bulk copy moves
LARGEST_OFFSET = 2**31 - 1
# Of the peak, of a full wave of large tiles: estimates.
EFFICIENCY = {"boxes": 0.65, "taps": 0.6, "runs": 0.6}
LINE_EFFICIENCY = 0.8  # of boxes that are a line of images or of columns


class GpuIndirect(GpuAlgorithm):
    name = "indirect"

    def refuse(self, spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
        if spec.upsample != (1, 1):
            return Refusal(f"it reads images as they lie, the layer puts zeros between pixels: {spec.upsample}")
        if spec.groups > 1 and min(spec.group_c, spec.group_k) < LEAST_GROUP_CHANNELS:
            return Refusal(
                f"groups have {spec.group_c} input and {spec.group_k} output channels, "
                f"products side by side want {LEAST_GROUP_CHANNELS}"
            )
        if not has_activations(spec.epilogue):
            return Refusal(f"its epilogue is {spec.epilogue}")
        # The largest numbers that kernels hold in 32 bits; tiles may reach beyond by one.
        padded = (spec.h + sum(map(abs, spec.pad[::2]))) * (spec.w + sum(map(abs, spec.pad[1::2]))) * spec.c
        weights = spec.groups * _up(spec.group_k, 256) * spec.taps * _up(spec.group_c, 64)
        numbers = {"a padded image": padded, "the filters": weights, "the output's pixels": spec.n * spec.p * spec.q}
        for name, number in numbers.items():
            if number > LARGEST_OFFSET - 256:
                return Refusal(f"{name} have {number} elements, offsets of 32 bits reach {LARGEST_OFFSET}")
        return None

    def configs(self, spec: ConvSpec, gpu: Gpu, precision: str) -> list[IndirectConfig]:
        loads = ["taps"] if spec.groups > 1 else ["taps", "runs"]
        if refuse_boxes(spec, gpu, precision) is None:
            loads = ["boxes", *loads]
        made = [config for each in loads for config in _configs(spec, each, gpu, precision)]

        def order(config: IndirectConfig) -> tuple[float, float]:
            cost = self.cost(spec, config, gpu, precision)
            return cost.seconds, arithmetic_seconds(spec, config, gpu, precision)

        return sorted(made, key=order)[:MOST_CONFIGS]

    def cost(self, spec: ConvSpec, config: IndirectConfig, gpu: Gpu, precision: str) -> GpuCost:
        executed = executed_flops(spec, config, precision)
        moved_bytes = spec.least_bytes // spec.elem_bytes * PRECISION_BYTES[precision]
        seconds = arithmetic_seconds(spec, config, gpu, precision)
        efficiency = executed / (gpu.peak(precision) * seconds) if seconds else 1.0
        return roofline(executed, moved_bytes, gpu, precision, efficiency)

    def implement(self, spec: ConvSpec, config: IndirectConfig, gpu: Gpu, precision: str) -> GpuImplementation:
        if spec.n == 0:
            return GpuImplementation(())
        tile, depth = config.tile, DepthLayout.of(spec, config, precision)
        column_tiles = spec.groups * -(-spec.group_k // tile.columns)
        tiles = row_tiles(spec, config) * column_tiles
        shared_bytes = tile.shared_bytes(PRECISION_BYTES[precision])
        # A block that stores leaves the matrix unit to its neighbour, where there is room for one.
        blocks_at_once = max(1, min(8 // tile.warps, gpu.shared_bytes // shared_bytes))
        programs = min(tiles * tile.splits, gpu.multiprocessors * blocks_at_once)
        constants: dict[str, Any] = {
            **{name.upper(): getattr(spec, name) for name in "hwckpqrs"},
            "STRIDE_H": spec.stride[0],
            "STRIDE_W": spec.stride[1],
            "TOP": spec.pad[0],
            "LEFT": spec.pad[1],
            "DILATION_H": spec.dilation[0],
            "DILATION_W": spec.dilation[1],
            "GROUP_C": spec.group_c,
            "GROUP_K": spec.group_k,
            "COLUMN_TILES": column_tiles,
            "CHUNKS": depth.chunks,
            "BLOCK_COLUMNS": tile.columns,
            "BLOCK_DEPTH": tile.depth,
            "PART_ELEMS": tile.warps * WARP_THREADS * PART_BYTES // PRECISION_BYTES[precision],
            "GROUP_ROWS": GROUP_ROWS,
            "PROGRAMS": programs,
            "SPLITS": tile.splits,
            "PRECISION": INPUT_PRECISION[precision],
        }
        if config.loads == "boxes":
            if refusal := refuse_boxes(spec, gpu, precision):
                raise Refused(f"{spec.id}: {refusal.reason}")
            images, rows, columns = config.box
            seen, all_taps = seen_taps(spec, config.box)
            constants |= {"BOX_IMAGES": images, "BOX_ROWS": rows, "BOX_COLUMNS": columns, "SKIPS": seen < all_taps}
            function, count = indirect_boxes, spec.n
        else:
            constants |= {
                "RUN": depth.run,
                "LEAD": depth.lead,
                "HAS_OUTSIDE": has_outside(spec),
                "BLOCK_ROWS": tile.rows,
            }
            function, count = indirect_rows, spec.n * spec.p * spec.q
        is_whole = tile.splits == 1
        epilogue = spec.epilogue if is_whole else Epilogue()
        constants["EPILOGUE"] = epilogue
        # Pointers that are not read are given all the same: a kernel has one signature.
        result = Y if is_whole else PARTS
        bias = BIAS if epilogue.bias else "weight"
        arguments = (X, "weight", bias, RESIDUAL if epilogue.residual else result, result, count)
        types = {BIAS: "f32", PARTS: "f32"}
        launch = GpuLaunch(function, (programs,), arguments, constants, types, warps=tile.warps, stages=tile.stages)
        if is_whole:
            return GpuImplementation((launch,))
        return GpuImplementation((launch, summation(spec, tile.splits)), (workspace(spec, tile.splits),))

    def pack(
        self, spec: ConvSpec, config: IndirectConfig, weight: torch.Tensor, precision: str
    ) -> dict[str, torch.Tensor]:
        """(g, k/g, depth), padded with zeros to whole tiles."""
        depth = DepthLayout.of(spec, config, precision)
        packed = weight.permute(0, 2, 3, 1)
        if config.loads == "runs":
            packed = packed.reshape(spec.k, spec.r, spec.s * spec.c)
            packed = _padded(packed, depth.run, depth.lead).reshape(spec.k, -1)
            packed = _padded(packed, depth.chunks * config.tile.depth)
        else:
            packed = _padded(packed, depth.chunks * config.tile.depth).reshape(spec.k, -1)
        packed = packed.reshape(spec.groups, spec.group_k, -1)
        columns = _up(spec.group_k, config.tile.columns)
        packed = torch.nn.functional.pad(packed, (0, 0, 0, columns - spec.group_k))
        return {"weight": packed.contiguous().to(TORCH_TYPES[precision])}


@dataclass(frozen=True)
class DepthLayout:
    """The depth of a product. chunks: steps of a tap, or of the whole depth of runs; run, lead: as the kernel says."""

    chunks: int
    run: int
    lead: int

    @classmethod
    def of(cls, spec: ConvSpec, config: IndirectConfig, precision: str) -> DepthLayout:
        if config.loads != "runs":
            return cls(-(-spec.group_c // config.tile.depth), 0, 0)
        run, lead = run_of(spec, precision)
        return cls(-(-spec.r * run // config.tile.depth), run, lead)


def run_of(spec: ConvSpec, precision: str) -> tuple[int, int]:
    """Elements of a filter's row as it is loaded, and how many of them come before the first tap.

    All runs of a layer begin at multiples of as large a power of two as the image's rows and the stride allow.
    """
    if spec.dilation[1] > 1:
        return spec.s * spec.c, 0
    aligned = math.gcd(ALIGNMENT_BYTES // PRECISION_BYTES[precision], spec.stride[1] * spec.c, spec.w * spec.c)
    lead = -spec.pad[1] * spec.c % aligned
    return _up(lead + spec.s * spec.c, aligned), lead


def vector_bytes(spec: ConvSpec, config: IndirectConfig, precision: str) -> int:
    """That one load of a thread brings, where rows are found by their addresses."""
    elem_bytes = PRECISION_BYTES[precision]
    if config.loads == "taps" or spec.dilation[1] > 1:
        return math.gcd(ALIGNMENT_BYTES, spec.group_c * elem_bytes)
    return math.gcd(ALIGNMENT_BYTES, spec.stride[1] * spec.c * elem_bytes, spec.w * spec.c * elem_bytes)


def refuse_boxes(spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
    """Why bulk copies do not serve a layer, or None."""
    row_bytes = spec.group_c * PRECISION_BYTES[precision]
    if not gpu.has_bulk_copies:
        return Refusal(f"compute capability {gpu.capability[0]}.{gpu.capability[1]} has no bulk copies")
    if row_bytes % ALIGNMENT_BYTES:
        return Refusal(f"{spec.group_c} channels take {row_bytes} bytes, bulk copies want multiples of 16")
    if 0 in (spec.h, spec.w) or spec.h % spec.stride[0] or spec.w % spec.stride[1]:
        return Refusal(f"an image of {spec.h}x{spec.w} is not whole steps of stride {spec.stride}")
    return None


def has_outside(spec: ConvSpec) -> bool:
    """Whether some tap of some output lies outside the image."""
    last_h = (spec.p - 1) * spec.stride[0] + (spec.r - 1) * spec.dilation[0] - spec.pad[0]
    last_w = (spec.q - 1) * spec.stride[1] + (spec.s - 1) * spec.dilation[1] - spec.pad[1]
    return max(spec.pad[:2]) > 0 or last_h >= spec.h or last_w >= spec.w


def seen_taps(spec: ConvSpec, box: tuple[int, int, int]) -> tuple[int, int]:
    """Taps that boxes compute, summed over the boxes of an image, and how many there would be with none left out."""
    rows = _axis_taps(spec.p, box[1], spec.h, spec.r, spec.stride[0], spec.pad[0], spec.dilation[0])
    columns = _axis_taps(spec.q, box[2], spec.w, spec.s, spec.stride[1], spec.pad[1], spec.dilation[1])
    boxes = -(-spec.p // box[1]) * -(-spec.q // box[2])
    return rows * columns, boxes * spec.taps


@lru_cache(1024)
def _axis_taps(outputs: int, box: int, size: int, taps: int, stride: int, pad: int, dilation: int) -> int:
    """As the kernel counts them: `_seen_taps`."""
    total = 0
    for first in range(0, outputs, box):
        last = min(first + box, outputs) - 1
        begin = max(-((last * stride - pad) // dilation), 0)
        beyond = min((size - 1 + pad - first * stride) // dilation + 1, taps)
        total += max(beyond - begin, 0)
    return total


def row_tiles(spec: ConvSpec, config: IndirectConfig) -> int:
    if config.loads == "boxes":
        images, rows, columns = config.box
        return -(-spec.n // images) * -(-spec.p // rows) * -(-spec.q // columns)
    return -(-spec.n * spec.p * spec.q // config.tile.rows)


def executed_flops(spec: ConvSpec, config: IndirectConfig, precision: str) -> float:
    """Of whole tiles, and of the taps that are not left out."""
    tile, depth = config.tile, DepthLayout.of(spec, config, precision)
    taps = 1.0 if config.loads == "runs" else float(spec.taps)
    if config.loads == "boxes":
        seen, all_taps = seen_taps(spec, config.box)
        taps *= seen / all_taps
    columns = spec.groups * _up(spec.group_k, tile.columns)
    return 2.0 * row_tiles(spec, config) * tile.rows * columns * taps * depth.chunks * tile.depth


def arithmetic_seconds(spec: ConvSpec, config: IndirectConfig, gpu: Gpu, precision: str) -> float:
    """Waves of tiles one after the other, each as long as its products or as its loads from the second-level cache."""
    tile = config.tile
    tiles = row_tiles(spec, config) * spec.groups * -(-spec.group_k // tile.columns)
    if not tiles:
        return 0.0
    depth = executed_flops(spec, config, precision) / (2 * tiles * tile.rows * tile.columns)
    row_rate = float(L2_BYTES_PER_CYCLE)
    if config.loads != "boxes":
        row_rate = row_bytes_per_cycle(vector_bytes(spec, config, precision))
    parts, part_depth = tiles * tile.splits, depth / tile.splits
    seconds = product_seconds(tile, parts, part_depth, config.efficiency, row_rate, L2_BYTES_PER_CYCLE, gpu, precision)
    return seconds + summation_seconds(spec, tile.splits, gpu)


def _configs(spec: ConvSpec, loads: str, gpu: Gpu, precision: str) -> list[IndirectConfig]:
    elems = spec.group_c if loads != "runs" else spec.r * run_of(spec, precision)[0]
    depth = best_depth(elems, precision)
    made = []
    for rows, columns, warps in TILES:
        if loads != "boxes" and columns > 2 * rows:
            continue  # filters that arrive without bulk copies take a thread's registers
        if loads == "runs":  # whose addresses of single elements take registers
            if max(rows, columns) > MOST_RUNS_SIDE:
                continue
            warps = 8 if rows == MOST_RUNS_SIDE else warps
        tile = staged(rows, columns, depth, warps, gpu, precision)
        if tile is None:
            continue
        config = IndirectConfig(loads, tile, best_box(spec, rows) if loads == "boxes" else (1, 1, 1))
        tiles = row_tiles(spec, config) * spec.groups * -(-spec.group_k // columns)
        steps = DepthLayout.of(spec, config, precision).chunks * (1 if loads == "runs" else spec.taps)
        made += [replace(config, tile=replace(tile, splits=each)) for each in worthwhile_splits(tiles, steps, gpu)]
    return made


def best_box(spec: ConvSpec, pixels: int) -> tuple[int, int, int]:
    """The box of so many pixels, all sides powers of two, that computes least; of those, that which reads least."""
    sides = [1 << i for i in range(pixels.bit_length())]

    def order(box: tuple[int, int, int]) -> tuple[float, int]:
        seen, _ = seen_taps(spec, box)
        height = (box[1] - 1) * spec.stride[0] + (spec.r - 1) * spec.dilation[0] + 1
        width = (box[2] - 1) * spec.stride[1] + (spec.s - 1) * spec.dilation[1] + 1
        return -(-spec.n // box[0]) * seen / box_efficiency(box), box[0] * height * width

    boxes = [(pixels // (h * w), h, w) for h in sides for w in sides if h * w <= pixels]
    return min((box for box in boxes if max(box) <= MOST_BOX), key=order)


def box_efficiency(box: tuple[int, int, int]) -> float:
    """The matrix unit reads a line of pixels from where it arrives, and other boxes through registers."""
    images, rows, columns = box
    return LINE_EFFICIENCY if rows * columns == 1 or images * rows == 1 else EFFICIENCY["boxes"]


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _padded(tensor: torch.Tensor, elems: int, lead: int = 0) -> torch.Tensor:
    """The last axis with zeros before and after."""
    return torch.nn.functional.pad(tensor, (lead, elems - lead - tensor.shape[-1]))


INDIRECT_GPU = GpuIndirect()
__all__ = ["INDIRECT_GPU", "GpuIndirect", "IndirectConfig", "best_box", "refuse_boxes"]
