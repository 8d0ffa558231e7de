"""How a layer is cut into tiles, and what follows from a config: axes, geometry, the product of a frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass

from waterline.algorithms.base import Views
from waterline.algorithms.fft import axes
from waterline.algorithms.fft.geometry import ELEM_BYTES, Geometry, Slots, block_plane
from waterline.algorithms.fft.product import ComplexProduct, ComplexTile
from waterline.machine import Machine
from waterline.spec import ConvSpec


@dataclass(frozen=True)
class FftConfig:
    """Points of a tile (of a line: `points_h * points_w`), and for products the register tile and tiles of a block."""

    points_h: int
    points_w: int
    tile_rows: int = 0
    tile_vectors: int = 0
    block_tiles: int = 0


@dataclass(frozen=True)
class Window:
    """One axis of a convolution at stride 1: `size` pixels, `taps`, padding on both sides, `outputs`."""

    size: int
    taps: int
    before: int
    after: int
    outputs: int

    @property
    def first(self) -> int:
        """Pixels that are cropped in front."""
        return max(0, -self.before)

    @property
    def last(self) -> int:
        """The end of the pixels that are read."""
        return min(self.size, self.size + self.after)

    def one_tile(self) -> int:
        """Points that one tile for all outputs needs: pixels, and between them zeros enough for either side.

        An output must not meet, n points away, a pixel that its window does not reach.
        """
        wrapped = self.last - self.first + max(self.before, self.after, 0)
        return min(max(wrapped, self.taps, self.outputs), self.outputs + self.taps - 1)


@dataclass(frozen=True)
class Tiling:
    """How tiles of n points cover a window."""

    m: int
    tiles: int
    origin: int
    shift: int  # tap s stands at point (s + shift) of the tile, modulo n

    @classmethod
    def of(cls, window: Window, n: int) -> Tiling:
        if n >= window.one_tile() and n < window.outputs + window.taps - 1:
            return cls(window.outputs, 1, window.first, -window.before - window.first)
        m = min(n - window.taps + 1, window.outputs)
        return cls(m, -(-window.outputs // m), -window.before, 0)


def is_line(spec: ConvSpec) -> bool:
    return spec.r == 1 or spec.s == 1


def is_upright(spec: ConvSpec) -> bool:
    """A line along the rows: the axes are exchanged."""
    return spec.s == 1 and spec.r > 1


def working_windows(spec: ConvSpec) -> tuple[Window, Window]:
    """The working axes: of the columns, of the rows."""
    top, left, bottom, right = spec.pad
    found = (Window(spec.h, spec.r, top, bottom, spec.p), Window(spec.w, spec.s, left, right, spec.q))
    return (found[1], found[0]) if is_upright(spec) else found


def is_filter(spec: ConvSpec) -> bool:
    """One channel in and one out a group."""
    return spec.group_c == spec.group_k == 1


def axes_of(config: FftConfig, machine: Machine) -> tuple[axes.Axis, axes.Axis]:
    """(columns, rows)."""
    return axes.axis(config.points_h, False, machine), axes.axis(config.points_w, True, machine)


def tilings_of(spec: ConvSpec, config: FftConfig) -> tuple[Tiling, Tiling]:
    high, wide = working_windows(spec)
    if is_line(spec):
        # Every row of outputs is a row of tiles; the image's rows are not filtered.
        return Tiling(1, high.outputs, -high.before, 0), Tiling.of(wide, config.points_h * config.points_w)
    return Tiling.of(high, config.points_h), Tiling.of(wide, config.points_w)


def geometry_of(spec: ConvSpec, config: FftConfig, views: Views, machine: Machine) -> Geometry:
    columns, rows = axes_of(config, machine)
    high, wide = working_windows(spec)
    down, along = tilings_of(spec, config)
    upright, residual = is_upright(spec), views.residual

    def strides(values: tuple[int, ...]) -> tuple[int, int]:
        return (values[3], values[2]) if upright else (values[2], values[3])

    return Geometry(
        rows=rows,
        columns=columns,
        is_line=is_line(spec),
        m_h=down.m,
        m_w=along.m,
        tiles_h=down.tiles,
        tiles_w=along.tiles,
        origin_h=down.origin,
        origin_w=along.origin,
        height=high.last,
        width=wide.last,
        p=high.outputs,
        q=wide.outputs,
        channels=spec.c,
        outputs=spec.k,
        x_strides=strides(views.x.strides),
        y_strides=strides(views.y.strides),
        residual_strides=strides(residual.strides) if residual else (0, 0),
    )


def block_tiles_of(spec: ConvSpec, config: FftConfig, lanes: int) -> int:
    """Tiles of a block: whole register tiles, and whole vectors where tiles share one."""
    step = math.lcm(config.tile_rows, Slots(spec.c, lanes).tiles, Slots(spec.k, lanes).tiles)
    return -(-config.block_tiles // step) * step


def product_of(spec: ConvSpec, config: FftConfig, lanes: int) -> ComplexProduct:
    """Of one frequency."""
    down, along = tilings_of(spec, config)
    tiles = down.tiles * along.tiles  # of one image: kernels do not depend on the batch
    slots, room, block_tiles = Slots(spec.c, lanes), Slots(spec.k, lanes), block_tiles_of(spec, config, lanes)
    return ComplexProduct(
        tile=ComplexTile(config.tile_rows, config.tile_vectors),
        groups=spec.groups,
        depth=spec.group_c,
        columns=spec.group_k,
        row_bytes=slots.slot * ELEM_BYTES,
        plane_bytes=block_plane(spec.c, block_tiles, lanes),
        out_row_bytes=room.slot * ELEM_BYTES,
        out_plane_bytes=block_plane(spec.k, block_tiles, lanes),
        room=room.slot,
        passes=-(-min(block_tiles, tiles) // config.tile_rows),
    )
