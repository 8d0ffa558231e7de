"""Emission of a tile's way from pixels to half-transformed rows, and from there to outputs.

Layouts: see `waterline.algorithms.fft.geometry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from waterline.algorithms.fft.geometry import ELEM_BYTES, Geometry, Slots
from waterline.algorithms.fft.transforms import emit_rows, emit_rows_back
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.epilogue import finish_vector
from waterline.spec import Epilogue


def _place(e: Emitter, strides: tuple[int, int], row: Value | int, column: Value | int) -> Value:
    return e.add(e.mul(row, strides[0] * ELEM_BYTES), e.mul(column, strides[1] * ELEM_BYTES))


def _prefetch(e: Emitter, pixel: Value, point_bytes: int, first: Value | int, last: Value | int) -> None:
    """Asks for the points `first` .. `last` of a row of pixels: strides are too long for hardware to guess."""
    with e.loop(first, last, name="ask") as j:
        e.prefetch(pixel, e.mul(j, point_bytes))


def _steps(e: Emitter, length: Value, step: int) -> Value:
    """ceil(length / step), at least 0."""
    return e.div(e.add(e.maximum(length, 0), step - 1), step)


class _Stage:
    """What the input and the output of tiles have in common."""

    def __init__(self, e: Emitter, geometry: Geometry, channels: int) -> None:
        self.e, self.geometry = e, geometry
        self.slots = Slots(channels, e.lanes)
        self.vector = e.lanes * ELEM_BYTES

    def split(self, tile: Value) -> tuple[Value, Value, Value]:
        """(image, first row of outputs, first column of outputs)."""
        e, g = self.e, self.geometry
        here = e.mod(tile, g.tiles)
        return e.div(tile, g.tiles), e.mul(e.div(here, g.tiles_w), g.m_h), e.mul(e.mod(here, g.tiles_w), g.m_w)

    def over_counts(self, channel_vector: Value, body: Callable[[int], None]) -> None:
        """`body(channels)` for this vector of a tile's channels, of which the last may not be full."""
        e, slots = self.e, self.slots
        last = slots.channels - (slots.vectors - 1) * e.lanes
        if last == e.lanes:
            body(e.lanes)
        elif slots.vectors == 1:
            body(last)
        else:
            is_last = e.builder.icmp_unsigned("==", channel_vector, e.index(slots.vectors - 1))
            with e.builder.if_else(is_last) as (then, otherwise):
                with then:
                    body(last)
                with otherwise:
                    body(e.lanes)


class InputStage(_Stage):
    """Rows of pixels -> S. `buffer` has room for the points of one row."""

    def __init__(self, e: Emitter, geometry: Geometry) -> None:
        super().__init__(e, geometry, geometry.channels)
        self.pitch = geometry.pitch_bytes(e.lanes)
        self.function = emit_rows(e, geometry.rows, self.pitch)

    def emit(
        self, x: Value, x_image: Value, tile: Value, tiles: Value, channel_vector: Value, s: Value, buffer: Value
    ) -> None:
        """One vector of columns: of `tile`, or of the tiles from `tile` on that share a vector."""
        if self.slots.tiles == 1:
            self._of_one(x, x_image, tile, channel_vector, s, buffer)
        else:
            self._of_several(x, x_image, tile, tiles, s, buffer)

    def _row(self, first_row: Value, first_column: Value, i: Value) -> tuple[Value, Value, Value]:
        """(whether row i of a tile is in the image, its pixels as (row, first column))."""
        e, g = self.e, self.geometry
        y, x = e.add(first_row, g.origin_h), e.add(first_column, g.origin_w)
        y, x = (y, e.add(x, i)) if g.is_line else (e.add(y, i), x)
        return e.builder.icmp_unsigned("<", y, e.index(g.height)), y, x

    def _inside(self, x: Value) -> tuple[Value, Value]:
        """The points of a row that begins at pixel x which are in the image: from, to."""
        e, g = self.e, self.geometry
        first = e.minimum(_steps(e, e.sub(0, x), g.step), g.rows.n)
        last = e.minimum(_steps(e, e.sub(g.width, x), g.step), g.rows.n)
        return first, e.maximum(last, first)

    def _of_one(
        self, image_x: Value, x_image: Value, tile: Value, channel_vector: Value, s: Value, buffer: Value
    ) -> None:
        e, g = self.e, self.geometry
        image, first_row, first_column = self.split(tile)
        base = e.at(image_x, e.add(e.mul(image, x_image), e.mul(channel_vector, self.vector)))
        point_bytes = g.step * g.x_strides[1] * ELEM_BYTES
        following_bytes = g.x_strides[1 if g.is_line else 0] * ELEM_BYTES
        whole_channels = e.builder.icmp_signed("<", channel_vector, e.index(self.slots.channels // e.lanes))
        with e.loop(0, g.columns.n, name="row") as i:
            target = e.at(s, e.mul(i, 2 * self.vector))
            is_inside, y, x = self._row(first_row, first_column, i)
            with e.builder.if_else(is_inside) as (then, otherwise):
                with then:
                    first, last = self._inside(x)
                    pixel = e.at(base, _place(e, g.x_strides, y, x))
                    _prefetch(e, e.at(pixel, following_bytes), point_bytes, first, last)
                    all_points = e.builder.icmp_signed("==", e.sub(last, first), e.index(g.rows.n))
                    is_direct = e.builder.and_(all_points, whole_channels)
                    with e.when(e.builder.not_(is_direct)):
                        self.over_counts(channel_vector, self._gathering(pixel, point_bytes, first, last, buffer))
                    source = e.builder.select(is_direct, pixel, buffer)
                    stride = e.builder.select(is_direct, e.index(point_bytes), e.index(self.vector))
                    e.builder.call(self.function, [source, stride, target])
                with otherwise, e.loop(0, g.rows.count, name="frequency") as j:
                    at = e.at(target, e.mul(j, self.pitch))
                    e.store_vector(e.splat(0.0), at)
                    e.store_vector(e.splat(0.0), at, self.vector)

    def _gathering(
        self, pixel: Value, point_bytes: int, first: Value, last: Value, buffer: Value
    ) -> Callable[[int], None]:
        """Puts the points of a row side by side into the buffer, zeros outside first .. last."""
        e, n = self.e, self.geometry.rows.n

        def gather(count: int) -> None:
            for begin, end in ((0, first), (last, n)):
                with e.loop(begin, end, name="zero") as j:
                    e.store_vector(e.splat(0.0), buffer, e.mul(j, self.vector))
            with e.loop(first, last, name="point") as j:
                e.store_vector(e.load_vector(pixel, e.mul(j, point_bytes), count), buffer, e.mul(j, self.vector))

        return gather

    def _of_several(self, image_x: Value, x_image: Value, tile: Value, tiles: Value, s: Value, buffer: Value) -> None:
        e, g, slot = self.e, self.geometry, self.slots.slot
        point_bytes = g.step * g.x_strides[1] * ELEM_BYTES
        count = e.minimum(self.slots.tiles, e.sub(tiles, tile))
        with e.loop(0, g.columns.n, name="row") as i:
            with e.loop(0, g.rows.n, name="zero") as j:
                e.store_vector(e.splat(0.0), buffer, e.mul(j, self.vector))
            with e.loop(0, count, name="tile") as number:
                image, first_row, first_column = self.split(e.add(tile, number))
                is_inside, y, x = self._row(first_row, first_column, i)
                with e.when(is_inside):
                    first, last = self._inside(x)
                    pixel = e.at(e.at(image_x, e.mul(image, x_image)), _place(e, g.x_strides, y, x))
                    target = e.at(buffer, e.mul(number, slot * ELEM_BYTES))
                    with e.loop(first, last, name="point") as j:
                        value = e.load_vector(pixel, e.mul(j, point_bytes), g.channels, lanes=slot)
                        e.store_vector(value, target, e.mul(j, self.vector))
            e.builder.call(self.function, [buffer, e.index(self.vector), e.at(s, e.mul(i, 2 * self.vector))])


@dataclass(frozen=True)
class Tensors:
    """Addresses of the first image, and bytes from image to image."""

    bias: Value
    y: Value
    residual: Value
    y_image: Value
    residual_image: Value


@dataclass(frozen=True)
class OutputRow:
    """Where the outputs of a tile's row go: addresses of the first, and how many there are."""

    y: Value
    residual: Value
    length: Value


class OutputStage(_Stage):
    """S -> rows of pixels, with the epilogue."""

    def __init__(self, e: Emitter, geometry: Geometry, epilogue: Epilogue) -> None:
        super().__init__(e, geometry, geometry.outputs)
        self.epilogue = epilogue
        self.function = emit_rows_back(e, geometry.rows, geometry.pitch_bytes(e.lanes))
        self.y_bytes = geometry.step * geometry.y_strides[1] * ELEM_BYTES
        self.residual_bytes = geometry.step * geometry.residual_strides[1] * ELEM_BYTES

    def emit(self, tensors: Tensors, tile: Value, tiles: Value, channel_vector: Value, s: Value, buffer: Value) -> None:
        """One vector of columns: of `tile`, or of the tiles from `tile` on that share a vector."""
        if self.slots.tiles == 1:
            self._of_one(tensors, tile, channel_vector, s, buffer)
        else:
            self._of_several(tensors, tile, tiles, s, buffer)

    def _of_one(self, tensors: Tensors, tile: Value, channel_vector: Value, s: Value, buffer: Value) -> None:
        e, g = self.e, self.geometry
        _, first_row, first_column = self.split(tile)
        channel = e.mul(channel_vector, self.vector)
        rows = (
            e.minimum(g.columns.n, e.sub(g.q, first_column)) if g.is_line else e.minimum(g.m_h, e.sub(g.p, first_row))
        )
        with e.loop(0, rows, name="row") as i:
            row = self._row(tensors, tile, channel, i)
            # The lines that are written, while the row is transformed.
            _prefetch(e, row.y, self.y_bytes, 0, row.length)
            if self.epilogue.residual:
                _prefetch(e, row.residual, self.residual_bytes, 0, row.length)
            e.builder.call(self.function, [e.at(s, e.mul(i, 2 * self.vector)), buffer])
            bias = e.at(tensors.bias, channel) if self.epilogue.bias else tensors.bias
            self.over_counts(channel_vector, lambda count: self._store(row, bias, buffer, count, e.lanes))

    def _of_several(self, tensors: Tensors, tile: Value, tiles: Value, s: Value, buffer: Value) -> None:
        e, g, slot = self.e, self.geometry, self.slots.slot
        count = e.minimum(self.slots.tiles, e.sub(tiles, tile))
        with e.loop(0, g.columns.n if g.is_line else g.m_h, name="row") as i:
            e.builder.call(self.function, [e.at(s, e.mul(i, 2 * self.vector)), buffer])
            with e.loop(0, count, name="tile") as number:
                row = self._row(tensors, e.add(tile, number), e.index(0), i)
                here = e.at(buffer, e.mul(number, slot * ELEM_BYTES))
                self._store(row, tensors.bias, here, g.outputs, slot)

    def _row(self, tensors: Tensors, tile: Value, channel: Value, i: Value) -> OutputRow:
        """Row i of a tile, its channels from byte `channel` on."""
        e, g = self.e, self.geometry
        image, p, q = self.split(tile)
        length = e.minimum(g.m_w, e.sub(g.q, q))
        if g.is_line:
            q, length = e.add(q, i), _steps(e, e.sub(length, i), g.step)
        else:
            is_inside = e.builder.icmp_signed("<", i, e.sub(g.p, p))
            p, length = e.add(p, i), e.builder.select(is_inside, length, e.index(0))

        def pixel(base: Value, image_bytes: Value, strides: tuple[int, int]) -> Value:
            return e.at(base, e.add(e.add(e.mul(image, image_bytes), channel), _place(e, strides, p, q)))

        residual = tensors.residual
        if self.epilogue.residual:
            residual = pixel(residual, tensors.residual_image, g.residual_strides)
        return OutputRow(pixel(tensors.y, tensors.y_image, g.y_strides), residual, length)

    def _store(self, row: OutputRow, bias: Value, buffer: Value, count: int, lanes: int) -> None:
        """`count` channels of the outputs of a row."""
        e = self.e
        shift = e.load_vector(bias, 0, count, lanes) if self.epilogue.bias else None
        with e.loop(0, row.length, name="point") as j:
            value = e.load_vector(buffer, e.mul(j, self.vector), lanes=lanes)
            if shift is not None:
                value = e.builder.fadd(value, shift)
            where = e.mul(j, self.residual_bytes) if self.epilogue.residual else 0
            value = finish_vector(e, self.epilogue, value, row.residual, where, count)
            e.store_vector(value, row.y, e.mul(j, self.y_bytes), count)
