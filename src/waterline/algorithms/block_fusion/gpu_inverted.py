"""`block_fusion:inverted` on GPUs: an inverted residual as one kernel; hidden channels are never stored as an image.

    e = act(x w1 + b1),  d[p,q,k] = act(sum_{r,s} e[p sh + r dh - top, q sw + s dw - left, k] w2[r,s,k] + b2[k]),
    y = d w3 + b3 (+ residual)

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), section 6.1: hidden channels go
through in parts, as each is filtered alone; Lavin, "On the Efficiency of Convolutional Neural Networks" (2024):
block-fusion kernels. A thread block owns a tile of the result's pixels. Chunk after chunk of hidden channels, it
* expands the pixels that the tile's taps read, zero outside the image;
* stores them in a buffer of its own: 16 to 100 KB in memory, which its multiprocessor's caches hold. Values go from one
  thread to another there, and Triton has no shared memory that is written at one pixel and read at another;
* filters them behind a barrier, each tap at a fixed distance;
* multiplies the chunk by its part of the projection into the sums of all output channels.
Blocks are persistent: there are as many buffers as blocks run at a time, two for each. Without an expansion taps read
the image, without a projection each chunk is a part of the result: chunks are spread over blocks then.

Layouts: activations NHWC. 1x1 weights as PyTorch has them, (k, c) with the depth of a product contiguous, the filter's
(tap, channel); padded with zeros to whole chunks and to the widths of parts. Vectors of channels in f32.
Work: that of the layers, the expansion's for (rows sh + r - 1)(columns sw + s - 1) pixels a tile instead of
rows sh columns sw, and the weights are read again for every tile.
Numerics: sums in f32; what enters a convolution is rounded to the layer's precision, as if it had been stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from waterline.algorithms.base import Refusal
from waterline.algorithms.block_fusion.gpu import last_constants, named_constants
from waterline.algorithms.block_fusion.gpu_inverted_kernel import inverted_residual
from waterline.algorithms.block_fusion.gpu_inverted_stages import InvertedStages, inverted_stages_of
from waterline.algorithms.block_fusion.gpu_kernels import held
from waterline.algorithms.block_fusion.gpu_packing import matrix, padded
from waterline.algorithms.depthwise.gpu import L1_BYTES, L2_BYTES
from waterline.algorithms.gpu import (
    INPUT_PRECISION,
    TORCH_TYPES,
    GpuBlockAlgorithm,
    GpuCost,
    GpuImplementation,
    Workspace,
    Y,
)
from waterline.codegen.gpu.kernel import WARP_THREADS, GpuLaunch
from waterline.graph.block import BlockSpec
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import Epilogue

SCRATCH = "scratch"
INT32_MAX = 2**31 - 1


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
MOST_CONFIGS = 6
MOST_REGISTERS = 255
REGISTER_STEP = 8  # in which they are given to threads
MOST_RESIDENT = 4  # blocks of a multiprocessor, whose buffers its first-level cache holds

MATRIX_EFFICIENCY = 0.5  # of the peak, of products that wait for a barrier after each chunk
FILTER_EFFICIENCY = 0.4  # of the peak in f32: loads and conversions beside each multiplication
IMAGE_EFFICIENCY = 0.25  # the same where taps read the image, with masks


class GpuInvertedResidual(GpuBlockAlgorithm):
    """Tensors of launches: as `GpuBlockFusion` has them."""

    name = "block_fusion:inverted"

    def refuse(self, block: BlockSpec, gpu: Gpu, precision: str) -> Refusal | None:
        stages = inverted_stages_of(block)
        if isinstance(stages, Refusal):
            return stages
        n, k, p, q = block.output
        pixels = n * max(p * q, stages.first.h * stages.first.w)
        if pixels > INT32_MAX:
            return Refusal(f"an image of {pixels} pixels in all: they are counted in 32 bits")
        if not self.configs(block, gpu, precision):
            depth = stages.expand.c if stages.expand else 0
            return Refusal(
                f"with {depth} channels before its expansion and {k} in its result no tile fits into {MOST_REGISTERS} "
                f"registers of a thread and {gpu.shared_bytes} bytes of shared memory"
            )
        return None

    def configs(self, block: BlockSpec, gpu: Gpu, precision: str) -> list[GpuInverted]:
        stages = _stages(block)
        found = []
        for tile in _tiles(stages, gpu, precision):
            if _shared_bytes(stages, tile, precision) > gpu.shared_bytes:
                continue
            # Loads under way hide how long they take, and pass by the first-level cache. Those of taps must be none:
            # each would have a place of its own in shared memory.
            found += [replace(tile, stages=each) for each in ((tile.stages, 1) if stages.expand else (1,))]
        found = list(dict.fromkeys(found))
        return sorted(found, key=lambda tile: self.cost(block, tile, gpu, precision).seconds)[:MOST_CONFIGS]

    def cost(self, block: BlockSpec, config: GpuInverted, gpu: Gpu, precision: str) -> GpuCost:
        stages, elem_bytes = _stages(block), PRECISION_BYTES[precision]
        # As if all multiprocessors worked to the end.
        items = -(-_items(stages, config) // gpu.multiprocessors) * gpu.multiprocessors
        chunks = items * (padded(stages.hidden, config.chunk) // config.chunk if stages.project else 1)
        outputs = chunks * config.pixels * config.chunk  # of the filter
        taps = stages.filter.taps
        filter_flops, product_flops = 2 * outputs * taps, 0
        efficiency = FILTER_EFFICIENCY if stages.expand else IMAGE_EFFICIENCY
        first_elems, second_elems = outputs * taps, 0  # that the first-level cache gives, and the second
        if stages.expand is not None:
            depth, patch = held(stages.expand.c, config.depth), _patch_pixels(stages, config)
            product_flops += 2 * chunks * patch * config.chunk * depth
            # What is stored is written through, and read once from there if the first level keeps none of it. The image
            # is read again for each chunk, from the first level only where no loads are under way.
            second_elems += chunks * config.chunk * (2 * patch + depth)
            second_elems += (chunks if config.stages > 1 else items) * patch * stages.expand.c
        else:
            rows, columns = _patch(stages, config)
            second_elems += chunks * rows * columns * config.chunk
        if stages.project is not None:
            k = held(stages.project.k, config.outputs)
            product_flops += 2 * outputs * k
            second_elems += chunks * config.chunk * k  # weights are read again for each tile
        cycle_seconds = 1 / (gpu.multiprocessors * gpu.clock_hz)
        moved_bytes = block.least_bytes * elem_bytes / block.elem_bytes
        times = (
            product_flops / (gpu.peak(precision) * MATRIX_EFFICIENCY),
            filter_flops / (gpu.peak("f32") * efficiency),
            first_elems * elem_bytes / L1_BYTES * cycle_seconds,
            second_elems * elem_bytes / L2_BYTES * cycle_seconds,
            moved_bytes / gpu.memory_bytes_per_s,
        )
        # Between barriers a block does one thing at a time: others of its multiprocessor do the rest meanwhile.
        longest = max(times)
        seconds = longest + (sum(times) - longest) / (1 + _resident(stages, config, gpu, precision))
        return GpuCost(seconds, product_flops + filter_flops, moved_bytes)

    def implement(self, block: BlockSpec, config: GpuInverted, gpu: Gpu, precision: str) -> GpuImplementation:
        stages = _stages(block)
        n, k, p, q = block.output
        if not n:
            return GpuImplementation(())
        items = _items(stages, config)
        resident = _resident(stages, config, gpu, precision)
        programs = min(items, gpu.multiprocessors * resident)
        registers = gpu.registers // (config.threads * resident) // REGISTER_STEP * REGISTER_STEP
        inner, first = stages.filter, stages.first
        buffer = _patch_pixels(stages, config) * config.chunk if stages.expand else 0
        patch_rows, patch_columns = _patch(stages, config)
        none = Epilogue()
        sizes = {
            "C": first.c,
            "H": first.h,
            "W": first.w,
            "HIDDEN": stages.hidden,
            "K": k,
            "P": p,
            "Q": q,
            "HAS_EXPAND": stages.expand is not None,
            "HAS_PROJECT": stages.project is not None,
            "R": inner.r,
            "S": inner.s,
            "STRIDE_H": inner.stride[0],
            "STRIDE_W": inner.stride[1],
            "TOP": inner.pad[0],
            "LEFT": inner.pad[1],
            "DILATION_H": inner.dilation[0],
            "DILATION_W": inner.dilation[1],
            "ROWS": config.rows,
            "COLUMNS": config.columns,
            "CHUNK": config.chunk,
            "PATCH_ROWS": patch_rows,
            "PATCH_COLUMNS": patch_columns,
            "STEP": config.step,
            "SCRATCH": buffer,
            "MOST_DEPTH": config.depth,
            "MOST_K": config.outputs,
            "PRECISION": INPUT_PRECISION[precision],
            **named_constants("EXPAND", stages.expand.epilogue if stages.expand else none, has_residual=False),
            **named_constants("FILTER", inner.epilogue if stages.project else none, has_residual=False),
            **named_constants("END", stages.end.epilogue, has_residual=True),
            "HAS_SCALE": bool(stages.scale),
            "HAS_ADDED": bool(stages.added),
            **last_constants(stages.last),
        }
        # Pointers that are not read are given all the same: a kernel has one signature.
        names = (stages.x, *stages.weights(), *stages.biases(), stages.residual, stages.scale, stages.added)
        arguments: tuple[str | int, ...] = (*(name or Y for name in names), SCRATCH if buffer else Y, Y, items)
        types = {name: "f32" for name in (*stages.biases(), stages.scale) if name}
        launch = GpuLaunch(
            inverted_residual,
            (programs,),
            arguments,
            sizes,
            types,
            warps=config.warps,
            stages=config.stages,
            # Without the matrix unit the compiler needs fewest if it is not told how many there are.
            registers=0 if precision == "f32" else min(MOST_REGISTERS, registers),
        )
        return GpuImplementation((launch,), (Workspace(SCRATCH, programs * 2 * buffer),) if buffer else ())

    def pack(
        self, block: BlockSpec, config: GpuInverted, weights: Sequence[torch.Tensor | None], precision: str
    ) -> dict[str, torch.Tensor]:
        stages, dtype = _stages(block), TORCH_TYPES[precision]
        hidden = padded(stages.hidden, config.chunk)

        def packed(number: int, rows: int, columns: int) -> torch.Tensor:
            weight = weights[number]
            assert weight is not None, f"layer {number} has a weight"
            return matrix(weight, rows, columns).to(dtype)

        expand, inner, project = stages.weights()
        found = {inner: packed(stages.filter_number, hidden, stages.filter.taps).T.contiguous()}
        if stages.expand is not None:
            found[expand] = packed(stages.expand_number, hidden, held(stages.expand.c, config.depth)).contiguous()
        if stages.project is not None:
            found[project] = packed(stages.project_number, held(stages.project.k, config.outputs), hidden).contiguous()
        return found


def _stages(block: BlockSpec) -> InvertedStages:
    stages = inverted_stages_of(block)
    assert isinstance(stages, InvertedStages), stages
    return stages


def _tiles(stages: InvertedStages, gpu: Gpu, precision: str) -> list[GpuInverted]:
    """Those that registers suffice for, and that are worth it."""
    if precision in WORD_TILES:
        depth = stages.expand.c if stages.expand else 0
        k = stages.project.k if stages.project else 0
        found = [tile for tile, most_depth, most_k in WORD_TILES[precision] if depth <= most_depth and k <= most_k]
    else:
        found = [tile for tile in MATRIX_TILES if _registers(stages, tile, gpu, precision) <= MOST_REGISTERS]
    if stages.expand or precision == "f32":
        return found
    # A small one gives more blocks a part of the work, for a slower product behind: only an expansion is worth that.
    return [tile for tile in found if tile.pixels >= FULL_PIXELS]


def _patch(stages: InvertedStages, config: GpuInverted) -> tuple[int, int]:
    """Rows and columns of the image that a tile's taps read, a tile that is no larger than the result."""
    inner = stages.filter
    rows, columns = min(config.rows, inner.p), min(config.columns, inner.q)
    return (
        (rows - 1) * inner.stride[0] + (inner.r - 1) * inner.dilation[0] + 1,
        (columns - 1) * inner.stride[1] + (inner.s - 1) * inner.dilation[1] + 1,
    )


def _patch_pixels(stages: InvertedStages, config: GpuInverted) -> int:
    """Pixels that are expanded for a tile: whole steps."""
    rows, columns = _patch(stages, config)
    return padded(rows * columns, config.step)


def _items(stages: InvertedStages, config: GpuInverted) -> int:
    end = stages.end
    tiles = end.n * -(-end.p // config.rows) * -(-end.q // config.columns)
    return tiles if stages.project else tiles * -(-stages.hidden // config.chunk)


def _shared_bytes(stages: InvertedStages, config: GpuInverted, precision: str) -> int:
    """Of the operands of both products and of a chunk that changes its layout, at most."""
    elems = config.chunk * max(config.pixels, config.step) + config.chunk * _kept(stages, config)
    if stages.expand is not None:
        elems += held(stages.expand.c, config.depth) * (config.chunk + config.stages * config.step)
    return elems * PRECISION_BYTES[precision]


def _kept(stages: InvertedStages, config: GpuInverted) -> int:
    """Channels of sums that a tile has in registers."""
    return held(stages.project.k, config.outputs) if stages.project else 0


def _registers(stages: InvertedStages, config: GpuInverted, gpu: Gpu, precision: str) -> int:
    """Of a thread that has none in memory, fitted to what the compiler needs for MobileNets and EfficientNets."""
    if precision in WORD_REGISTERS:
        return WORD_REGISTERS[precision]
    sums = config.pixels * _kept(stages, config) / config.threads
    chunk = max(config.pixels, config.step) * config.chunk / config.threads
    found = max(56 + 2.6 * chunk, 44 + 1.5 * chunk + 1.5 * sums)
    found += 0.8 * config.chunk * _kept(stages, config) / config.threads
    if gpu.capability[0] < 9 and stages.expand is not None:
        # The matrix unit takes weights from registers, each warp all of them, if others leave room.
        share = 0.5 if stages.project else 0.125
        found += 8 + share * held(stages.expand.c, config.depth) * config.chunk / WARP_THREADS
    return int(found)


def _resident(stages: InvertedStages, config: GpuInverted, gpu: Gpu, precision: str) -> int:
    """Blocks that a multiprocessor runs at a time."""
    registers = padded(_registers(stages, config, gpu, precision), REGISTER_STEP)  # no more than 256
    shared_bytes = _shared_bytes(stages, config, precision)
    fit = min(gpu.registers // (config.threads * registers), gpu.shared_bytes // shared_bytes)
    return max(1, min(MOST_RESIDENT, fit))


BLOCK_FUSION_INVERTED_GPU = GpuInvertedResidual()
__all__ = ["BLOCK_FUSION_INVERTED_GPU", "GpuInverted", "GpuInvertedResidual"]
