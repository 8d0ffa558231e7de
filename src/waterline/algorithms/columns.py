"""Rows of output computed tile by tile of columns: the frame of the depthwise and the grouped kernel.

A work item is one row of output of one image. Filter rows outside the image are skipped by the bounds of a loop,
filter columns outside it when the tile is emitted: no padded copy, no row of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llvmlite import ir

from waterline.codegen.cpu.emitter import I64, PTR, Emitter, Value
from waterline.codegen.cpu.epilogue import Place, store_tile
from waterline.codegen.cpu.kernel import Kernel
from waterline.spec import Epilogue

ELEM_BYTES = 4


@dataclass(frozen=True)
class Window:
    """One axis: output position q and filter tap s meet at input position q * stride + s * dilation - before."""

    taps: int
    stride: int
    dilation: int
    before: int
    size: int  # input positions
    outputs: int

    def is_inside(self, q: int, s: int) -> bool:
        return 0 <= q * self.stride + s * self.dilation - self.before < self.size

    def is_interior(self, first: int, width: int) -> bool:
        """Whether every tap of the outputs [first, first + width) sees data."""
        return self.is_inside(first, 0) and self.is_inside(first + width - 1, self.taps - 1)


@dataclass(frozen=True)
class ColumnTile:
    """Outputs [first, first + width) of a row; `repeat` such tiles follow each other with the same taps inside."""

    first: int
    width: int
    repeat: int

    def taps(self, window: Window) -> dict[int, list[tuple[int, int]]]:
        """Input column (from the tile's own origin) -> the (output, tap) pairs that read it, taps ascending."""
        reads: dict[int, list[tuple[int, int]]] = {}
        for j in range(self.width):
            for s in range(window.taps):
                if window.is_inside(self.first + j, s):
                    reads.setdefault(j * window.stride + s * window.dilation, []).append((j, s))
        return dict(sorted(reads.items()))


def column_tiles(window: Window, width: int) -> list[ColumnTile]:
    """A row cut into tiles of `width`; neighbouring tiles that see data everywhere become one repeated tile."""
    tiles: list[ColumnTile] = []
    for first in range(0, window.outputs, width):
        here = min(width, window.outputs - first)
        last = tiles[-1] if tiles else None
        if last and here == last.width and window.is_interior(last.first, here) and window.is_interior(first, here):
            tiles[-1] = ColumnTile(last.first, here, last.repeat + 1)
        else:
            tiles.append(ColumnTile(first, here, 1))
    return tiles


def even_width(outputs: int, widest: int) -> int:
    """The tile width at most `widest` that cuts a row into the fewest, most equal tiles."""
    return -(-outputs // -(-outputs // widest))


@dataclass(frozen=True)
class ColumnKernel(Kernel):
    """Base: loops over rows, blocks of channels and tiles of columns; subclasses emit the sums of a tile.

    Attributes:
        rows, columns: geometry of the two axes.
        width: outputs of a tile.
        blocks: blocks of channels; block b begins at output channel `channel_of(b)`.
        x_strides, y_strides, residual_strides: of rows and of pixels.
        vectors: vectors of output channels in a block.
        x_ring_rows: of a ring that holds the input's rows, row i at i mod x_ring_rows; 0: they lie one after the other.
    """

    rows: Window
    columns: Window
    width: int
    vectors: int
    output_channels: int
    x_strides: tuple[int, int]
    y_strides: tuple[int, int]
    residual_strides: tuple[int, int]
    epilogue: Epilogue
    x_ring_rows: int = field(default=0, kw_only=True)

    # ---- what subclasses say ------------------------------------------------------------------------------------
    def blocks(self, lanes: int) -> int:
        return -(-self.output_channels // (self.vectors * lanes))

    def input_channel(self, e: Emitter, channel: Value) -> Value:
        """First input channel of the block that begins at output channel `channel`."""
        raise NotImplementedError

    def weight_bytes(self, e: Emitter, block: Value, channel: Value) -> Value:
        """Where the weights of a block begin."""
        raise NotImplementedError

    def chains(self, lanes: int) -> int:
        """Vectors of sums behind each vector of outputs."""
        return 1

    def sum_row(
        self, e: Emitter, x: Value, weights: Value, row: Value, tile: ColumnTile, sums: list[Value]
    ) -> list[Value]:
        """Adds the products of filter row `row`; `x` is the input row at the tile's origin."""
        raise NotImplementedError

    def combine(self, e: Emitter, chains: list[Value]) -> Value:
        """A vector of outputs from its `chains`."""
        return chains[0]

    # ---- the frame ----------------------------------------------------------------------------------------------
    def counts(self, lanes: int) -> list[int]:
        """Valid elements in each vector of a block."""
        return [min(lanes, self.output_channels - v * lanes) for v in range(self.vectors)]

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, b = emitter, emitter.builder
        x, weights, bias, y, residual = (e.load_pointer(args, 8 * i) for i in range(5))
        x_image, y_image, residual_image = (e.load_i64(args, 8 * i) for i in (5, 6, 7))
        tiles = column_tiles(self.columns, self.width)
        functions: dict[object, Callable[..., None]] = {}
        window, block_channels = self.rows, self.vectors * e.lanes
        with e.loop(begin, end, name="item") as item:
            image, p = e.div(item, window.outputs), e.mod(item, window.outputs)
            top = e.sub(e.mul(p, window.stride), window.before)
            first = self._up(e, e.sub(0, top))
            last = e.minimum(self._up(e, e.sub(window.size, top)), window.taps)
            place, wrap = self._in_ring(e, top, first) if self.x_ring_rows else (top, None)
            x_row = e.at(x, e.add(e.mul(image, x_image), e.mul(place, self.x_strides[0] * ELEM_BYTES)))
            y_row = e.at(y, e.add(e.mul(image, y_image), e.mul(p, self.y_strides[0] * ELEM_BYTES)))
            residual_row = residual
            if self.epilogue.residual:
                at = e.add(e.mul(image, residual_image), e.mul(p, self.residual_strides[0] * ELEM_BYTES))
                residual_row = e.at(residual, at)
            with e.loop(0, self.blocks(e.lanes), name="block") as block:
                channel = e.mul(block, block_channels)
                if self.output_channels >= block_channels:
                    # The last block steps back instead of being masked: what both compute is the same.
                    channel = e.minimum(channel, self.output_channels - block_channels)
                x_block = e.at(x_row, e.mul(self.input_channel(e, channel), ELEM_BYTES))
                y_block = e.at(y_row, e.mul(channel, ELEM_BYTES))
                bias_block = e.at(bias, e.mul(channel, ELEM_BYTES)) if self.epilogue.bias else bias
                weights_block = e.at(weights, self.weight_bytes(e, block, channel))
                residual_block = e.at(residual_row, e.mul(channel, ELEM_BYTES)) if self.epilogue.residual else residual
                for tile in tiles:
                    taps = tuple((c, tuple(pairs)) for c, pairs in tile.taps(self.columns).items())
                    if taps not in functions:
                        functions[taps] = self._tile_function(e, tile, len(functions))
                    with e.loop(0, tile.repeat, name="tile") as i:
                        q = e.add(e.mul(i, tile.width), tile.first)
                        left = e.sub(e.mul(q, self.columns.stride), self.columns.before)
                        b.call(
                            functions[taps],
                            [
                                e.at(x_block, e.mul(left, self.x_strides[1] * ELEM_BYTES)),
                                weights_block,
                                bias_block,
                                e.at(y_block, e.mul(q, self.y_strides[1] * ELEM_BYTES)),
                                e.at(residual_block, e.mul(q, self.residual_strides[1] * ELEM_BYTES))
                                if self.epilogue.residual
                                else residual_block,
                                first,
                                last,
                                *([] if wrap is None else [wrap]),
                            ],
                        )

    def _up(self, e: Emitter, distance: Value) -> Value:
        """How many filter rows cover `distance` input rows: max(0, ceil(distance / dilation))."""
        distance = e.maximum(distance, 0)
        return e.div(e.add(distance, self.rows.dilation - 1), self.rows.dilation)

    def _in_ring(self, e: Emitter, top: Value, first: Value) -> tuple[Value, Value]:
        """Where filter row 0 would lie so that filter row `first` lies in its place, and how many input rows further
        the ring begins again."""
        reached = e.mul(first, self.rows.dilation)
        place = e.sub(e.builder.urem(e.add(top, reached), e.index(self.x_ring_rows)), reached)
        return place, e.sub(self.x_ring_rows, place)

    def _tile_function(self, entry: Emitter, tile: ColumnTile, number: int) -> ir.Function:
        e = Emitter(
            entry.module,
            entry.machine,
            f"{entry.function.name}_tile{number}",
            [PTR, PTR, PTR, PTR, PTR, I64, I64] + [I64] * (self.x_ring_rows > 0),
            internal=True,
            noinline=True,
        )
        x, weights, bias, y, residual, first, last, *wrap = e.arguments
        counts, chains = self.counts(e.lanes), self.chains(e.lanes)
        zeros = [e.splat(0.0)] * (self.vectors * tile.width * chains)
        with e.carried_loop(first, last, 1, zeros, name="row") as loop:
            reached = e.mul(loop.index, self.rows.dilation)
            if wrap:
                is_behind = e.builder.icmp_signed(">=", reached, wrap[0])
                reached = e.builder.select(is_behind, e.sub(reached, self.x_ring_rows), reached)
            at = e.mul(reached, self.x_strides[0] * ELEM_BYTES)
            loop.carry(self.sum_row(e, e.at(x, at), weights, loop.index, tile, loop.values))
        places = [
            Place(j * self.y_strides[1] * ELEM_BYTES, j * self.residual_strides[1] * ELEM_BYTES)
            for j in range(tile.width)
        ]
        sums = [self.combine(e, loop.results[at : at + chains]) for at in range(0, len(zeros), chains)]
        store_tile(e, self.epilogue, sums, counts, places, y, bias, residual)
        e.finish()
        return e.function
