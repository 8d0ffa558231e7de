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
from dataclasses import replace

import torch

from waterline.algorithms.base import Refusal
from waterline.algorithms.block_fusion.gpu_inverted_kernel import inverted_residual
from waterline.algorithms.block_fusion.gpu_inverted_stages import InvertedStages, inverted_stages_of
from waterline.algorithms.block_fusion.gpu_inverted_tiles import (
    MOST_REGISTERS,
    REGISTER_STEP,
    GpuInverted,
    item_count,
    patch_of,
    patch_pixels,
    resident_blocks,
    shared_bytes_of,
    tiles_of,
)
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
from waterline.codegen.gpu.kernel import GpuLaunch
from waterline.graph.block import BlockSpec
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import Epilogue

SCRATCH = "scratch"
INT32_MAX = 2**31 - 1


MOST_CONFIGS = 6
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
        for tile in tiles_of(stages, gpu, precision):
            if shared_bytes_of(stages, tile, precision) > gpu.shared_bytes:
                continue
            # Loads under way hide how long they take, and pass by the first-level cache. Those of taps must be none:
            # each would have a place of its own in shared memory.
            found += [replace(tile, stages=each) for each in ((tile.stages, 1) if stages.expand else (1,))]
        found = list(dict.fromkeys(found))
        return sorted(found, key=lambda tile: self.cost(block, tile, gpu, precision).seconds)[:MOST_CONFIGS]

    def cost(self, block: BlockSpec, config: GpuInverted, gpu: Gpu, precision: str) -> GpuCost:
        stages, elem_bytes = _stages(block), PRECISION_BYTES[precision]
        # As if all multiprocessors worked to the end.
        items = -(-item_count(stages, config) // gpu.multiprocessors) * gpu.multiprocessors
        chunks = items * (padded(stages.hidden, config.chunk) // config.chunk if stages.project else 1)
        outputs = chunks * config.pixels * config.chunk  # of the filter
        taps = stages.filter.taps
        filter_flops, product_flops = 2 * outputs * taps, 0
        efficiency = FILTER_EFFICIENCY if stages.expand else IMAGE_EFFICIENCY
        first_elems, second_elems = outputs * taps, 0  # that the first-level cache gives, and the second
        if stages.expand is not None:
            depth, patch = held(stages.expand.c, config.depth), patch_pixels(stages, config)
            product_flops += 2 * chunks * patch * config.chunk * depth
            # What is stored is written through, and read once from there if the first level keeps none of it. The image
            # is read again for each chunk, from the first level only where no loads are under way.
            second_elems += chunks * config.chunk * (2 * patch + depth)
            second_elems += (chunks if config.stages > 1 else items) * patch * stages.expand.c
        else:
            rows, columns = patch_of(stages, config)
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
        seconds = longest + (sum(times) - longest) / (1 + resident_blocks(stages, config, gpu, precision))
        return GpuCost(seconds, product_flops + filter_flops, moved_bytes)

    def implement(self, block: BlockSpec, config: GpuInverted, gpu: Gpu, precision: str) -> GpuImplementation:
        stages = _stages(block)
        n, k, p, q = block.output
        if not n:
            return GpuImplementation(())
        items = item_count(stages, config)
        resident = resident_blocks(stages, config, gpu, precision)
        programs = min(items, gpu.multiprocessors * resident)
        registers = gpu.registers // (config.threads * resident) // REGISTER_STEP * REGISTER_STEP
        inner, first = stages.filter, stages.first
        buffer = patch_pixels(stages, config) * config.chunk if stages.expand else 0
        patch_rows, patch_columns = patch_of(stages, config)
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
            "EXPAND_EPILOGUE": stages.expand.epilogue if stages.expand else none,
            "FILTER_EPILOGUE": inner.epilogue if stages.project else none,
            "END_EPILOGUE": stages.end.epilogue,
            "HAS_SCALE": bool(stages.scale),
            "HAS_ADDED": bool(stages.added),
            "LAST": stages.last,
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


BLOCK_FUSION_INVERTED_GPU = GpuInvertedResidual()
__all__ = ["BLOCK_FUSION_INVERTED_GPU", "GpuInverted", "GpuInvertedResidual"]
