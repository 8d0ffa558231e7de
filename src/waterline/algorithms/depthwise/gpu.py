"""Depthwise convolutions on GPUs: strips of output rows in registers, no matrix products.

`y[n,k,p,q] = sum_{r,s} x[n, k // m, p sh + r dh - top, q sw + s dw - left] w[k,r,s]`, m = k / c channels of output for
one of input. Any filter, stride, dilation and padding.

A block computes ROWS rows x COLUMNS columns x CHANNELS channels. For each filter column it holds that column's weights
and goes down the input rows that its output rows see: each is loaded and widened once and used by all output rows that
it reaches, so an element is loaded s (ROWS sh + r - 1) / ROWS times from the first-level cache where a loop over taps
would load it r s times. This is the reuse in registers of "Optimizing Depthwise Separable Convolution Operations on
GPUs" (Lu, Zhang, Wang; IEEE TPDS 33(1), 2022), down the columns, as lanes lie along channels and columns. What
neighbouring blocks both read comes from the second-level cache: blocks are numbered channels first, then columns, then
rows, so that those run together.

Layouts: activations NHWC, a thread's elements are neighbouring channels; weights (r, s, k).
Work: n p q k r s multiply-adds without the matrix unit; products are exact in every precision. Numerics: f32 sums, one
chain over (s, r) that begins with the bias. Padding counts as zeros.
"""

# ruff: noqa: RUF005 - Triton knows no (*a, b)
# mypy: disable-error-code=assignment
# Tuples in kernels grow, and Triton takes no types of local names.
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from waterline.algorithms.base import Refusal
from waterline.algorithms.gpu import (
    BIAS,
    RESIDUAL,
    TORCH_TYPES,
    GpuAlgorithm,
    GpuCost,
    GpuImplementation,
    X,
    Y,
)
from waterline.codegen.gpu.epilogue import finish_biased, has_activations
from waterline.codegen.gpu.kernel import WARP_THREADS, GpuLaunch
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec


@triton.constexpr_function
def tap_of(distance, dilation, taps):
    """The filter row that lies `distance` input rows below an output row's first, or -1."""
    if distance < 0 or distance % dilation or distance // dilation >= taps:
        return -1
    return distance // dilation


@triton.constexpr_function
def is_seen(row, rows, stride, dilation, taps):
    """Whether one of `rows` output rows has a tap on input row `row`."""
    return any(tap_of(row - i * stride, dilation, taps) >= 0 for i in range(rows))


@triton.jit
def widen(value):
    """In f32. A bf16 number is the upper half of one: written as such, it costs one instruction instead of two."""
    if value.dtype == tl.bfloat16:
        return (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return value.to(tl.float32)


@triton.jit
def add_filter_column(
    sums,
    x,
    weight,
    image,
    row,
    column,
    filter_row,
    s,
    lane,
    channels,
    is_channel,
    H: tl.constexpr,
    W: tl.constexpr,
    K: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    MASK_ROWS: tl.constexpr,
    MASK_COLUMNS: tl.constexpr,
):
    """The sums of ROWS output rows and the products with TAPS taps of filter column s, from filter_row on.

    row, column: of the input, where the window of the strip's first output begins; image is a 64-bit number.
    """
    C: tl.constexpr = K // MULTIPLIER
    weight_at = weight + (filter_row * S + s) * K + channels
    weights = ()
    for tap in tl.static_range(TAPS):
        is_weight = is_channel
        if R % TAPS != 0:
            is_weight = is_channel & (filter_row + tap < R)
        weights = weights + (widen(tl.load(weight_at + tap * (S * K), is_weight, 0.0)),)
    row += filter_row * DILATION_H
    column += s * DILATION_W
    is_place = is_channel
    if MASK_COLUMNS:
        at = column + lane * STRIDE_W
        is_place = is_channel & ((at >= 0) & (at < W))[:, None]
    x_at = x + ((image * H + row) * W + column) * C + (lane[:, None] * (STRIDE_W * C) + channels // MULTIPLIER)
    for below in tl.static_range((ROWS - 1) * STRIDE_H + (TAPS - 1) * DILATION_H + 1):
        if is_seen(below, ROWS, STRIDE_H, DILATION_H, TAPS):
            is_value = is_place
            if MASK_ROWS:
                is_value = is_place & ((row + below >= 0) & (row + below < H))
            value = widen(tl.load(x_at + below * (W * C), is_value, 0.0))
            added = ()
            for i in tl.static_range(ROWS):
                if tap_of(below - i * STRIDE_H, DILATION_H, TAPS) >= 0:
                    added = added + (sums[i] + value * weights[tap_of(below - i * STRIDE_H, DILATION_H, TAPS)],)
                else:
                    added = added + (sums[i],)
            sums = added
    return sums


@triton.jit
def depthwise(
    x,
    weight,
    bias,
    residual,
    y,
    H: tl.constexpr,
    W: tl.constexpr,
    K: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    UNROLLED: tl.constexpr,
    MASK_ROWS: tl.constexpr,
    MASK_COLUMNS: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """One strip. TAPS: filter rows whose weights are held at a time. MASK_*: whether windows leave the image."""
    column_tiles: tl.constexpr = (Q + COLUMNS - 1) // COLUMNS
    channel_tiles: tl.constexpr = (K + CHANNELS - 1) // CHANNELS
    row_tiles: tl.constexpr = (P + ROWS - 1) // ROWS
    tile = tl.program_id(0)
    channel = (tile % channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)
    tile = tile // channel_tiles
    first_q = (tile % column_tiles) * COLUMNS
    tile = tile // column_tiles
    first_p = (tile % row_tiles) * ROWS
    image = (tile // row_tiles).to(tl.int64)
    lane = tl.arange(0, COLUMNS)

    # Everything has the shape of the tile, also what varies along one axis only: then it has the tile's layout too, and
    # nothing goes through shared memory.
    is_channel = tl.full((COLUMNS, CHANNELS), True, tl.int1)
    if K % CHANNELS != 0:
        is_channel = is_channel & (channel < K)[None, :]
    channels = tl.broadcast_to(channel[None, :], (COLUMNS, CHANNELS))
    sums = ()
    for _ in tl.static_range(ROWS):
        if EPILOGUE.bias:
            sums = sums + (tl.load(bias + channels, is_channel, 0.0).to(tl.float32),)
        else:
            sums = sums + (tl.zeros((COLUMNS, CHANNELS), tl.float32),)

    row, column = first_p * STRIDE_H - TOP, first_q * STRIDE_W - LEFT
    if UNROLLED:
        for s in tl.static_range(S):
            sums = add_filter_column(
                sums, x, weight, image, row, column, 0, s, lane, channels, is_channel,
                H, W, K, MULTIPLIER, R, S, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W,
                ROWS, TAPS, MASK_ROWS, MASK_COLUMNS,
            )  # fmt: skip
    else:
        for step in range((R + TAPS - 1) // TAPS * S):
            sums = add_filter_column(
                sums, x, weight, image, row, column, step // S * TAPS, step % S, lane, channels, is_channel,
                H, W, K, MULTIPLIER, R, S, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W,
                ROWS, TAPS, MASK_ROWS, MASK_COLUMNS,
            )  # fmt: skip

    is_output = is_channel
    if Q % COLUMNS != 0:
        is_output = is_channel & (first_q + lane < Q)[:, None]
    places = lane[:, None] * K + channels
    start = ((image * P + first_p) * Q + first_q) * K
    for i in tl.static_range(ROWS):
        is_stored = is_output
        if P % ROWS != 0:
            is_stored = is_output & (first_p + i < P)
        at = start + i * Q * K
        out = finish_biased(sums[i], residual + at, places, is_stored, EPILOGUE)
        tl.store(y + at + places, out.to(y.dtype.element_ty), is_stored)


@dataclass(frozen=True)
class GpuStrip:
    """What a block computes: rows, columns and channels of the output; the filter rows held at a time; warps."""

    rows: int
    columns: int
    channels: int
    taps: int
    warps: int

    @property
    def thread_elems(self) -> int:
        """Of each output row, in one thread."""
        return max(1, self.columns * self.channels // (self.warps * WARP_THREADS))

    @property
    def registers(self) -> int:
        """Of a thread, about: sums, weights, a loaded row under way, addresses and masks."""
        return (self.rows + self.taps + 2) * self.thread_elems + 28


ROWS = (8, 4, 2, 1)
WARPS = (8, 4, 2)
LOAD_BYTES = 16  # of one thread at a time: the widest load there is
MOST_CHANNELS = 128
MOST_HELD_TAPS = 8
MOST_UNROLLED_TAPS = 9  # of a filter whose code is laid out whole; of a longer one it is a loop over filter columns
MOST_REGISTERS = 200
MOST_CONFIGS = 6
# Offsets from a strip's start are 32-bit numbers: columns x channels of a strip, and channels of four more like it.
MOST_STRIP_ELEMS, MOST_OFFSET_ELEMS = 1 << 14, 2**31 - 1
# Of a multiprocessor each cycle: f32 instructions of all lanes; bytes from the first-level cache, and from the second.
LANES, L1_BYTES, L2_BYTES = 128, 128, 32
# Places of an instruction that a lane spends on making a number f32 (those of bf16 run at half the rate), on a load's
# address and masks, and on the beginning and the end of a block.
WIDENING = {"f32": 0, "tf32": 0, "f16": 1, "bf16": 2}
LOAD_SLOTS, BLOCK_SLOTS = 2, 100
BUSY_WARPS = 8  # of a multiprocessor that keep its arithmetic busy
LATENCY_WARPS = 6  # so many on a multiprocessor draw half of what memory gives
RESIDENT_BLOCKS = 16
NOT_OVERLAPPED = 0.25  # of what takes less time than the longest of arithmetic, caches and memory


class GpuDepthwise(GpuAlgorithm):
    name = "depthwise"

    def refuse(self, spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
        if spec.group_c != 1:
            return Refusal(f"it takes one input channel a group, the layer has {spec.c} in {spec.groups} groups")
        if spec.upsample != (1, 1):
            return Refusal(f"it does not insert zeros, the layer upsamples by {spec.upsample}")
        if not has_activations(spec.epilogue):
            return Refusal(f"its epilogue is {spec.epilogue}")
        reach = max(MOST_STRIP_ELEMS * spec.stride[1] * max(1, spec.k // MOST_CHANNELS), spec.k * spec.taps)
        if reach > MOST_OFFSET_ELEMS:
            return Refusal(f"a strip or the weights reach over {reach} elements, more than {MOST_OFFSET_ELEMS}")
        return None

    def configs(self, spec: ConvSpec, gpu: Gpu, precision: str) -> list[GpuStrip]:
        taps = spec.r if spec.r <= MOST_HELD_TAPS else -(-spec.r // -(-spec.r // MOST_HELD_TAPS))
        # Elements of one load: at every pixel its address must be a multiple of its bytes.
        vector = min(LOAD_BYTES // PRECISION_BYTES[precision], spec.k & -spec.k)
        heights = dict.fromkeys(-(-spec.p // -(-spec.p // most)) for most in ROWS)
        widest = min(MOST_CHANNELS, _power(spec.k))
        found = {
            GpuStrip(rows, min(columns, _power(spec.q)), channels, taps, warps)
            for rows in heights
            for warps in WARPS
            for elems in (vector, max(1, vector // 2))
            for channels in {widest, max(1, widest // 2), max(1, widest // 4)}
            if (columns := warps * WARP_THREADS * elems // channels)
        }
        few = [config for config in found if config.registers <= MOST_REGISTERS]
        # Where the layer is too small for them, strips whose loads are narrower.
        few = [config for config in few if config.thread_elems >= vector // 2] or few
        order = lambda config: (self.cost(spec, config, gpu, precision).seconds, -config.rows, config.warps)  # noqa: E731
        return sorted(few, key=order)[:MOST_CONFIGS]

    def cost(self, spec: ConvSpec, config: GpuStrip, gpu: Gpu, precision: str) -> GpuCost:
        elem_bytes = PRECISION_BYTES[precision]
        blocks = max(1, spec.n) * math.prod(-(-size // of) for size, of in _tiling(spec, config))
        outputs = blocks * config.rows * config.columns * config.channels  # with those that no one stores
        high = (config.rows - 1) * spec.stride[0] + (config.taps - 1) * spec.dilation[0] + 1
        # Elements that a lane loads for one of its outputs: of the input and of the weights.
        loads = spec.s * -(-spec.r // config.taps) * (min(high, config.rows * config.taps) + config.taps) / config.rows
        slots = spec.taps + loads * (WIDENING[precision] + LOAD_SLOTS / config.thread_elems)
        slots += BLOCK_SLOTS / (config.rows * config.thread_elems)
        cycle_s = 1 / (gpu.multiprocessors * gpu.clock_hz)
        resident = min(RESIDENT_BLOCKS, gpu.registers // (WARP_THREADS * config.registers * config.warps))
        warps = config.warps * max(1, min(resident, -(-blocks // gpu.multiprocessors)))
        busy = min(1.0, warps / BUSY_WARPS) * blocks / (-(-blocks // gpu.multiprocessors) * gpu.multiprocessors)
        arithmetic = outputs * slots / LANES * cycle_s / busy
        first_level = outputs * (loads + 1) * elem_bytes / L1_BYTES * cycle_s / busy
        wide = (config.columns - 1) * spec.stride[1] + (spec.s - 1) * spec.dilation[1] + 1
        high += (spec.r - config.taps) * spec.dilation[0]
        reads = blocks * min(high, spec.h) * min(wide, spec.w) * config.channels
        second_level = (reads + outputs) * elem_bytes / L2_BYTES * cycle_s / busy
        moved = spec.least_bytes * elem_bytes / spec.elem_bytes
        memory = moved / gpu.memory_bytes_per_s * (warps + LATENCY_WARPS) / warps
        times = (arithmetic, first_level, second_level, memory)
        seconds = max(times) + NOT_OVERLAPPED * (sum(times) - max(times))
        return GpuCost(seconds, 2.0 * outputs * spec.taps, moved)

    def implement(self, spec: ConvSpec, config: GpuStrip, gpu: Gpu, precision: str) -> GpuImplementation:
        constants = {
            "H": spec.h,
            "W": spec.w,
            "K": spec.k,
            "MULTIPLIER": spec.group_k,
            "P": spec.p,
            "Q": spec.q,
            "R": spec.r,
            "S": spec.s,
            "STRIDE_H": spec.stride[0],
            "STRIDE_W": spec.stride[1],
            "DILATION_H": spec.dilation[0],
            "DILATION_W": spec.dilation[1],
            "TOP": spec.pad[0],
            "LEFT": spec.pad[1],
            "ROWS": config.rows,
            "COLUMNS": config.columns,
            "CHANNELS": config.channels,
            "TAPS": config.taps,
            "UNROLLED": spec.taps <= MOST_UNROLLED_TAPS and config.taps == spec.r,
            "MASK_ROWS": _leaves(spec, 0, config.rows, config.taps),
            "MASK_COLUMNS": _leaves(spec, 1, config.columns, spec.s),
            "EPILOGUE": spec.epilogue,
        }
        # Pointers that are not read are given all the same: a kernel has one signature.
        bias = BIAS if spec.epilogue.bias else "weight"
        residual = RESIDUAL if spec.epilogue.residual else Y
        blocks = spec.n * math.prod(-(-size // of) for size, of in _tiling(spec, config))
        arguments = (X, "weight", bias, residual, Y)
        return GpuImplementation(
            (GpuLaunch(depthwise, (blocks,), arguments, constants, {BIAS: "f32"}, warps=config.warps),)
        )

    def pack(self, spec: ConvSpec, config: GpuStrip, weight: torch.Tensor, precision: str) -> dict[str, torch.Tensor]:
        packed = weight.reshape(spec.k, spec.r, spec.s).permute(1, 2, 0).contiguous()
        return {"weight": packed.to(TORCH_TYPES[precision])}


def _power(size: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (size - 1).bit_length()


def _tiling(spec: ConvSpec, config: GpuStrip) -> tuple[tuple[int, int], ...]:
    """Sizes of the output and of a strip."""
    return (spec.p, config.rows), (spec.q, config.columns), (spec.k, config.channels)


def _leaves(spec: ConvSpec, axis: int, block: int, held_taps: int) -> bool:
    """Whether blocks look beyond the image along an axis: through padding, or for outputs and taps past the last."""
    size, outputs, taps = ((spec.h, spec.p, spec.r), (spec.w, spec.q, spec.s))[axis]
    last_output = -(-outputs // block) * block - 1
    last_tap = -(-taps // held_taps) * held_taps - 1
    end = last_output * spec.stride[axis] + last_tap * spec.dilation[axis] - spec.pad[axis]
    return spec.pad[axis] > 0 or end >= size


DEPTHWISE_GPU = GpuDepthwise()
__all__ = ["DEPTHWISE_GPU", "GpuDepthwise", "GpuStrip"]
