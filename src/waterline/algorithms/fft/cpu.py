"""The kernels: rows in, columns and products, rows out; or all of it for filters of one channel.

Layouts: see `waterline.algorithms.fft.geometry`.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from waterline.algorithms.fft.geometry import ELEM_BYTES, Geometry, Slots, block_pitch
from waterline.algorithms.fft.product import ComplexProduct
from waterline.algorithms.fft.stages import InputStage, OutputStage, Tensors
from waterline.algorithms.fft.transforms import FACTOR_BYTES, emit_columns, emit_columns_back, emit_columns_filtered
from waterline.codegen.cpu.clock import PhaseClock
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Kernel
from waterline.spec import Epilogue

FILTER_PHASES = ("input", "columns", "output")
PRODUCT_PHASES = ("input", "gemm", "output")


def _vector(e: Emitter, slots: Slots, number: Value) -> tuple[Value, Value]:
    """(first tile, vector of its channels) of vector `number`."""
    return (
        (e.mul(number, slots.tiles), e.index(0))
        if slots.tiles > 1
        else (
            e.div(number, slots.vectors),
            e.mod(number, slots.vectors),
        )
    )


@dataclass(frozen=True)
class FilterKernel(Kernel):
    """One filter a channel. Items are vectors of columns: all phases of one in the thread's second-level cache.

    Arguments: x, turns, weights, bias, y, residual, clock, x/y/residual image bytes, number of tiles.
    """

    geometry: Geometry
    epilogue: Epilogue

    def scratch_bytes(self, lanes: int) -> int:
        return self.geometry.vector_bytes(lanes) + self.geometry.line_bytes(lanes)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, g = emitter, self.geometry
        x, turns, weights, bias, y, residual, counters = (e.load_pointer(args, 8 * i) for i in range(7))
        x_image, y_image, residual_image, tiles = (e.load_i64(args, 8 * i) for i in range(7, 11))
        pitch = g.pitch_bytes(e.lanes)
        column_bytes = g.columns.n * 2 * e.lanes * ELEM_BYTES
        source, target = InputStage(e, g), OutputStage(e, g, self.epilogue)
        function = emit_columns_filtered(e, g.columns, g.is_line)
        buffer = e.at(scratch, g.vector_bytes(e.lanes))
        tensors = Tensors(bias, y, residual, y_image, residual_image)
        clock = PhaseClock(e, counters)
        with e.loop(begin, end, name="item") as item:
            tile, channel_vector = _vector(e, source.slots, item)
            clock.start()
            source.emit(x, x_image, tile, tiles, channel_vector, scratch, buffer)
            clock.lap(0)
            filters = e.at(weights, e.mul(channel_vector, g.rows.count * column_bytes))
            with e.loop(0, g.rows.count, name="frequency") as j:
                e.builder.call(
                    function,
                    [
                        e.at(scratch, e.mul(j, pitch)),
                        e.at(turns, e.mul(j, g.columns.n * FACTOR_BYTES)),
                        e.at(filters, e.mul(j, column_bytes)),
                    ],
                )
            clock.lap(1)
            target.emit(tensors, tile, tiles, channel_vector, scratch, buffer)
            clock.lap(2)
        clock.flush()


@dataclass(frozen=True)
class InputKernel(Kernel):
    """Items are vectors of columns of the tiles from `first` on. Arguments: x, s, x image bytes, first, end tile."""

    geometry: Geometry

    def scratch_bytes(self, lanes: int) -> int:
        return self.geometry.line_bytes(lanes)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, g = emitter, self.geometry
        x, s = (e.load_pointer(args, 8 * i) for i in range(2))
        x_image, first, last = (e.load_i64(args, 8 * i) for i in range(2, 5))
        stage = InputStage(e, g)
        with e.loop(begin, end, name="item") as item:
            tile, channel_vector = _vector(e, stage.slots, item)
            here = e.at(s, e.mul(item, g.vector_bytes(e.lanes)))
            stage.emit(x, x_image, e.add(first, tile), last, channel_vector, here, scratch)


@dataclass(frozen=True)
class OutputKernel(Kernel):
    """Items are vectors of columns. Arguments: s, bias, y, residual, y/residual image bytes, first, end tile."""

    geometry: Geometry
    epilogue: Epilogue

    def scratch_bytes(self, lanes: int) -> int:
        return self.geometry.line_bytes(lanes)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, g = emitter, self.geometry
        s, bias, y, residual = (e.load_pointer(args, 8 * i) for i in range(4))
        y_image, residual_image, first, last = (e.load_i64(args, 8 * i) for i in range(4, 8))
        stage = OutputStage(e, g, self.epilogue)
        tensors = Tensors(bias, y, residual, y_image, residual_image)
        with e.loop(begin, end, name="item") as item:
            tile, channel_vector = _vector(e, stage.slots, item)
            here = e.at(s, e.mul(item, g.vector_bytes(e.lanes)))
            stage.emit(tensors, e.add(first, tile), last, channel_vector, here, scratch)


@dataclass(frozen=True)
class ProductKernel(Kernel):
    """Columns and products. Items are (frequency j of the rows, block of `block_tiles` tiles).

    A block's columns are transformed into scratch memory, multiplied frequency by frequency, and transformed back.
    Arguments: s of the inputs, turns, panels, s of the outputs, clock, number of tiles, of blocks.
    """

    geometry: Geometry
    product: ComplexProduct
    block_tiles: int

    def scratch_bytes(self, lanes: int) -> int:
        return self.geometry.columns.n * (
            self._pitch(self.geometry.channels, lanes) + self._pitch(self.geometry.outputs, lanes)
        )

    def _pitch(self, channels: int, lanes: int) -> int:
        return block_pitch(channels, self.block_tiles, lanes)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, g, product = emitter, self.geometry, self.product
        s, turns, panels, results, counters = (e.load_pointer(args, 8 * i) for i in range(5))
        tiles, blocks = (e.load_i64(args, 8 * i) for i in range(5, 7))
        lanes, vector = e.lanes, e.lanes * ELEM_BYTES
        sides = (Slots(g.channels, lanes), Slots(g.outputs, lanes))
        pitches = (self._pitch(g.channels, lanes), self._pitch(g.outputs, lanes))
        ahead = emit_columns(e, g.columns, g.is_line, pitches[0], product.plane_bytes)
        back = emit_columns_back(e, g.columns, g.is_line, pitches[1], product.out_plane_bytes)
        functions = product.emit(e)
        v, m = scratch, e.at(scratch, g.columns.n * pitches[0])
        point_bytes = product.weight_elems(lanes) * ELEM_BYTES
        clock = PhaseClock(e, counters)

        def transform(
            function: ir.Function, slots: Slots, block: Value, half_way: Value, first: Value, count: Value, j: Value
        ) -> None:
            """Column j of all vectors of a block, between `half_way` and the block's data."""
            start = e.mul(first, slots.vectors) if slots.tiles == 1 else e.div(first, slots.tiles)
            factors = e.at(turns, e.mul(j, g.columns.n * FACTOR_BYTES))
            vectors = e.mul(e.div(e.add(count, slots.tiles - 1), slots.tiles), slots.vectors)
            with e.loop(0, vectors, name="vector") as number:
                at = e.add(e.mul(e.add(start, number), g.vector_bytes(lanes)), e.mul(j, g.pitch_bytes(lanes)))
                here, column = e.at(block, e.mul(number, vector)), e.at(half_way, at)
                ends = (column, here) if function is ahead else (here, column)
                e.builder.call(function, [ends[0], factors, ends[1]])

        with e.loop(begin, end, name="item") as item:
            j, first = e.builder.udiv(item, blocks), e.mul(e.builder.urem(item, blocks), self.block_tiles)
            count = e.minimum(self.block_tiles, e.sub(tiles, first))
            clock.start()
            transform(ahead, sides[0], v, s, first, count, j)
            clock.lap(0)
            # Whole register tiles: rows behind the last tile hold older data, and nobody reads their products.
            row_tiles = e.div(e.add(count, product.tile.rows - 1), product.tile.rows)
            with e.loop(0, g.columns.n, name="point") as i:
                weights = e.at(panels, e.mul(e.add(e.mul(j, g.columns.n), i), point_bytes))
                left, right = e.at(v, e.mul(i, pitches[0])), e.at(m, e.mul(i, pitches[1]))
                product.emit_rows(e, functions, left, weights, right, row_tiles)
            clock.lap(1)
            transform(back, sides[1], m, results, first, count, j)
            clock.lap(2)
        clock.flush()
