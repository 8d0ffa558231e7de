"""`winograd`: fewer multiplications for small filters at stride 1, by minimal filtering in both directions.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), algorithm 1. The output is cut into
tiles of m_h x m_w pixels. Each tile's input (n_h x n_w pixels, n = m + r - 1, overlapping its neighbours by r - 1) is
transformed, `V = B^T d B`; at each of the n_h n_w points the channels are summed by a matrix product with the
transformed filters, `M = V U`, `U = G g G^T` (made once); and the inverse transform `Y = A^T M A` gives the pixels.

Variants: `f2x2` F(2x2,3x3), 2.25 times fewer multiplications than direct; `f4x4` F(4x4,3x3), 4 times; `f6x6`
F(6x6,3x3), 5.06 times. Two orders of work:
* *fused*: a block of tiles at a time, whose transformed input stays in the second-level cache: large images.
* *phased*: each phase for all tiles (of a group of images) before the next, so that each transformed filter is read
  once: few tiles and many channels, where the filters are the larger part.

Numerics: each point is one chain of multiply-adds over c; the transforms amplify its rounding by a factor that depends
on the points (see `tolerance`). F(2x2) is as accurate as direct summation, which has nine times longer chains.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views, chunk_items
from waterline.algorithms.blocking import (
    Product,
    clock_hz,
    overlapped,
    product_cycles,
    tiles,
    weight_seconds,
)
from waterline.algorithms.winograd.cpu import (
    ELEM_BYTES,
    FusedKernel,
    Geometry,
    InputTransformKernel,
    OutputTransformKernel,
    Variant,
)
from waterline.algorithms.winograd.transforms import Matrix, program
from waterline.codegen.cpu.gemm import GemmKernel, Tile, pack_bias
from waterline.codegen.cpu.kernel import Arg, Call, Input, Number, Output, Packed, Workspace
from waterline.codegen.cpu.memory import aligned_zeros
from waterline.errors import Refused
from waterline.machine import Machine
from waterline.spec import ConvSpec, Epilogue

# Outputs of a tile along an axis with a filter of three taps; axes with one tap are left alone.
VARIANTS = {"f2x2": 2, "f4x4": 4, "f6x6": 6}
LARGEST_OFFSET = 2**31 - 1
# Workspace of the phased order: beyond it, groups of tiles follow each other.
PHASED_BYTES = 24 << 20


@dataclass(frozen=True)
class WinogradConfig:
    """`m` outputs of a tile on each axis; the products' register tile; tiles of a block, 0 for the phased order."""

    m: int
    rows: int
    vectors: int
    unroll: int
    block_tiles: int

    @property
    def tile(self) -> Tile:
        return Tile(self.rows, self.vectors, self.unroll)


class Winograd(Algorithm):
    name = "winograd"
    variants = tuple(VARIANTS)

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        if spec.groups != 1:
            return Refusal(f"it computes one group, the layer has {spec.groups}")
        if spec.stride != (1, 1) or spec.dilation != (1, 1) or spec.upsample != (1, 1):
            return Refusal(f"it needs stride 1 and dilation 1, the layer has {spec.stride} and {spec.dilation}")
        if (spec.r, spec.s) != (3, 3):
            return Refusal(f"it computes 3x3 filters, the layer's are {spec.r}x{spec.s}")
        if spec.c * spec.h * spec.w > LARGEST_OFFSET:
            return Refusal(f"an image has {spec.c * spec.h * spec.w} elements, offsets reach {LARGEST_OFFSET}")
        return None

    def variant(self, config: WinogradConfig) -> str:
        return f"f{config.m}x{config.m}"

    def accuracy(self, config: WinogradConfig) -> str:
        return {2: "strict", 4: "default"}.get(config.m, "fast")

    def configs(self, spec: ConvSpec, machine: Machine) -> list[WinogradConfig]:
        found = [config for m in VARIANTS.values() for config in _configs(spec, m, machine)]
        return sorted(found, key=lambda config: self.cost(spec, config, machine).seconds)

    def tolerance(self, spec: ConvSpec, config: WinogradConfig) -> float:
        """How much larger the error of an output is than direct summation's, at least 1.

        The products of a point round independently of the other points', in proportion to the size of its transformed
        input and filter, |B_j| and |G_j| in the Euclidean norm for data without preferred directions; the inverse
        transform adds them with weights A_ij. So on each axis the errors grow by
        sqrt(max_i sum_j A_ij^2 |G_j|^2 |B_j|^2) against r for direct summation: 0.56 for F(2x2,3x3), 2.7 for
        F(4x4,3x3), 15 for F(6x6,3x3).
        """
        return max(1.0, _growth(_variant(spec, config.m)))

    def cost(self, spec: ConvSpec, config: WinogradConfig, machine: Machine) -> Cost:
        variant = _variant(spec, config.m)
        count = spec.n * _tiles(spec, variant)
        clock, lanes = clock_hz(machine), machine.lanes()
        rows = -(-count // config.rows) * config.rows
        per_second = clock * machine.cores
        multiply = variant.points * product_cycles(_product(spec, rows), config.tile, machine) / per_second
        transforms = count * (
            -(-spec.c // lanes) * _transform_cycles(variant, variant.rows.b, variant.columns.b)
            + -(-spec.k // lanes) * _transform_cycles(variant, variant.rows.a, variant.columns.a)
        )
        weights = variant.points * spec.c * spec.k * ELEM_BYTES
        data = count * variant.points * (spec.c + spec.k) * ELEM_BYTES
        arriving = weight_seconds(weights, machine)
        if config.block_tiles:
            blocks = -(-count // config.block_tiles)
            block_bytes = config.block_tiles * variant.tile_stride(spec.c) * ELEM_BYTES
            level = "l2" if weights + block_bytes < machine.l2_bytes else "l3"
            again = weights * (blocks - 1) / machine.bytes_per_s(level, machine.cores)
            uneven = -(-blocks // machine.cores) * machine.cores / blocks
            seconds = overlapped(multiply * uneven, again) + arriving
        else:
            level = "l2" if data < machine.l2_bytes // 2 else "l3" if data < machine.l3_bytes // 2 else "dram"
            seconds = overlapped(multiply, arriving) + 2 * data / machine.bytes_per_s(level, machine.cores)
        flops = 2.0 * variant.points * rows * spec.c * spec.k
        return Cost(seconds + transforms / per_second, flops, spec.least_bytes)

    def implement(self, spec: ConvSpec, config: WinogradConfig, views: Views, machine: Machine) -> Implementation:
        seconds = self.cost(spec, config, machine).seconds
        return _Layer(spec, config, views, machine, seconds).implement()

    def pack_weights(
        self, spec: ConvSpec, config: WinogradConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        variant = _variant(spec, config.m)
        lanes = machine.lanes()
        packed = {"panels": pack_filters(weight, variant, config.vectors * lanes, lanes)}
        if bias is not None:
            packed["bias"] = pack_bias(bias, lanes)
        return packed

    def pack_tables(
        self, spec: ConvSpec, config: WinogradConfig, views: Views, machine: Machine
    ) -> dict[str, np.ndarray]:
        """For each tile of an image the offset of each pixel it reads, and a row of zeros for those outside."""
        variant = _variant(spec, config.m)
        grid = _geometry(spec, views).grid(variant)
        rows = np.arange(grid[0])[:, None] * variant.m_h + np.arange(variant.rows.n)[None, :] - spec.pad[0]
        columns = np.arange(grid[1])[:, None] * variant.m_w + np.arange(variant.columns.n)[None, :] - spec.pad[1]
        inside = ((rows >= 0) & (rows < spec.h))[:, None, :, None] & ((columns >= 0) & (columns < spec.w))[
            None, :, None, :
        ]
        offsets = (rows * views.x.strides[2])[:, None, :, None] + (columns * views.x.strides[3])[None, :, None, :]
        if offsets.max() > LARGEST_OFFSET:  # a view into a concatenation spans more than its own elements
            raise Refused(f"{spec.id}: its image spans {views.x.span_elems} elements, offsets reach {LARGEST_OFFSET}")
        table = np.where(inside, offsets, -1).astype(np.int32)
        return {"table": np.ascontiguousarray(table), "zero": np.zeros(spec.c + machine.lanes(), np.float32)}


class _Layer:
    """The calls of one layer."""

    def __init__(self, spec: ConvSpec, config: WinogradConfig, views: Views, machine: Machine, seconds: float) -> None:
        self.spec, self.config, self.views, self.machine, self.seconds = spec, config, views, machine, seconds
        self.variant = _variant(spec, config.m)
        self.geometry = _geometry(spec, views)
        self.tiles = spec.n * _tiles(spec, self.variant)
        self.product = GemmKernel(
            runs=1,
            run_elems=spec.c,
            columns=spec.k,
            groups=self.variant.points,
            tile=config.tile,
            tails=(),
            block_tiles=1 << 20,
            panel_outer=True,
            row_stride_elems=self.variant.tile_stride(spec.c),
            y_stride_elems=self.variant.tile_stride(spec.k),
            residual_stride_elems=0,
            epilogue=Epilogue(),
            prefetch_passes=0 if config.block_tiles else min(-(-_tiles(spec, self.variant) // config.rows), 8),
        )
        residual = views.residual
        self.bias: Arg = Packed("bias") if spec.epilogue.bias else Number(0)
        self.residual: Arg = Input(2 + spec.epilogue.bias) if residual else Number(0)
        self.x_image = Number(views.x.strides[0] * ELEM_BYTES)
        self.y_image = Number(views.y.strides[0] * ELEM_BYTES)
        self.residual_image = Number(residual.strides[0] * ELEM_BYTES if residual else 0)

    def implement(self) -> Implementation:
        return self._fused() if self.config.block_tiles else self._phased()

    def _fused(self) -> Implementation:
        kernel = FusedKernel(self.variant, self.geometry, self.product, self.config.block_tiles, self.spec.epilogue)
        args = (
            Input(0),
            Packed("table"),
            Packed("zero"),
            Packed("panels"),
            self.bias,
            Output(),
            self.residual,
            self.x_image,
            self.y_image,
            self.residual_image,
            Number(self.tiles),
        )
        blocks = -(-self.tiles // self.config.block_tiles)
        scratch = kernel.scratch_bytes(self.machine.lanes())
        return Implementation((Call(kernel, args, blocks, 1, scratch),))

    def _phased(self) -> Implementation:
        spec, variant, rows = self.spec, self.variant, self.config.rows
        v_bytes = variant.tile_stride(spec.c) * ELEM_BYTES
        m_bytes = variant.tile_stride(spec.k) * ELEM_BYTES
        group = max(1, PHASED_BYTES // (v_bytes + m_bytes) // rows) * rows
        group = min(group, -(-self.tiles // rows) * rows)
        lanes = self.machine.lanes()
        calls: list[Call] = []
        for first in range(0, self.tiles, group):
            count = min(group, self.tiles - first)
            share = self.seconds * count / self.tiles
            calls.append(
                Call(
                    InputTransformKernel(variant, self.geometry),
                    (Input(0), Packed("table"), Packed("zero"), Workspace("v"), self.x_image, Number(first)),
                    count,
                    chunk_items(count, share / 6),
                    phase="input",
                )
            )
            panels = variant.points * self.product.panels(lanes)
            multiply: list[Arg] = [Number(0)] * 13
            multiply[0], multiply[3], multiply[5] = Workspace("v"), Packed("panels"), Workspace("m")
            multiply[7], multiply[8], multiply[9] = Number(1), Number(-(-count // rows) * rows), Number(1)
            calls.append(Call(self.product, tuple(multiply), panels, chunk_items(panels, share), phase="gemm"))
            calls.append(
                Call(
                    OutputTransformKernel(variant, self.geometry, spec.epilogue),
                    (
                        Workspace("m"),
                        self.bias,
                        Output(),
                        self.residual,
                        self.y_image,
                        self.residual_image,
                        Number(first),
                    ),
                    count,
                    chunk_items(count, share / 6),
                    phase="output",
                )
            )
        return Implementation(tuple(calls), {"v": group * v_bytes, "m": group * m_bytes})


# ---- geometry -------------------------------------------------------------------------------------------------------
def _variant(spec: ConvSpec, m: int) -> Variant:
    return Variant(m if spec.r > 1 else 1, m if spec.s > 1 else 1, spec.r, spec.s)


def _geometry(spec: ConvSpec, views: Views) -> Geometry:
    residual = views.residual
    return Geometry(
        spec.c,
        spec.k,
        spec.p,
        spec.q,
        (views.x.strides[2], views.x.strides[3]),
        (views.y.strides[2], views.y.strides[3]),
        (residual.strides[2], residual.strides[3]) if residual else (0, 0),
    )


def _tiles(spec: ConvSpec, variant: Variant) -> int:
    """Tiles of one image."""
    return -(-spec.p // variant.m_h) * -(-spec.q // variant.m_w)


def _product(spec: ConvSpec, rows: int) -> Product:
    return Product(rows, 1, spec.c, spec.k, 1, False, spec.c * float(ELEM_BYTES))


def _configs(spec: ConvSpec, m: int, machine: Machine) -> list[WinogradConfig]:
    """For each order of work the best register tile and block."""
    variant = _variant(spec, m)
    count = _tiles(spec, variant)
    unroll = 4 if spec.c >= 64 else 2

    def cycles(tile: Tile) -> float:
        return product_cycles(_product(spec, -(-count // tile.rows) * tile.rows), tile, machine)

    best = sorted(tiles(machine, spec.k, count, unroll), key=cycles)[:3]
    found = []
    for tile in best:
        most = machine.l2_bytes // 2 // (variant.tile_stride(spec.c) * ELEM_BYTES) // tile.rows
        found.append(WinogradConfig(m, tile.rows, tile.vectors, tile.unroll, 0))
        for times in (1, 2, 4):
            if times <= most and times * tile.rows * 2 <= count:
                found.append(WinogradConfig(m, tile.rows, tile.vectors, tile.unroll, times * tile.rows))
    return found


@cache
def _transform_cycles(variant: Variant, rows: Matrix, columns: Matrix) -> float:
    """Cycles of a transform of one vector of channels on both axes: arithmetic two a cycle, and moving the points."""

    def instructions(matrix: Matrix) -> int:
        return sum(max(1, len(step.terms) - 1 + (step.terms[0][0] != 1)) for step in program(matrix)[0])

    arithmetic = instructions(rows) * len(columns[0]) + instructions(columns) * len(rows)
    return arithmetic / 2 + variant.points * 1.25


@cache
def _growth(variant: Variant) -> float:
    total = 1.0
    for axis in (variant.rows, variant.columns):
        a, g, b = (np.array(matrix, np.float64) for matrix in (axis.a, axis.g, axis.b))
        total *= float(np.sqrt((a**2 @ ((g**2).sum(1) * (b**2).sum(1))).max())) / axis.r
    return total


def pack_filters(weight: np.ndarray, variant: Variant, width: int, lanes: int) -> np.ndarray:
    """(K, C, R, S) -> `G g G^T` of every filter as panels of `width` outputs: point, panel, channel, output.

    Computed in float64 and rounded once, panel by panel, already in the order in which it is stored.
    """
    rows, columns = np.array(variant.rows.g, np.float64), np.array(variant.columns.g, np.float64)
    transform = np.kron(rows, columns)  # (points, taps)
    k, c = weight.shape[:2]
    padded = -(-k // lanes) * lanes
    packed = aligned_zeros(variant.points * padded * c).reshape(variant.points, -1)
    for first in range(0, k, width):
        used, wide = min(width, k - first), min(width, padded - first)
        filters = np.zeros((weight.shape[2] * weight.shape[3], c, wide))
        filters[:, :, :used] = weight[first : first + used].reshape(used, c, -1).transpose(2, 1, 0)
        packed[:, first * c : (first + wide) * c] = transform @ filters.reshape(len(filters), -1)
    return packed.reshape(-1)
