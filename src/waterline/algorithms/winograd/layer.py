"""A layer in Winograd's domain: its geometry, its blocking, its packed filters, and the calls that compute it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from waterline.algorithms.arguments import LayerArgs
from waterline.algorithms.base import Implementation, Views, chunk_items
from waterline.algorithms.winograd.cpu import (
    FUSED_PHASES,
    STREAMED_PHASES,
    FusedKernel,
    InputTransformKernel,
    OutputTransformKernel,
    StreamedKernel,
)
from waterline.algorithms.winograd.emission import ELEM_BYTES, Geometry, Variant
from waterline.codegen.cpu.emitter import CACHE_LINE_BYTES
from waterline.codegen.cpu.gemm import GemmKernel, Tile, pack_bias
from waterline.codegen.cpu.kernel import Arg, Call, Clock, Input, Number, Packed, Workspace
from waterline.codegen.cpu.memory import aligned_zeros
from waterline.machine import Machine
from waterline.spec import ConvSpec, Epilogue

# Workspace of the phased and the streamed order: beyond it, groups of tiles follow each other.
WORKSPACE_BYTES = 24 << 20
# Parts of the second-level cache: a chunk of transformed filters, and the products of a block with a panel.
CHUNKS_OF_L2 = 4
PRODUCTS_OF_L2 = 4
# A longer chunk gains nothing: its sums rest so seldom that they cost nothing.
MOST_CHUNK_ELEMS = 256
LEAST_CHUNK_ELEMS = 16
# Longer chains of multiply-adds are cut, for accuracy: in one chain, F(4x4,3x3) of 512 channels had twice the errors
# of direct summation. (Shorter chunks are no slower: their data stay in the first-level cache.)
MOST_SUMMED_ELEMS = 128
# Of few passes over a panel each asks for a large part of the next; of more, each for a line now and then.
MOST_PASSES = 12


class Order(StrEnum):
    """Orders of work; see `model`."""

    FUSED = "fused"
    PHASED = "phased"
    STREAMED = "streamed"


@dataclass(frozen=True)
class WinogradConfig:
    """`m` outputs of a tile on each axis; the products' register tile; the order of work.

    Attributes:
        block_tiles: tiles of a block; 0 in the phased order.
        chunk_elems: channels whose filters are transformed at a time; streamed order only.
        accuracy: the policy that the variant needs.
    """

    m: int
    rows: int
    vectors: int
    unroll: int
    order: Order
    block_tiles: int
    chunk_elems: int
    accuracy: str

    @property
    def tile(self) -> Tile:
        return Tile(self.rows, self.vectors, self.unroll)


# ---- geometry -------------------------------------------------------------------------------------------------------
def variant_of(spec: ConvSpec, m: int) -> Variant:
    """F(m x m) for the layer's filter; an axis with one tap is left alone."""
    m_h, m_w = m if spec.r > 1 else 1, m if spec.s > 1 else 1
    return Variant(m_h, m_w, spec.r, spec.s, *spec.stride)


def geometry_of(spec: ConvSpec, views: Views) -> Geometry:
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


def tiles_of(spec: ConvSpec, variant: Variant) -> int:
    """Tiles of one image."""
    return -(-spec.p // variant.m_h) * -(-spec.q // variant.m_w)


def chunk_of(variant: Variant, channels: int, tile: Tile, machine: Machine) -> int:
    """The most channels that divide them evenly and whose transformed filters fit their part of the cache; or 0."""
    channel_bytes = variant.points * tile.vectors * machine.vector_bytes
    most = min(machine.l2_bytes // CHUNKS_OF_L2 // channel_bytes, MOST_CHUNK_ELEMS, channels)
    for chunk in range(most // tile.unroll * tile.unroll, LEAST_CHUNK_ELEMS - 1, -tile.unroll):
        if channels % chunk == 0:
            return chunk
    return channels if channels <= most else 0


def summed_elems(channels: int) -> int:
    """Channels that are summed in one chain: the most that divide them evenly, if that is possible."""
    most = min(MOST_SUMMED_ELEMS, channels)
    return next((chunk for chunk in range(most, most // 2, -1) if channels % chunk == 0), channels)


def streamed_block(variant: Variant, count: int, tile: Tile, machine: Machine) -> int:
    """Tiles of a block whose products with a panel fit their part of the cache, all tiles of an image at most; or 0."""
    tile_bytes = variant.points * tile.vectors * machine.vector_bytes
    most = machine.l2_bytes // PRODUCTS_OF_L2 // tile_bytes // tile.rows
    return min(most, -(-count // tile.rows)) * tile.rows


# ---- packing --------------------------------------------------------------------------------------------------------
def pack_weights(
    spec: ConvSpec, config: WinogradConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
) -> dict[str, np.ndarray]:
    variant, lanes = variant_of(spec, config.m), machine.lanes()
    width = config.vectors * lanes
    if config.order == Order.STREAMED:
        packed = {"taps": pack_taps(weight, width, lanes)}
    else:
        packed = {"panels": pack_filters(weight, variant, width, lanes, config.order == Order.FUSED)}
    if bias is not None:
        packed["bias"] = pack_bias(bias, lanes)
    return packed


def pack_filters(weight: np.ndarray, variant: Variant, width: int, lanes: int, by_panel: bool) -> np.ndarray:
    """(K, C, R, S) -> `G g G^T` of every filter as panels of `width` outputs: of each a row of outputs a channel.

    In the order (panel, point), or (point, panel). Computed in float64 and rounded once.
    """
    rows, columns = np.array(variant.rows.g, np.float64), np.array(variant.columns.g, np.float64)
    transform = np.kron(rows, columns)  # (points, taps)
    k, c = weight.shape[:2]
    padded = -(-k // lanes) * lanes
    packed = aligned_zeros(variant.points * padded * c)
    by_point = packed.reshape(variant.points, -1)
    for first in range(0, k, width):
        used, wide = min(width, k - first), min(width, padded - first)
        filters = np.zeros((weight.shape[2] * weight.shape[3], c, wide))
        filters[:, :, :used] = weight[first : first + used].reshape(used, c, -1).transpose(2, 1, 0)
        points = transform @ filters.reshape(len(filters), -1)
        if by_panel:
            packed[variant.points * first * c : variant.points * (first + wide) * c] = points.reshape(-1)
        else:
            by_point[:, first * c : (first + wide) * c] = points
    return packed


def pack_taps(weight: np.ndarray, width: int, lanes: int) -> np.ndarray:
    """(K, C, R, S) -> panels of `width` outputs: for each channel, for each tap a row of outputs."""
    k, c = weight.shape[:2]
    taps = weight.shape[2] * weight.shape[3]
    padded = -(-k // lanes) * lanes
    packed = aligned_zeros(taps * padded * c)
    for first in range(0, k, width):
        used, wide = min(width, k - first), min(width, padded - first)
        panel = packed[first * c * taps : (first + wide) * c * taps].reshape(c, taps, wide)
        panel[:, :, :used] = weight[first : first + used].reshape(used, c, taps).transpose(1, 2, 0)
    return packed


# ---- calls ----------------------------------------------------------------------------------------------------------
class Layer:
    """The calls of one layer. `seconds` is what it takes, for the size of the chunks of work."""

    def __init__(self, spec: ConvSpec, config: WinogradConfig, views: Views, machine: Machine, seconds: float) -> None:
        self.spec, self.config, self.views, self.machine, self.seconds = spec, config, views, machine, seconds
        self.variant = variant_of(spec, config.m)
        self.geometry = geometry_of(spec, views)
        self.tiles = spec.n * tiles_of(spec, self.variant)
        self.args = LayerArgs.of(spec, views)

    def implement(self) -> Implementation:
        orders = {Order.FUSED: self._fused, Order.PHASED: self._phased, Order.STREAMED: self._streamed}
        return orders[Order(self.config.order)]()

    def _product(self, groups: int = 1, chunk: int = 0, prefetch_passes: int = 0) -> GemmKernel:
        spec, variant = self.spec, self.variant
        chunk = chunk or summed_elems(spec.c)
        return GemmKernel(
            runs=spec.c // chunk,
            run_elems=chunk,
            columns=spec.k,
            groups=groups,
            tile=self.config.tile,
            tails=(),
            block_tiles=1 << 20,
            panel_outer=True,
            row_stride_elems=variant.tile_stride(spec.c),
            y_stride_elems=variant.tile_stride(spec.k),
            residual_stride_elems=0,
            epilogue=Epilogue(),
            chunk_runs=1 if chunk < spec.c else 0,
            prefetch_passes=prefetch_passes,
            group_elems=spec.c,
            adds_chunks=True,
        )

    def _fused(self) -> Implementation:
        config, spec = self.config, self.spec
        weights_bytes = self.variant.points * spec.c * spec.k * ELEM_BYTES
        is_far = weights_bytes > self.machine.l2_bytes // 4
        product = self._product(prefetch_passes=config.block_tiles // config.rows if is_far else 0)
        kernel = FusedKernel(self.variant, self.geometry, product, config.block_tiles, spec.epilogue)
        args = (
            Input(0),
            Packed("table"),
            Packed("zero"),
            Packed("panels"),
            *self.args.epilogue,
            *self.args.images,
            Number(self.tiles),
            Clock(FUSED_PHASES),
        )
        blocks = -(-self.tiles // config.block_tiles)
        scratch = kernel.scratch_bytes(self.machine.lanes())
        return Implementation((Call(kernel, args, blocks, 1, scratch),))

    def _groups(self, tile_bytes: int, rows: int) -> tuple[int, list[tuple[int, int]]]:
        """Tiles that a workspace of `tile_bytes` a tile is made for, and (first, count) of each group of them."""
        group = max(1, WORKSPACE_BYTES // tile_bytes // rows) * rows
        group = min(group, -(-self.tiles // rows) * rows) or rows
        return group, [(first, min(group, self.tiles - first)) for first in range(0, self.tiles, group)]

    def _input_call(self, first: int, count: int, seconds: float) -> Call:
        kernel = InputTransformKernel(self.variant, self.geometry)
        args = (Input(0), Packed("table"), Packed("zero"), Workspace("v"), self.args.x_image, Number(first))
        return Call(kernel, args, count, chunk_items(count, seconds), phase="input")

    def _phased(self) -> Implementation:
        spec, variant, rows = self.spec, self.variant, self.config.rows
        v_bytes, m_bytes = variant.tile_stride(spec.c) * ELEM_BYTES, variant.tile_stride(spec.k) * ELEM_BYTES
        group, groups = self._groups(v_bytes + m_bytes, rows)
        passes = -(-tiles_of(spec, variant) // rows)
        product = self._product(variant.points, prefetch_passes=min(passes, MOST_PASSES))
        panels = variant.points * product.panels(self.machine.lanes())
        calls: list[Call] = []
        for first, count in groups:
            share = self.seconds * count / self.tiles
            calls.append(self._input_call(first, count, share / 6))
            multiply: list[Arg] = [Number(0)] * 13
            multiply[0], multiply[3], multiply[5] = Workspace("v"), Packed("panels"), Workspace("m")
            multiply[7], multiply[8], multiply[9] = Number(1), Number(-(-count // rows) * rows), Number(1)
            calls.append(Call(product, tuple(multiply), panels, chunk_items(panels, share), phase="gemm"))
            kernel = OutputTransformKernel(variant, self.geometry, spec.epilogue)
            args = (Workspace("m"), *self.args.stored, Number(first))
            calls.append(Call(kernel, args, count, chunk_items(count, share / 6), phase="output"))
        return Implementation(tuple(calls), {"v": group * v_bytes, "m": group * m_bytes})

    def _streamed(self) -> Implementation:
        spec, variant, config, lanes = self.spec, self.variant, self.config, self.machine.lanes()
        product = self._product(chunk=config.chunk_elems)
        block_tiles = config.block_tiles
        kernel = StreamedKernel(
            variant, self.geometry, product, block_tiles, spec.epilogue, self._prefetch_lines(product)
        )
        v_bytes = variant.tile_stride(spec.c) * ELEM_BYTES
        group, groups = self._groups(v_bytes, block_tiles)
        calls: list[Call] = []
        for first, count in groups:
            calls.append(self._input_call(first, count, self.seconds * count / self.tiles / 6))
            args = (
                Workspace("v"),
                Packed("taps"),
                *self.args.stored,
                Number(first),
                Number(count),
                Clock(STREAMED_PHASES),
            )
            items = product.panels(lanes) * -(-count // block_tiles)
            calls.append(Call(kernel, args, items, 1, kernel.scratch_bytes(lanes)))
        return Implementation(tuple(calls), {"v": group * v_bytes})

    def _prefetch_lines(self, product: GemmKernel) -> int:
        """Lines of the next chunk's taps for each unrolled step of this chunk's products."""
        rows, steps = product.tile.rows, product.run_elems // min(product.tile.unroll, product.run_elems)
        passes = -(-min(tiles_of(self.spec, self.variant), self.config.block_tiles) // rows)
        taps_bytes = product.run_elems * self.spec.taps * product.tile.vectors * self.machine.vector_bytes
        return -(-taps_bytes // (CACHE_LINE_BYTES * self.variant.points * passes * steps))
