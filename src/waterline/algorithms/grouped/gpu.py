"""`grouped` on GPUs: narrow groups as matrix products whose rows are tiles of pixels.

y[n, p, q, k] = epilogue(sum_{c, r, s} x[n, p*sh + r*dh - top, q*sw + s*dw - left, c] weight[k, c, r, s]), c over the
channels of k's group, with a step of 1 / upsample where the input is upsampled.

Groups of 8 channels are memory bound and leave arithmetic over (Lavin 2024, sections on operational intensity and on
ConvFirst: 36 operations a byte for a 3x3 filter in 16 bits, against a ridge of some 200). It is spent twice:

* Several groups share a product, so that a pixel's channels fill at least a sector of memory. Weights are zero between
  different groups.
* A row of the product is a tile of outputs (2x2, say), its depth the window of inputs that the tile reads (4x4 for a
  3x3 filter), its columns all outputs of the tile. Weights are zero where an output does not read a pixel. A pixel is
  then fetched 4 times from the first-level cache instead of 9 times, and comes from memory about once.

A tile whose height is a multiple of the upsampling's period sees the same weights everywhere: transposed convolutions,
and so the data gradients of strided ones, are gathers by the same kernel, of the taps whose place divides.

Layouts: activations NHWC; weights (block of groups, pixel of the window, channel of the block, column), where a column
is (row and column of the tile, output of the block). Programs are persistent: each keeps the weights of one block of
groups and goes through tiles of pixels. Sums in f32, one chain over the window and its channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import torch
import triton
import triton.language as tl

from waterline.algorithms.base import Refusal
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
)
from waterline.codegen.gpu.epilogue import finish, has_activations
from waterline.codegen.gpu.kernel import WARP_THREADS, GpuLaunch
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec, Epilogue

WIDEST_GROUP = 32  # channels; wider ones are worth a matrix product each
LEAST_DOT = 16  # of any dimension of `tl.dot`
MATRIX_ROWS = 64  # of an asynchronous matrix product: the other operand is read once for as many rows
TILE_SIDES = (1, 2, 4)
ROWS_AND_WARPS = ((64, 4), (128, 8), (64, 8))
# Registers of a thread for the operand that is under way and for sums, of 255.
OPERAND_REGISTERS = 64
ROW_BYTES = 512  # of the operand: with 64 rows and 4 warps that many registers
SUM_REGISTERS = 64
# Products without the matrix unit are unrolled along their depth, so that both stay small.
PLAIN_DEPTH = 64
PLAIN_SUMS = 32
MOST_ELEMS = 2**30  # of an image: offsets within it have 32 bits
STREAMED_STAGES = 2  # loads under way where weights do not stay
PROGRAM_REGISTERS = 168  # of a thread, for guessing how many programs run at once
HELD_CHUNKS = 8  # of weights that stay in shared memory: what multiplies them is unrolled
SECTOR_BYTES = 32  # that memory moves at least
ON_CHIP_BYTES = 128  # that shared memory and the first-level cache of a multiprocessor move together, each cycle
PRODUCT_CYCLES = 64  # for four warps to meet before and after a product of 64 rows
FILL = 4  # times as long takes a byte between the first-level cache and the second one
MATRIX_EFFICIENCY = 0.6  # of the peak, of products that are this narrow
CONFIGS = 6


@triton.jit
def places_of_tiles(start, tiles, LAYOUT: tl.constexpr):
    """Image, row and column of the tiles of outputs from number `start` on, and which of them there are."""
    tile = start + tl.arange(0, LAYOUT.config.rows)
    line = tile // LAYOUT.right.tiles
    return line // LAYOUT.down.tiles, line % LAYOUT.down.tiles, tile % LAYOUT.right.tiles, tile < tiles


@triton.jit
def load_windows(x, start, tiles, chunk, block, LAYOUT: tl.constexpr):
    """Tiles x (pixel, channel): the chunk's pixels of the windows that the tiles read, channels of a block of groups.

    Zero outside the image, behind the window and behind the last channel.
    """
    C: tl.constexpr = LAYOUT.spec.c
    H: tl.constexpr = LAYOUT.spec.h
    W: tl.constexpr = LAYOUT.spec.w
    image, row, column, is_tile = places_of_tiles(start, tiles, LAYOUT)
    depth = tl.arange(0, LAYOUT.depth)
    pixel, c = chunk * LAYOUT.config.pixels + depth // LAYOUT.block_c, depth % LAYOUT.block_c
    i, j = pixel // LAYOUT.right.count * LAYOUT.down.spacing, pixel % LAYOUT.right.count * LAYOUT.right.spacing
    h, w = row * LAYOUT.down.step + LAYOUT.down.origin, column * LAYOUT.right.step + LAYOUT.right.origin
    at = ((image.to(tl.int64) * H + h) * W + w) * C + block * LAYOUT.block_c
    is_there = is_tile[:, None]
    if not LAYOUT.down.is_inside:
        rows = h[:, None] + i[None, :]
        is_there = is_there & (rows >= 0) & (rows < H)
    if not LAYOUT.right.is_inside:
        columns = w[:, None] + j[None, :]
        is_there = is_there & (columns >= 0) & (columns < W)
    if LAYOUT.window % LAYOUT.config.pixels != 0:
        is_there = is_there & (pixel < LAYOUT.window)[None, :]
    if C % LAYOUT.block_c != 0:
        is_there = is_there & (block * LAYOUT.block_c + c < C)[None, :]
    return tl.load(x + at[:, None] + ((i * W + j) * C + c)[None, :], is_there, 0.0)


@triton.jit
def places_of_outputs(start, tiles, block, LAYOUT: tl.constexpr):
    """For tiles x columns: where outputs lie and which there are; for columns: their channels and which there are."""
    K: tl.constexpr = LAYOUT.spec.k
    P: tl.constexpr = LAYOUT.spec.p
    Q: tl.constexpr = LAYOUT.spec.q
    image, row, column, is_tile = places_of_tiles(start, tiles, LAYOUT)
    at = tl.arange(0, LAYOUT.columns)
    output, k = at // LAYOUT.block_k, block * LAYOUT.block_k + at % LAYOUT.block_k
    i, j = output // LAYOUT.right.tile, output % LAYOUT.right.tile
    is_column = (i < LAYOUT.down.tile) & (k < K)
    p, q = row * LAYOUT.down.tile, column * LAYOUT.right.tile
    is_place = is_tile[:, None] & is_column[None, :]
    if P % LAYOUT.down.tile != 0:
        is_place = is_place & (p[:, None] + i[None, :] < P)
    if Q % LAYOUT.right.tile != 0:
        is_place = is_place & (q[:, None] + j[None, :] < Q)
    places = (((image.to(tl.int64) * P + p) * Q + q) * K)[:, None] + ((i * Q + j) * K + k)[None, :]
    return places, is_place, k, is_column


@triton.jit
def grouped(
    x, weight, bias, residual, y, tiles, LAYOUT: tl.constexpr, IS_HELD: tl.constexpr, PRECISION: tl.constexpr,
    EPILOGUE: tl.constexpr,
):  # fmt: skip
    """y[tile, column] = epilogue(sum over the window and its channels of x[tile, pixel, c] weight[pixel, c, column]).

    Neighbouring programs have neighbouring channels of the same pixels, which share lines of the second-level cache.
    Where the weights stay, the next operand is on its way into registers while one is multiplied; those loads, unlike
    asynchronous copies, leave pixels in the first-level cache for the taps of their neighbours.
    """
    CHUNKS: tl.constexpr = LAYOUT.chunks
    chunk_elems: tl.constexpr = LAYOUT.depth * LAYOUT.columns
    block = tl.program_id(0) % LAYOUT.blocks
    packed = weight + block.to(tl.int64) * (CHUNKS * chunk_elems)
    packed = packed + tl.arange(0, LAYOUT.depth)[:, None] * LAYOUT.columns + tl.arange(0, LAYOUT.columns)[None, :]
    held = ()
    if IS_HELD:
        for chunk in tl.static_range(CHUNKS):
            held = held + (tl.load(packed + chunk * chunk_elems),)  # noqa: RUF005
    first = tl.program_id(0) // LAYOUT.blocks * LAYOUT.config.rows
    step = tl.num_programs(0) // LAYOUT.blocks * LAYOUT.config.rows
    if IS_HELD:
        a = load_windows(x, first, tiles, 0, block, LAYOUT)
    # By names: the oldest Triton takes no attributes of a compile-time object in a tuple, or for arguments.
    rows: tl.constexpr = LAYOUT.config.rows
    columns: tl.constexpr = LAYOUT.columns
    for start in range(first, tiles, step):
        sums = tl.zeros((rows, columns), tl.float32)
        if IS_HELD:
            for chunk in tl.static_range(CHUNKS):
                if chunk + 1 < CHUNKS:
                    following = load_windows(x, start, tiles, chunk + 1, block, LAYOUT)
                else:
                    following = load_windows(x, start + step, tiles, 0, block, LAYOUT)
                sums = tl.dot(a, held[chunk], sums, input_precision=PRECISION)
                a = following
        else:
            for chunk in range(CHUNKS):
                a = load_windows(x, start, tiles, chunk, block, LAYOUT)
                b = tl.load(packed + chunk * chunk_elems)
                sums = tl.dot(a, b, sums, input_precision=PRECISION)
        places, is_place, k, is_column = places_of_outputs(start, tiles, block, LAYOUT)
        out = finish(
            sums, bias, residual, k, is_column, places, is_place, EPILOGUE,
        )  # fmt: skip
        tl.store(y + places, out.to(y.dtype.element_ty), is_place)


@dataclass(frozen=True)
class Axis:
    """One axis of a layer: tile t of outputs reads `count` inputs, `spacing` apart, from t*step + origin on."""

    inputs: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    pad: int
    upsample: int
    tile: int

    @cached_property
    def places(self) -> dict[tuple[int, int], int]:
        """The input that tile 0 reads for one of its outputs and a tap, where it is not one of the inserted zeros."""
        found = {}
        for output, tap in product(range(self.tile), range(self.taps)):
            place = output * self.stride + tap * self.dilation - self.pad
            if place % self.upsample == 0:
                found[output, tap] = place // self.upsample
        return found

    @cached_property
    def origin(self) -> int:
        return min(self.places.values(), default=0)

    @cached_property
    def spacing(self) -> int:
        return math.gcd(*(place - self.origin for place in self.places.values())) or 1

    @cached_property
    def count(self) -> int:
        return (max(self.places.values(), default=0) - self.origin) // self.spacing + 1

    @property
    def step(self) -> int:
        return self.tile * self.stride // self.upsample

    @property
    def tiles(self) -> int:
        return -(-self.outputs // self.tile)

    @property
    def is_inside(self) -> bool:
        """Whether no window leaves the image."""
        end = (self.tiles - 1) * self.step + self.origin + (self.count - 1) * self.spacing
        return self.origin >= 0 and end < self.inputs

    def tap_table(self) -> np.ndarray:
        """(input of the window, output of the tile): the tap that joins them, or -1."""
        table = np.full((self.count, self.tile), -1)
        for (output, tap), place in self.places.items():
            table[(place - self.origin) // self.spacing, output] = tap
        return table


@dataclass(frozen=True)
class GpuWindows:
    """How a layer is laid into products.

    Attributes:
        tile: outputs of a row of the product, down and to the right.
        groups: side by side in a product. pixels: of the window in one product.
        rows: of a product. warps: of a program.
    """

    tile: tuple[int, int]
    groups: int
    pixels: int
    rows: int = 64
    warps: int = 4


@dataclass(frozen=True)
class Layout:
    """A layer and a config: the sizes that follow."""

    spec: ConvSpec
    config: GpuWindows

    def _axis(self, axis: int) -> Axis:
        spec = self.spec
        inputs, outputs, taps = ((spec.h, spec.p, spec.r), (spec.w, spec.q, spec.s))[axis]
        stride, dilation, upsample = spec.stride[axis], spec.dilation[axis], spec.upsample[axis]
        return Axis(inputs, outputs, taps, stride, dilation, spec.pad[axis], upsample, self.config.tile[axis])

    @cached_property
    def down(self) -> Axis:
        return self._axis(0)

    @cached_property
    def right(self) -> Axis:
        return self._axis(1)

    @property
    def window(self) -> int:
        """Pixels that a tile reads."""
        return self.down.count * self.right.count

    @property
    def chunks(self) -> int:
        return -(-self.window // self.config.pixels)

    @property
    def block_c(self) -> int:
        return self.config.groups * self.spec.group_c

    @property
    def block_k(self) -> int:
        return self.config.groups * self.spec.group_k

    @property
    def blocks(self) -> int:
        """Of groups."""
        return -(-self.spec.groups // self.config.groups)

    @property
    def depth(self) -> int:
        """Of one product."""
        return self.config.pixels * self.block_c

    @property
    def columns(self) -> int:
        return max(LEAST_DOT, triton.next_power_of_2(math.prod(self.config.tile) * self.block_k))

    @property
    def tiles(self) -> int:
        return self.spec.n * self.down.tiles * self.right.tiles

    @property
    def weight_elems(self) -> int:
        return self.blocks * self.chunks * self.depth * self.columns

    @property
    def without_batch(self) -> Layout:
        """What a kernel is compiled for: one serves all batches."""
        return Layout(replace(self.spec, n=1, epilogue=Epilogue()), self.config)

    def program_bytes(self, precision: str, is_held: bool) -> int:
        """Shared memory of a program: weights, and the operand or the sums on their way out."""
        elem_bytes = PRECISION_BYTES[precision]
        rows, chunks = self.config.rows, self.chunks if is_held else 1
        moving = max(rows * self.depth * elem_bytes, rows * self.columns * 4)
        stages = 1 + (self.chunks > 1) if is_held else STREAMED_STAGES
        return stages * moving + (chunks if is_held else stages) * self.depth * self.columns * elem_bytes

    def fits(self, gpu: Gpu, precision: str, is_held: bool) -> bool:
        """Whether a product has the sizes that `tl.dot` takes, and its operands fit registers and shared memory."""
        rows, threads = self.config.rows, self.config.warps * WARP_THREADS
        operand = rows * self.depth * PRECISION_BYTES[precision] / (4 * threads)
        sums = rows * self.columns / threads
        plain = precision == "f32"
        return (
            self.depth >= LEAST_DOT
            and operand <= OPERAND_REGISTERS
            and sums <= (PLAIN_SUMS if plain else SUM_REGISTERS)
            and (self.depth <= PLAIN_DEPTH or not plain)
            and self.program_bytes(precision, is_held) <= gpu.shared_bytes
        )

    def is_held(self, gpu: Gpu, precision: str) -> bool:
        """Whether all weights of a block of groups stay in shared memory, with room for a second program."""
        few = precision != "f32" and self.chunks <= HELD_CHUNKS
        return few and self.program_bytes(precision, True) <= gpu.shared_bytes // 2

    def programs(self, gpu: Gpu, precision: str) -> int:
        """That share the tiles of a block of groups: as many as run at once, if there are as many products."""
        held = self.is_held(gpu, precision)
        resident = min(
            gpu.shared_bytes // self.program_bytes(precision, held),
            gpu.registers // (PROGRAM_REGISTERS * self.config.warps * WARP_THREADS),
        )
        share = max(1, gpu.multiprocessors * max(1, resident) // self.blocks)
        return min(share, -(-self.tiles // self.config.rows))


def layouts(spec: ConvSpec, most_depth: int, least_depth: int = LEAST_DOT) -> Iterator[Layout]:
    """Tiles, groups side by side and pixels of a product that make sense for a layer, for any rows and warps."""
    periods = [up // math.gcd(up, stride) for up, stride in zip(spec.upsample, spec.stride, strict=True)]
    sides = [
        [period * side for side in TILE_SIDES if side == 1 or period * side < 2 * size]
        for period, size in zip(periods, (spec.p, spec.q), strict=True)
    ]
    group = max(spec.group_c, spec.group_k)
    counts = [1 << i for i in range(6) if group << i <= WIDEST_GROUP and (i == 0 or 1 << i < 2 * spec.groups)]
    for tile_h, tile_w, groups in product(*sides, counts):
        block_c = groups * spec.group_c
        window = Layout(spec, GpuWindows((tile_h, tile_w), groups, 1)).window
        # Where a window takes several products, two operands are under way.
        pixels = [1 << i for i in range(12) if least_depth <= block_c << i <= most_depth >> (1 << i < window)]
        if pixels:
            # Each product costs about as much beside its depth as one more pixel.
            best = min(pixels, key=lambda count: (-(-window // count) * (count + 1), -count))
            for count in dict.fromkeys((best, pixels[0])):  # the least fits where others do not
                yield Layout(spec, GpuWindows((tile_h, tile_w), groups, count))


class GpuGrouped(GpuAlgorithm):
    name = "grouped"

    def refuse(self, spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
        if spec.groups == 1:
            return Refusal("the layer has one group")
        if spec.is_depthwise and spec.k == spec.c:
            return Refusal("each group is one channel: the layer is depthwise's")
        widths = (spec.group_c, spec.group_k)
        if any(width & (width - 1) or width > WIDEST_GROUP for width in widths):
            return Refusal(
                f"a group has {widths[0]} input and {widths[1]} output channels, not powers of two up to {WIDEST_GROUP}"
            )
        if not has_activations(spec.epilogue):
            return Refusal(f"its epilogue is {spec.epilogue}")
        largest = max(spec.h * spec.w * spec.c, spec.p * spec.q * spec.k, spec.n * spec.p * spec.q)
        if largest > MOST_ELEMS:
            return Refusal(f"an image or the number of pixels has {largest} elements: up to {MOST_ELEMS} are served")
        if not self.configs(spec, gpu, precision):
            return Refusal(
                f"upsampling {spec.upsample}, stride {spec.stride}, groups of {widths}: no tile of outputs fits "
                f"{SUM_REGISTERS} registers and {gpu.shared_bytes} bytes of shared memory"
            )
        return None

    def configs(self, spec: ConvSpec, gpu: Gpu, precision: str) -> list[GpuWindows]:
        most_depth = PLAIN_DEPTH if precision == "f32" else ROW_BYTES // PRECISION_BYTES[precision]
        found: list[GpuWindows] = []
        for layout in layouts(spec, most_depth):
            every = [Layout(spec, replace(layout.config, rows=rows, warps=warps)) for rows, warps in ROWS_AND_WARPS]
            fitting = [each.config for each in every if each.fits(gpu, precision, each.is_held(gpu, precision))]
            found += fitting[:2]  # wide results alone need more warps for few rows
        return sorted(found, key=lambda config: self.cost(spec, config, gpu, precision).seconds)[:CONFIGS]

    def cost(self, spec: ConvSpec, config: GpuWindows, gpu: Gpu, precision: str) -> GpuCost:
        layout, elem_bytes = Layout(spec, config), PRECISION_BYTES[precision]
        products = max(1, -(-layout.tiles // config.rows)) * layout.blocks
        depth, columns = layout.chunks * layout.depth, layout.columns
        flops = 2.0 * products * config.rows * depth * columns
        # The operand: fetched, written to shared memory and read there, beside the weights; sums change their layout.
        weights = depth * columns * elem_bytes
        product_bytes = 3.0 * config.rows * depth * elem_bytes + config.rows * columns * 2 * 4
        product_bytes += (weights + layout.chunks * PRODUCT_CYCLES * ON_CHIP_BYTES) * config.rows / MATRIX_ROWS
        held = layout.is_held(gpu, precision)
        weight_loads = min(products, gpu.multiprocessors) if held else products
        on_chip = products * product_bytes + 2 * weight_loads * weights
        # Neighbouring pixels come from the first-level cache; what is less than a sector moves as one.
        for elems, width in ((spec.c * spec.h * spec.w, layout.block_c), (spec.k * spec.p * spec.q, layout.block_k)):
            on_chip += FILL * spec.n * elems * max(elem_bytes, SECTOR_BYTES / width)
        busy = products / (-(-products // gpu.multiprocessors) * gpu.multiprocessors)
        on_chip_rate = gpu.multiprocessors * gpu.clock_hz * ON_CHIP_BYTES
        moved = spec.least_bytes / spec.elem_bytes * elem_bytes
        seconds = max(
            flops / (gpu.peak(precision) * MATRIX_EFFICIENCY * busy),
            on_chip / (on_chip_rate * busy),
            moved / gpu.memory_bytes_per_s,
        )
        return GpuCost(seconds, flops, moved)

    def implement(self, spec: ConvSpec, config: GpuWindows, gpu: Gpu, precision: str) -> GpuImplementation:
        return GpuImplementation((launch(spec, config, gpu, precision, X, "weight", Y),))

    def pack(self, spec: ConvSpec, config: GpuWindows, weight: torch.Tensor, precision: str) -> dict[str, torch.Tensor]:
        places = torch.from_numpy(weight_places(Layout(spec, config))).to(weight.device)
        zero_behind = torch.cat([weight.reshape(-1), weight.new_zeros(1)])
        return {"weight": zero_behind[places].to(TORCH_TYPES[precision])}


def launch(spec: ConvSpec, config: GpuWindows, gpu: Gpu, precision: str, x: str, weight: str, y: str) -> GpuLaunch:
    """The layer on tensors of these names; the weight is packed."""
    layout = Layout(spec, config)
    programs, held = layout.programs(gpu, precision), layout.is_held(gpu, precision)
    constants = {
        "LAYOUT": layout.without_batch,
        "IS_HELD": held,
        "PRECISION": INPUT_PRECISION[precision],
        "EPILOGUE": spec.epilogue,
    }
    # Pointers that are not read are given all the same: a kernel has one signature.
    bias = BIAS if spec.epilogue.bias else weight
    residual = RESIDUAL if spec.epilogue.residual else y
    return GpuLaunch(
        grouped,
        (programs * layout.blocks,),
        (x, weight, bias, residual, y, layout.tiles),
        constants,
        {BIAS: "f32"},
        warps=config.warps,
        stages=1 if held else STREAMED_STAGES,
    )


def weight_places(layout: Layout) -> np.ndarray:
    """Where packed weights lie in the weight (k, c/g, r, s); those that are zero lie behind its end."""
    spec, (tile_h, tile_w) = layout.spec, layout.config.tile
    pixel = np.arange(layout.chunks * layout.config.pixels)
    down, right = pixel // layout.right.count, pixel % layout.right.count
    column = np.arange(layout.columns)
    output = column // layout.block_k
    is_there = (pixel < layout.window)[:, None] & (output < tile_h * tile_w)
    tables = layout.down.tap_table(), layout.right.tap_table()
    r = tables[0][np.minimum(down, layout.down.count - 1)[:, None], output // tile_w % tile_h]
    s = tables[1][right[:, None], output % tile_w]
    is_tap = is_there & (r >= 0) & (s >= 0)
    c, k = np.arange(layout.block_c)[:, None], column % layout.block_k
    is_group = c // spec.group_c == k // spec.group_k
    every_k = np.arange(layout.blocks)[:, None] * layout.block_k + k  # block, column
    channel = every_k[:, None, :] * spec.group_c + c % spec.group_c  # block, c, column
    places = channel[:, None] * spec.taps + (r * spec.s + s)[None, :, None]
    is_used = is_tap[None, :, None] & is_group[None, None] & (every_k < spec.k)[:, None, None]
    return np.where(is_used, places, spec.k * spec.group_c * spec.taps)


GROUPED_GPU = GpuGrouped()
__all__ = ["GROUPED_GPU", "Axis", "GpuGrouped", "GpuWindows", "Layout", "launch", "layouts", "load_windows"]
__all__ += ["places_of_outputs", "places_of_tiles", "weight_places"]
