"""Gradients of `grouped` on GPUs, and the forward pass with weights as training holds them.

Data: dx = sum_{k, r, s} dy[n, p, q, k] weight[k, c, r, s] over the p, q, r, s with p*sh + r*dh - top = h, and so for w.
That is a convolution of dy, upsampled by the stride, with weights whose taps are reversed and whose channels are
exchanged within a group: the forward kernel on tiles whose sides are multiples of the stride, which gathers the taps
whose place divides. One more launch packs the weights, as they change from step to step; so does `forward`.

Weight: dw[k, c, r, s] = sum_{n, p, q} dy[n, p, q, k] x[n, p*sh + r*dh - top, q*sw + s*dw - left, c]. The forward pass
multiplies windows by packed weights, window x column; its transpose multiplies windows by tiles of dy, with tiles as
the depth, and gives the gradient of the packed weights: x is fetched as often as forward, not once for each tap.
Programs split the tiles among them and leave sums in f32; a second launch adds up, for each weight, those of the
programs and of the outputs of a tile, always in the same order: results are the same from run to run.

Tensors: x, dx (n, h, w, c), y, dy (n, p, q, k), weight and dw (k, c/g, r, s), dense and of the layer's precision. The
layer's epilogue is not differentiated: dy is the gradient of its sums.
"""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from waterline.algorithms.gpu import INPUT_PRECISION, GpuImplementation, Workspace, X, Y
from waterline.algorithms.gradients import DW, DX, DY, WEIGHT, gradient_spec
from waterline.algorithms.grouped.gpu import (
    FILL,
    GROUPED_GPU,
    LEAST_DOT,
    MATRIX_ROWS,
    ON_CHIP_BYTES,
    OPERAND_REGISTERS,
    SECTOR_BYTES,
    SUM_REGISTERS,
    Layout,
    launch,
    layouts,
    load_windows,
    places_of_outputs,
)
from waterline.codegen.gpu.kernel import WARP_THREADS, GpuLaunch
from waterline.errors import Refused
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec, Epilogue

PACKED, SUMS = "packed_weight", "sums_of_programs"
PACK_BLOCK = 1024  # elements that a program packs
ROWS = 64  # tiles that are multiplied at a time
ROWS_PLAIN = 16  # without the matrix unit, whose products are unrolled
SUMS_PLAIN = 32  # registers of a thread for sums then
WARPS = (4, 8)
PROGRAMS_PER_MULTIPROCESSOR = 2
TOTAL_SPLITS, TOTAL_ELEMS = 16, 32  # programs' sums, and weights, that are added up at a time


@triton.jit
def tap_of(window, output, AXIS: tl.constexpr, TAPS: tl.constexpr):
    """The tap that joins an input of a window and an output of a tile along an axis, and whether there is one."""
    distance = (window * AXIS.spacing + AXIS.origin) * AXIS.upsample + AXIS.pad - output * AXIS.stride
    is_tap = (distance >= 0) & (distance % AXIS.dilation == 0) & (distance < TAPS * AXIS.dilation)
    return distance // AXIS.dilation, is_tap


@triton.jit
def grouped_pack(
    weight, packed, LAYOUT: tl.constexpr, ELEMS: tl.constexpr, BLOCK: tl.constexpr, IS_GRADIENT: tl.constexpr
):
    """Packs a layer's weight (k, c/g, r, s) for its forward pass or its data gradient, whose layout is LAYOUT."""
    C: tl.constexpr = LAYOUT.spec.group_c
    K: tl.constexpr = LAYOUT.spec.group_k
    R: tl.constexpr = LAYOUT.spec.r
    S: tl.constexpr = LAYOUT.spec.s
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column, rest = at % LAYOUT.columns, at // LAYOUT.columns
    c, rest = rest % LAYOUT.block_c, rest // LAYOUT.block_c
    pixel, block = rest % (LAYOUT.chunks * LAYOUT.config.pixels), rest // (LAYOUT.chunks * LAYOUT.config.pixels)
    i, j = pixel // LAYOUT.right.count, pixel % LAYOUT.right.count
    output, k = column // LAYOUT.block_k, column % LAYOUT.block_k
    down: tl.constexpr = LAYOUT.down
    right: tl.constexpr = LAYOUT.right
    r, is_r = tap_of(i, output // LAYOUT.right.tile, down, R)
    s, is_s = tap_of(j, output % LAYOUT.right.tile, right, S)
    every_k = block * LAYOUT.block_k + k
    is_used = is_r & is_s & (i < LAYOUT.down.count) & (output < LAYOUT.down.tile * LAYOUT.right.tile)
    is_used = is_used & (c // C == k // K) & (every_k < LAYOUT.spec.k)
    if IS_GRADIENT:
        # Outputs of the layer are the inputs of its gradient, and taps are reversed.
        place = (((every_k // K * C + c % C) * K + every_k % K) * R + (R - 1 - r)) * S + (S - 1 - s)
    else:
        place = ((every_k * C + c % C) * R + r) * S + s
    value = tl.load(weight + place, is_used & (at < ELEMS), 0.0)
    tl.store(packed + at, value, at < ELEMS)


@triton.jit
def load_outputs(dy, start, tiles, block, LAYOUT: tl.constexpr):
    """Tiles x columns of dy, zero where there is no output."""
    places, is_place, _, _ = places_of_outputs(start, tiles, block, LAYOUT)
    return tl.load(dy + places, is_place, 0.0)


@triton.jit
def grouped_weight_sums(x, dy, sums, tiles, LAYOUT: tl.constexpr, PRECISION: tl.constexpr):
    """sums[split, block, chunk, (pixel, c), column] = sum over the split's tiles of x[tile, pixel, c] dy[tile, column].

    Neighbouring programs have other channels, then other pixels of the windows, of the same tiles.
    """
    rows: tl.constexpr = LAYOUT.config.rows
    block = tl.program_id(0) % LAYOUT.blocks
    chunk = tl.program_id(0) // LAYOUT.blocks % LAYOUT.chunks
    shares: tl.constexpr = LAYOUT.blocks * LAYOUT.chunks
    split, splits = tl.program_id(0) // shares, tl.num_programs(0) // shares
    depth: tl.constexpr = LAYOUT.depth
    columns: tl.constexpr = LAYOUT.columns
    total = tl.zeros((depth, columns), tl.float32)
    a = load_windows(x, split * rows, tiles, chunk, block, LAYOUT)
    b = load_outputs(dy, split * rows, tiles, block, LAYOUT)
    for start in range(split * rows, tiles, splits * rows):
        # The next operands come while these are multiplied.
        next_a = load_windows(x, start + splits * rows, tiles, chunk, block, LAYOUT)
        next_b = load_outputs(dy, start + splits * rows, tiles, block, LAYOUT)
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
        a, b = next_a, next_b
    share = (split.to(tl.int64) * LAYOUT.blocks + block) * LAYOUT.chunks + chunk
    at = tl.arange(0, LAYOUT.depth)[:, None] * LAYOUT.columns + tl.arange(0, LAYOUT.columns)[None, :]
    tl.store(sums + share * (LAYOUT.depth * LAYOUT.columns) + at, total)


@triton.jit
def grouped_weight_total(sums, dw, splits, LAYOUT: tl.constexpr, SPLITS: tl.constexpr, ELEMS: tl.constexpr):
    """dw: the sums of all splits and of all outputs of a tile. Neighbouring lanes have neighbouring outputs k."""
    C: tl.constexpr = LAYOUT.spec.group_c
    K: tl.constexpr = LAYOUT.spec.k
    R: tl.constexpr = LAYOUT.spec.r
    S: tl.constexpr = LAYOUT.spec.s
    split_elems: tl.constexpr = LAYOUT.weight_elems
    at = tl.program_id(0) * ELEMS + tl.arange(0, ELEMS)
    is_there = at < K * C * R * S
    k, rest = at % K, at // K
    c, rest = rest % C, rest // C
    r, s = rest // S, rest % S
    block, within = k // LAYOUT.block_k, k % LAYOUT.block_k
    depth = within // LAYOUT.spec.group_k * C + c  # the channel in its block
    total = tl.zeros((ELEMS,), tl.float32)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        for output in tl.static_range(LAYOUT.down.tile * LAYOUT.right.tile):
            i = (r * LAYOUT.down.dilation + output // LAYOUT.right.tile * LAYOUT.down.stride) // LAYOUT.down.spacing
            j = (s * LAYOUT.right.dilation + output % LAYOUT.right.tile * LAYOUT.right.stride) // LAYOUT.right.spacing
            pixel = (block * LAYOUT.chunks * LAYOUT.config.pixels + i * LAYOUT.right.count + j) * LAYOUT.block_c + depth
            place = pixel * LAYOUT.columns + output * LAYOUT.block_k + within
            places = split.to(tl.int64)[:, None] * split_elems + place[None, :]
            total += tl.sum(tl.load(sums + places, (split < splits)[:, None] & is_there[None, :], 0.0), 0)
    tl.store(dw + ((k * C + c) * R + r) * S + s, total.to(dw.dtype.element_ty), is_there)


def forward(spec: ConvSpec, gpu: Gpu, precision: str) -> GpuImplementation:
    """Of x and weight, and what the epilogue reads: y. Raises Refused."""
    refusal = GROUPED_GPU.refuse(spec, gpu, precision)
    if refusal:
        raise Refused(f"{spec.id}: {refusal.reason}")
    return _packed(spec, gpu, precision, X, Y, is_gradient=False)


def data_gradient(spec: ConvSpec, gpu: Gpu, precision: str) -> GpuImplementation:
    """Of dy and weight: dx. Raises Refused."""
    turned = gradient_spec(spec)
    refusal = GROUPED_GPU.refuse(turned, gpu, precision)
    if refusal:
        raise Refused(f"the data gradient of {spec.id}: {refusal.reason}")
    return _packed(turned, gpu, precision, DY, DX, is_gradient=True)


def _packed(spec: ConvSpec, gpu: Gpu, precision: str, x: str, y: str, is_gradient: bool) -> GpuImplementation:
    """A launch that packs the weights, and one of the layer."""
    config = GROUPED_GPU.configs(spec, gpu, precision)[0]
    layout = Layout(spec, config)
    elems = layout.weight_elems
    constants = {"LAYOUT": layout.without_batch, "ELEMS": elems, "BLOCK": PACK_BLOCK, "IS_GRADIENT": is_gradient}
    pack = GpuLaunch(grouped_pack, (-(-elems // PACK_BLOCK),), (WEIGHT, PACKED), constants)
    return GpuImplementation((pack, launch(spec, config, gpu, precision, x, PACKED, y)), (Workspace(PACKED, elems),))


def weight_gradient(spec: ConvSpec, gpu: Gpu, precision: str) -> GpuImplementation:
    """Of x and dy: dw. Raises Refused."""
    spec = replace(spec, epilogue=Epilogue())
    refusal = GROUPED_GPU.refuse(spec, gpu, precision)
    if refusal is None and spec.upsample == (1, 1):
        layout = weight_gradient_layout(spec, gpu, precision)
        if layout is not None:
            return weight_gradient_of(layout, gpu, precision)
    reason = refusal.reason if refusal else f"upsampling {spec.upsample}, or no tile of outputs fits registers"
    raise Refused(f"the weight gradient of {spec.id}: {reason}")


def weight_gradient_of(layout: Layout, gpu: Gpu, precision: str) -> GpuImplementation:
    """The launches with a layout."""
    spec, shares = layout.spec, layout.blocks * layout.chunks
    splits = max(1, PROGRAMS_PER_MULTIPROCESSOR * gpu.multiprocessors // shares)
    splits = min(splits, max(1, -(-layout.tiles // layout.config.rows)))
    compiled = layout.without_batch
    parts = GpuLaunch(
        grouped_weight_sums,
        (splits * shares,),
        (X, DY, SUMS, layout.tiles),
        {"LAYOUT": compiled, "PRECISION": INPUT_PRECISION[precision]},
        {SUMS: "f32"},
        warps=layout.config.warps,
        stages=1,
    )
    elems = spec.k * spec.group_c * spec.taps
    total = GpuLaunch(
        grouped_weight_total,
        (-(-elems // TOTAL_ELEMS),),
        (SUMS, DW, splits),
        {"LAYOUT": compiled, "SPLITS": TOTAL_SPLITS, "ELEMS": TOTAL_ELEMS},
        {SUMS: "f32"},
    )
    return GpuImplementation((parts, total), (Workspace(SUMS, splits * layout.weight_elems, "f32"),))


def weight_gradient_layout(spec: ConvSpec, gpu: Gpu, precision: str) -> Layout | None:
    """The tiles and groups that take the least time, of those that fit."""
    elem_bytes, plain = PRECISION_BYTES[precision], precision == "f32"
    rows = ROWS_PLAIN if plain else ROWS
    most_depth = MATRIX_ROWS if plain else OPERAND_REGISTERS * 4 * WARP_THREADS * max(WARPS) // (ROWS * elem_bytes)
    least_depth = LEAST_DOT if plain else MATRIX_ROWS
    found: list[tuple[float, Layout]] = []
    for each in layouts(spec, most_depth, least_depth):
        for warps in WARPS:
            layout = Layout(spec, replace(each.config, rows=rows, warps=warps))
            threads = warps * WARP_THREADS
            sums = layout.depth * layout.columns / threads
            operands = rows * (layout.depth + layout.columns) * elem_bytes
            if sums > (SUMS_PLAIN if plain else SUM_REGISTERS) or operands > 4 * OPERAND_REGISTERS * threads * 2:
                continue
            if operands > gpu.shared_bytes:
                continue
            products = max(1, -(-layout.tiles // rows)) * layout.blocks * layout.chunks
            flops = 2.0 * products * rows * layout.depth * layout.columns
            # Both are fetched, written to shared memory and read there; what is less than a sector moves as one.
            on_chip = 3.0 * products * operands
            for elems, width in (
                (spec.c * spec.h * spec.w, layout.block_c),
                (spec.k * spec.p * spec.q, layout.block_k),
            ):
                on_chip += FILL * layout.chunks * spec.n * elems * max(elem_bytes, SECTOR_BYTES / width)
            # Sums are written and read again.
            programs = min(products, PROGRAMS_PER_MULTIPROCESSOR * gpu.multiprocessors)
            moved = 2 * programs * layout.depth * layout.columns * 4 + spec.least_bytes / spec.elem_bytes * elem_bytes
            rate = gpu.multiprocessors * gpu.clock_hz * ON_CHIP_BYTES
            seconds = max(flops / gpu.peak(precision), on_chip / rate) + moved / gpu.memory_bytes_per_s
            found.append((seconds, layout))
    return min(found, key=lambda pair: pair[0])[1] if found else None


__all__ = [
    "data_gradient",
    "forward",
    "weight_gradient",
    "weight_gradient_layout",
    "weight_gradient_of",
]
