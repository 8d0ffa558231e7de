"""Where data lies: tiles in images, channels in vectors, and the blocks between the kernels' phases.

In the transform domain data is made of vectors of *columns*: a column is one channel of one tile. Channels have `slot`
columns a tile: whole vectors where they are many, else a power of two, so that several tiles share a vector.

The half-way layout S, for each vector of columns: frequency j of the rows, row i, (real, imaginary) parts:
`S[vector][j][i][2][lanes]`, with a cache line behind each j so that different j fall into different cache sets.
"""

from __future__ import annotations

from dataclasses import dataclass

from waterline.algorithms.fft.axes import Axis

ELEM_BYTES = 4
LINE_BYTES = 64  # of a cache


@dataclass(frozen=True)
class Slots:
    """How `channels` become columns of vectors of `lanes`."""

    channels: int
    lanes: int

    @property
    def slot(self) -> int:
        """Columns of a tile."""
        if self.channels >= self.lanes:
            return -(-self.channels // self.lanes) * self.lanes
        return 1 << (self.channels - 1).bit_length()

    @property
    def tiles(self) -> int:
        """Tiles that share a vector."""
        return max(1, self.lanes // self.slot)

    @property
    def vectors(self) -> int:
        """Vectors of a tile; 1 where tiles share one."""
        return max(1, self.slot // self.lanes)

    def count(self, tiles: int) -> int:
        """Vectors of so many tiles."""
        return tiles * self.vectors if self.tiles == 1 else -(-tiles // self.tiles)


@dataclass(frozen=True)
class Geometry:
    """Where tiles lie. Lengths of one image in pixels, strides in elements; "rows" and "columns" of the working axes,
    which are exchanged for filters of one column.

    On the plane a tile's row i is image row `origin_h + i` of the tile, its points j are neighbours. A line is one
    sequence folded into a plane: point j of row i is pixel `j * columns.n + i`, and all rows are of one image row.

    Attributes:
        m_h, m_w: outputs of a tile. origin_h, origin_w: the first tile's first pixel, which may lie in the padding.
        height, width: pixels from these on are not read.
    """

    rows: Axis
    columns: Axis
    is_line: bool
    m_h: int
    m_w: int
    tiles_h: int
    tiles_w: int
    origin_h: int
    origin_w: int
    height: int
    width: int
    p: int
    q: int
    channels: int
    outputs: int
    x_strides: tuple[int, int]
    y_strides: tuple[int, int]
    residual_strides: tuple[int, int]

    @property
    def tiles(self) -> int:
        """Of one image."""
        return self.tiles_h * self.tiles_w

    @property
    def step(self) -> int:
        """Pixels from point to point of a row."""
        return self.columns.n if self.is_line else 1

    def pitch_bytes(self, lanes: int) -> int:
        """From frequency to frequency in S."""
        return self.columns.n * 2 * lanes * ELEM_BYTES + LINE_BYTES

    def vector_bytes(self, lanes: int) -> int:
        """Of one vector of columns in S."""
        return self.rows.count * self.pitch_bytes(lanes)

    def line_bytes(self, lanes: int) -> int:
        """Of the points of one row."""
        return self.rows.n * lanes * ELEM_BYTES


def block_plane(channels: int, block_tiles: int, lanes: int) -> int:
    """Bytes from the real to the imaginary parts of a block's columns at one frequency."""
    slots = Slots(channels, lanes)
    return slots.count(block_tiles) * lanes * ELEM_BYTES


def block_pitch(channels: int, block_tiles: int, lanes: int) -> int:
    """Bytes from frequency to frequency of a block's columns: both planes and a line, for the cache's sets."""
    return 2 * block_plane(channels, block_tiles, lanes) + LINE_BYTES
