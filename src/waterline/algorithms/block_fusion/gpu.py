"""`block_fusion` on GPUs: a residual block of 1x1 convolutions as one kernel; its hidden channels are never stored.

    h = act(x w1 + b1),  y = h w2 + b2 (+ residual)

Source: Lavin, "On the Efficiency of Convolutional Neural Networks" (2024): block-fusion kernels. A thread block owns a
tile of pixels. It makes hidden channels in chunks, each from the whole depth of the tile's input, and adds each chunk's
products to the sums of all output channels at once: a chunk lives in registers only. In front of the first product, of
the tile's input:
* nothing;
* a grouped k x k convolution (ConvFirst): block-diagonal matrix products, taps read from the second-level cache;
* a depthwise one (ConvNeXt), in f32 without the matrix unit;
* LayerNorm over channels, alone or behind these.
Behind the sums: the second product's epilogue, then a scale of each channel, a tensor to add, an activation.

Layouts: activations NHWC. Weights as PyTorch has them, (k, c) with the depth of a product contiguous, which serves
every precision; padded with zeros to the widths of parts. Biases and vectors of channels in f32.
Work: that of the layers, and padding: a grouped convolution of width 8 in parts of 32 executes four times its
operations. Numerics: sums in f32; what enters a product is rounded to the layer's precision, as if it had been stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from waterline.algorithms.base import Refusal
from waterline.algorithms.block_fusion.gpu_kernels import block_fusion, held
from waterline.algorithms.block_fusion.gpu_packing import by_taps, is_depthwise, matrix, padded, span
from waterline.algorithms.block_fusion.gpu_stages import Stages, stages_of
from waterline.algorithms.gpu import INPUT_PRECISION, TORCH_TYPES, GpuBlockAlgorithm, GpuCost, GpuImplementation, Y
from waterline.codegen.gpu.kernel import GpuLaunch
from waterline.graph.block import BlockSpec
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import Epilogue

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class GpuBlock:
    """What a block of threads computes.

    Attributes:
        pixels: of the result. columns: of the image, of which it takes pixels / columns lines; 0: pixels as they follow
            each other in memory.
        chunk: hidden channels at a time.
        depth, outputs: widest part of the first product's depth, and of the result's channels.
    """

    pixels: int
    columns: int
    chunk: int
    depth: int
    outputs: int
    warps: int
    stages: int

    def shared_bytes(self, depth: int, k: int, elem_bytes: int) -> int:
        """Of the tile's input, of weights that are under way, and of a chunk on its way to the second product."""
        all_depth, all_k = held(depth, self.depth), held(k, self.outputs)
        weights = self.stages * self.chunk * (all_depth + all_k)
        return elem_bytes * (self.pixels * all_depth + weights + self.pixels * self.chunk)


# On the matrix unit, those that read weights least first, and for each how many channels `_kept` the compiler has
# registers for. Warps share the pixels, 16 at a time. Parts of the result that are wider than 64 channels would take
# more of them at the end, for residuals and addresses.
MATRIX_TILES = (
    (GpuBlock(256, 0, 64, 128, 64, 8, 3), 64),
    (GpuBlock(256, 0, 64, 128, 64, 8, 2), 64),
    (GpuBlock(128, 0, 64, 128, 64, 8, 3), 192),
    (GpuBlock(128, 0, 64, 128, 64, 8, 2), 192),
    (GpuBlock(64, 0, 64, 128, 64, 4, 3), 192),
    (GpuBlock(64, 0, 64, 128, 64, 4, 2), 192),
    (GpuBlock(128, 0, 32, 64, 64, 8, 2), 384),
    (GpuBlock(64, 0, 32, 64, 64, 4, 2), 384),
)
# Of exact f32 products a thread holds both operands in registers.
EXACT_TILES = ((GpuBlock(32, 0, 32, 32, 64, 4, 2), 128), (GpuBlock(16, 0, 16, 16, 32, 4, 1), 256))
# Before sm_90, where operands of the matrix unit take registers: pixels of a tile, and channels of sums.
MOST_PIXELS, MOST_SUMS = 128, 192
TILE_COLUMNS = (8, 16)
FRONT_DEPTH = 32  # channels that a front makes at a time: with more, a grouped one multiplies more zeros
MOST_SPAN = 128  # channels that one part of a grouped convolution may read
LEAST_FULL = 0.9  # of tiles of several lines, how many of their pixels must be of the image

MATRIX_EFFICIENCY = 0.7  # of the peak, of the two products
GROUPED_EFFICIENCY = 0.2  # of the peak, of small products on gathered pixels
DEPTHWISE_EFFICIENCY = 0.25  # of the peak in f32: loads, masks and conversions beside each multiplication
PIXELS_TO_HIDE_WEIGHTS = 64  # at which a tile waits for weights from the second-level cache as long as it computes


class GpuBlockFusion(GpuBlockAlgorithm):
    """Of products that follow each other."""

    name = "block_fusion"

    def refuse(self, block: BlockSpec, gpu: Gpu, precision: str) -> Refusal | None:
        stages = stages_of(block)
        if isinstance(stages, Refusal):
            return stages
        n, k, p, q = block.output
        pixels = n * max(p * q, stages.input[1] * stages.input[2])
        if pixels > INT32_MAX:
            return Refusal(f"an image of {pixels} pixels in all: they are counted in 32 bits")
        if stages.front is not None and not is_depthwise(stages.front):
            reads = span(stages.front, FRONT_DEPTH)
            if reads > MOST_SPAN:
                return Refusal(
                    f"{FRONT_DEPTH} channels of its {stages.front.r}x{stages.front.s} convolution read {reads} "
                    f"channels, more than {MOST_SPAN}"
                )
        if gpu.capability[0] < 9 and precision != "f32" and k > MOST_SUMS:
            return Refusal(f"sums of {k} channels: before sm_90 registers hold those of {MOST_SUMS}")
        if not self.configs(block, gpu, precision):
            least, most = _tiles(stages, gpu, precision)[-1]
            depth = stages.expand.c
            least_bytes = least.shared_bytes(depth, k, PRECISION_BYTES[precision])
            return Refusal(
                f"with {depth} channels before its products and {k} behind them even a tile of {least.pixels} pixels "
                f"takes {least_bytes} of {gpu.shared_bytes} bytes of shared memory, and registers for "
                f"{_kept(stages, least, precision)} of {most} channels"
            )
        return None

    def configs(self, block: BlockSpec, gpu: Gpu, precision: str) -> list[GpuBlock]:
        stages = _stages(block)
        depth, k = stages.expand.c, stages.project.k
        _, _, _, columns = block.output
        found: list[GpuBlock] = []
        for tile, most in _tiles(stages, gpu, precision):
            shared_bytes = tile.shared_bytes(depth, k, PRECISION_BYTES[precision])
            if shared_bytes > gpu.shared_bytes or _kept(stages, tile, precision) > most:
                continue
            # Of one size, the longest chunks and the most loads under way that there is room for; without the matrix
            # unit a small tile is for what a large one has no room for.
            if any(other.pixels == tile.pixels or precision == "f32" for other in found):
                continue
            wide = [each for each in TILE_COLUMNS if columns / (-(-columns // each) * each) >= LEAST_FULL]
            # Several lines need fewer pixels around them than as many pixels in the order of memory.
            found += [replace(tile, columns=each) for each in wide if stages.front is not None] or [tile]
        return sorted(found, key=lambda tile: self.cost(block, tile, gpu, precision).seconds)

    def cost(self, block: BlockSpec, config: GpuBlock, gpu: Gpu, precision: str) -> GpuCost:
        stages = _stages(block)
        tiles = _tile_count(block, config)
        waves = -(-tiles // gpu.multiprocessors)
        pixels = waves * gpu.multiprocessors * config.pixels  # as if all worked to the end
        depth, k = held(stages.expand.c, config.depth), held(stages.project.k, config.outputs)
        hidden = padded(stages.expand.k, config.chunk)
        flops = 2 * pixels * hidden * (depth + k)
        reading = config.pixels / (config.pixels + PIXELS_TO_HIDE_WEIGHTS)
        seconds = flops / (gpu.peak(precision) * MATRIX_EFFICIENCY * reading)
        if (front := stages.front) is not None:
            if is_depthwise(front):
                more = 2 * pixels * depth * front.taps
                seconds += more / (gpu.peak("f32") * DEPTHWISE_EFFICIENCY)
            else:
                more = 2 * pixels * depth * front.taps * span(front, config.depth)
                seconds += more / (gpu.peak(precision) * GROUPED_EFFICIENCY)
            flops += more
        moved_bytes = block.least_bytes * PRECISION_BYTES[precision] / block.elem_bytes
        return GpuCost(max(seconds, moved_bytes / gpu.memory_bytes_per_s), flops, moved_bytes)

    def implement(self, block: BlockSpec, config: GpuBlock, gpu: Gpu, precision: str) -> GpuImplementation:
        stages = _stages(block)
        n, k, p, q = block.output
        if not n:
            return GpuImplementation(())
        # Pointers that are not read are given all the same: a kernel has one signature.
        arguments = tuple(
            name or Y
            for name in (
                stages.x,
                stages.weight(stages.front_number),
                stages.bias(stages.front_number),
                stages.norm_scale,
                stages.norm_bias,
                stages.weight(stages.expand_number),
                stages.bias(stages.expand_number),
                stages.weight(stages.project_number),
                stages.bias(stages.project_number),
                stages.residual,
                stages.scale,
                stages.added,
                Y,
            )
        )
        front = stages.front
        window = front or stages.expand
        c, h, w = stages.input
        sizes = {
            "C": c,
            "H": h,
            "W": w,
            "DEPTH": stages.expand.c,
            "HIDDEN": stages.expand.k,
            "K": k,
            "P": p,
            "Q": q,
            "FRONT": "none" if front is None else "depthwise" if is_depthwise(front) else "grouped",
            "R": window.r,
            "S": window.s,
            "STRIDE_H": window.stride[0],
            "STRIDE_W": window.stride[1],
            "TOP": window.pad[0],
            "LEFT": window.pad[1],
            "DILATION_H": window.dilation[0],
            "DILATION_W": window.dilation[1],
            "GROUP_C": window.group_c,
            "GROUP_K": window.group_k,
            "SPAN": 0 if front is None or is_depthwise(front) else span(front, config.depth),
            "HAS_NORM": stages.norm is not None,
            "EPSILON": stages.norm.epsilon if stages.norm else 0.0,
            "HAS_NORM_BIAS": bool(stages.norm_bias),
            "PIXELS": config.pixels,
            "COLUMNS": config.columns,
            "CHUNK": config.chunk,
            "MOST_DEPTH": config.depth,
            "MOST_K": config.outputs,
            "PRECISION": INPUT_PRECISION[precision],
            "FRONT_EPILOGUE": window.epilogue if front else Epilogue(),
            "EXPAND_EPILOGUE": stages.expand.epilogue,
            "PROJECT_EPILOGUE": stages.project.epilogue,
            "HAS_SCALE": bool(stages.scale),
            "HAS_ADDED": bool(stages.added),
            "LAST": stages.last,
        }
        vectors = (stages.norm_scale, stages.norm_bias, stages.scale)
        biases = (stages.bias(i) for i in (stages.front_number, stages.expand_number, stages.project_number))
        types = {name: "f32" for name in (*vectors, *biases) if name}
        grid = (_tile_count(block, config),)
        launch = GpuLaunch(
            block_fusion, grid, (*arguments, n * p), sizes, types, warps=config.warps, stages=config.stages
        )
        return GpuImplementation((launch,))

    def pack(
        self, block: BlockSpec, config: GpuBlock, weights: Sequence[torch.Tensor | None], precision: str
    ) -> dict[str, torch.Tensor]:
        stages, dtype = _stages(block), TORCH_TYPES[precision]

        def of(number: int) -> torch.Tensor:
            weight = weights[number]
            assert weight is not None, f"layer {number} has a weight"
            return weight

        hidden = padded(stages.expand.k, config.chunk)
        depth, k = held(stages.expand.c, config.depth), held(stages.project.k, config.outputs)
        found = {
            stages.expand_number: matrix(of(stages.expand_number), hidden, depth),
            stages.project_number: matrix(of(stages.project_number), k, hidden),
        }
        if stages.front is not None:
            found[stages.front_number] = by_taps(stages.front, of(stages.front_number), config.depth)
        return {stages.weight(number): made.to(dtype).contiguous() for number, made in found.items()}


def _stages(block: BlockSpec) -> Stages:
    stages = stages_of(block)
    assert isinstance(stages, Stages), stages
    return stages


def _tiles(stages: Stages, gpu: Gpu, precision: str) -> list[tuple[GpuBlock, int]]:
    """All tiles, with parts as the layer in front wants them, and the channels that they keep."""
    tiles = EXACT_TILES if precision == "f32" else MATRIX_TILES
    if gpu.capability[0] < 9:
        tiles = tuple((tile, most) for tile, most in tiles if tile.pixels <= MOST_PIXELS)
    if stages.front is None:
        return list(tiles)
    return [(replace(tile, depth=min(tile.depth, FRONT_DEPTH)), most) for tile, most in tiles]


def _kept(stages: Stages, tile: GpuBlock, precision: str) -> int:
    """Channels of 32 bits that a tile has in registers."""
    sums = held(stages.project.k, tile.outputs)
    if precision == "f32" or (stages.front is None and stages.norm is None):
        return sums
    # What has been computed, and not loaded, lies in registers before the next product, or even while it runs.
    return sums + held(stages.expand.c, tile.depth) * PRECISION_BYTES[precision] // 4


def _tile_count(block: BlockSpec, config: GpuBlock) -> int:
    n, _, p, q = block.output
    if not config.columns:
        return -(-n * p * q // config.pixels)
    return -(-q // config.columns) * -(-n * p // (config.pixels // config.columns))


BLOCK_FUSION_GPU = GpuBlockFusion()
__all__ = ["BLOCK_FUSION_GPU", "GpuBlock", "GpuBlockFusion"]
