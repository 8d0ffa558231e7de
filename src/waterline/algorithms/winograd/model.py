"""`winograd`: fewer multiplications for small filters, by minimal filtering in one or both directions.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), algorithm 1. The output is cut into
tiles of m_h x m_w pixels. Each tile's input (n_h x n_w pixels, n = m + r - 1, overlapping its neighbours by r - 1) is
transformed, `V = B^T d B`; at each of the n_h n_w points the channels are summed by a matrix product with the
transformed filters, `M = V U`, `U = G g G^T`; and the inverse transform `Y = A^T M A` gives the pixels.

Variants: `f2x2` F(2x2), for 3x3 filters 2.25 times fewer multiplications than direct; `f4x4` F(4x4), 4 times; `f6x6`
F(6x6), 5.06 times. Filters of 2 to 7 taps an axis; 1xN and Nx1 filters are transformed along their taps only. Stride 2
by decimation (`transforms.filtering`). Three orders of work:
* *fused*: a block of tiles at a time, whose transformed input stays in the second-level cache: large images.
* *phased*: each phase for all tiles (of a group of images) before the next, so that each transformed filter is read
  once: many channels, and enough tiles to make up for it.
* *streamed*: the tiles' transformed input is made first; then panel by panel the filters come from memory as they are
  and are transformed in the second-level cache: few tiles, where the filters are the larger part of all data. They
  take no more memory than a direct algorithm's.

Numerics: each point is a sum over c, in chains of at most 128 multiply-adds where c can be divided so; the transforms
amplify its rounding by a factor that depends on the points (see `tolerance`). F(2x2,3x3) is more accurate than direct
summation, which has far longer chains.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Phase, Refusal, Views
from waterline.algorithms.blocking import Product, product_cycles, tiles
from waterline.algorithms.winograd import layer, pricing
from waterline.algorithms.winograd.layer import ELEM_BYTES, Order, WinogradConfig
from waterline.errors import Refused
from waterline.machine import Machine
from waterline.spec import ConvSpec

# Outputs of a tile along an axis with more than one tap; axes with one tap are left alone.
VARIANTS = {"f2x2": 2, "f4x4": 4, "f6x6": 6}
LARGEST_OFFSET = 2**31 - 1
MOST_TAPS = 7
# Points of a tile: of one axis (there are no good interpolation points for more), and of both (registers, code).
MOST_AXIS_POINTS = 10
MOST_POINTS = 81
# Growth of rounding errors (see `tolerance`) up to which a variant passes for a policy; beyond both it is "fast".
MOST_GROWTH = {"strict": 1.0, "default": 3.0}


class Winograd(Algorithm):
    name = "winograd"
    variants = tuple(VARIANTS)
    mixes_pixels = True

    def refuse(self, spec: ConvSpec, machine: Machine) -> Refusal | None:
        if spec.groups != 1:
            return Refusal(f"it computes one group, the layer has {spec.groups}")
        if spec.dilation != (1, 1) or spec.upsample != (1, 1):
            return Refusal(f"it needs dilation 1, the layer has {spec.dilation}")
        for taps, stride in ((spec.r, spec.stride[0]), (spec.s, spec.stride[1])):
            if stride > 2 or (stride == 2 and taps < 3):
                return Refusal(f"it needs stride 1, or 2 with at least 3 taps; the layer has {taps} at {stride}")
        if max(spec.r, spec.s) > MOST_TAPS or spec.taps == 1:
            return Refusal(f"it computes filters of 2 to {MOST_TAPS} taps an axis, the layer's are {spec.r}x{spec.s}")
        if spec.c * spec.h * spec.w > LARGEST_OFFSET:
            return Refusal(f"an image has {spec.c * spec.h * spec.w} elements, offsets reach {LARGEST_OFFSET}")
        return None

    def variant(self, config: WinogradConfig) -> str:
        return f"f{config.m}x{config.m}"

    def accuracy(self, config: WinogradConfig) -> str:
        return config.accuracy

    def configs(self, spec: ConvSpec, machine: Machine) -> list[WinogradConfig]:
        found = [config for m in VARIANTS.values() for config in _configs(spec, m, machine)]
        return sorted(found, key=lambda config: self.cost(spec, config, machine).seconds)

    def tolerance(self, spec: ConvSpec, config: WinogradConfig) -> float:
        """How much larger the error of an output is than direct summation's, at least 1.

        The products of a point round independently of the other points', in proportion to the size of its transformed
        input and filter, |B_j| and |G_j| in the Euclidean norm for data without preferred directions; the inverse
        transform adds them with weights A_ij. So on each axis the errors grow by
        sqrt(max_i sum_j A_ij^2 |G_j|^2 |B_j|^2) against r for direct summation: in both directions together 0.56 for
        F(2x2,3x3), 2.4 for F(4x4,3x3), 15 for F(6x6,3x3).

        Beside the chain of c multiply-adds the transforms round too, about r + s times each: nothing next to many
        channels, but to few. Filters round there only in the streamed order, and coefficients that are multiples of
        1/4 leave no rounding in the others that is not in the direct sum as well.
        """
        variant = layer.variant_of(spec, config.m)
        roundings = (not _is_plain(variant)) + (config.order == Order.STREAMED)
        return max(1.0, _growth(variant)) * (1.0 + roundings * (spec.r + spec.s) / spec.c)

    def cost(self, spec: ConvSpec, config: WinogradConfig, machine: Machine) -> Cost:
        return pricing.cost(spec, config, machine)

    def phases(self, spec: ConvSpec, config: WinogradConfig, machine: Machine) -> tuple[Phase, ...]:
        return pricing.phases(spec, config, machine)

    def implement(self, spec: ConvSpec, config: WinogradConfig, views: Views, machine: Machine) -> Implementation:
        seconds = self.cost(spec, config, machine).seconds
        return layer.Layer(spec, config, views, machine, seconds).implement()

    def pack_weights(
        self, spec: ConvSpec, config: WinogradConfig, weight: np.ndarray, bias: np.ndarray | None, machine: Machine
    ) -> dict[str, np.ndarray]:
        return layer.pack_weights(spec, config, weight, bias, machine)

    def pack_tables(
        self, spec: ConvSpec, config: WinogradConfig, views: Views, machine: Machine
    ) -> dict[str, np.ndarray]:
        """For each tile of an image the offset of each pixel it reads, and a row of zeros for those outside."""
        variant = layer.variant_of(spec, config.m)
        grid = layer.geometry_of(spec, views).grid(variant)
        first_rows = np.arange(grid[0])[:, None] * (variant.m_h * variant.stride_h)
        first_columns = np.arange(grid[1])[:, None] * (variant.m_w * variant.stride_w)
        rows = first_rows + np.arange(variant.rows.inputs)[None, :] - spec.pad[0]
        columns = first_columns + np.arange(variant.columns.inputs)[None, :] - spec.pad[1]
        inside = ((rows >= 0) & (rows < spec.h))[:, None, :, None] & ((columns >= 0) & (columns < spec.w))[
            None, :, None, :
        ]
        offsets = (rows * views.x.strides[2])[:, None, :, None] + (columns * views.x.strides[3])[None, :, None, :]
        if offsets.max() > LARGEST_OFFSET:  # a view into a concatenation spans more than its own elements
            raise Refused(f"{spec.id}: its image spans {views.x.span_elems} elements, offsets reach {LARGEST_OFFSET}")
        table = np.where(inside, offsets, -1).astype(np.int32)
        return {"table": np.ascontiguousarray(table), "zero": np.zeros(spec.c + machine.lanes(), np.float32)}


# ---- configs --------------------------------------------------------------------------------------------------------
def _configs(spec: ConvSpec, m: int, machine: Machine) -> Iterator[WinogradConfig]:
    """For each order of work the best register tiles, blocks and chunks."""
    variant = layer.variant_of(spec, m)
    if not _has_points(variant):
        return
    count = layer.tiles_of(spec, variant)
    accuracy = next((name for name, most in MOST_GROWTH.items() if _growth(variant) <= most), "fast")

    def ranked(unroll: int) -> list[layer.Tile]:
        def cycles(tile: layer.Tile) -> float:
            rows = -(-count // tile.rows) * tile.rows
            return product_cycles(Product(rows, 1, spec.c, spec.k, 1, False, 0.0), tile, machine)

        return sorted(tiles(machine, spec.k, count, unroll), key=cycles)

    unroll = 4 if spec.c >= 64 else 2
    for tile in ranked(unroll)[:3]:
        most = machine.l2_bytes // 2 // (variant.tile_stride(spec.c) * ELEM_BYTES) // tile.rows
        yield WinogradConfig(m, tile.rows, tile.vectors, tile.unroll, Order.PHASED, 0, 0, accuracy)
        for times in (1, 2, 4):
            if times <= most and times * tile.rows * 2 <= count:
                yield WinogradConfig(m, tile.rows, tile.vectors, unroll, Order.FUSED, times * tile.rows, 0, accuracy)
        chunk = layer.chunk_of(variant, spec.c, tile, machine)
        block = layer.streamed_block(variant, count, tile, machine)
        if chunk and block:
            yield WinogradConfig(m, tile.rows, tile.vectors, tile.unroll, Order.STREAMED, block, chunk, accuracy)


def _has_points(variant: layer.Variant) -> bool:
    """Whether there are interpolation points, and registers and code for the transforms."""
    longest = -(-variant.r // variant.stride_h), -(-variant.s // variant.stride_w)
    axes = variant.m_h + longest[0] - 1, variant.m_w + longest[1] - 1
    return max(axes) <= MOST_AXIS_POINTS and variant.points <= MOST_POINTS


@cache
def _is_plain(variant: layer.Variant) -> bool:
    """Whether all coefficients are multiples of 1/4."""
    matrices = [matrix for axis in (variant.rows, variant.columns) for matrix in (axis.a, axis.g, axis.b)]
    return all(4 % value.denominator == 0 for matrix in matrices for row in matrix for value in row)


@cache
def _growth(variant: layer.Variant) -> float:
    total = 1.0
    for axis in (variant.rows, variant.columns):
        a, g, b = (np.array(matrix, np.float64) for matrix in (axis.a, axis.g, axis.b))
        total *= float(np.sqrt((a**2 @ ((g**2).sum(1) * (b**2).sum(1))).max())) / axis.r
    return total
