"""Emission of a tile's way from pixels to half-transformed rows, and from there to outputs.

Layouts: see `waterline.algorithms.fft.geometry`.
"""

from __future__ import annotations

from collections.abc import Callable

from waterline.algorithms.fft.geometry import ELEM_BYTES, Geometry, Slots
from waterline.algorithms.fft.transforms import emit_rows, emit_rows_back
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.epilogue import finish_vector
from waterline.spec import Epilogue


def _place(e: Emitter, strides: tuple[int, int], row: Value | int, column: Value | int) -> Value:
    return e.add(e.mul(row, strides[0] * ELEM_BYTES), e.mul(column, strides[1] * ELEM_BYTES))


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
        with e.loop(0, g.columns.n, name="row") as i:
            target = e.at(s, e.mul(i, 2 * self.vector))
            is_inside, y, x = self._row(first_row, first_column, i)
            with e.builder.if_else(is_inside) as (then, otherwise):
                with then:
                    first, last = self._inside(x)
                    pixel = e.at(base, _place(e, g.x_strides, y, x))
                    is_whole = e.builder.and_(
                        e.builder.icmp_signed("==", first, e.index(0)),
                        e.builder.icmp_signed("==", last, e.index(g.rows.n)),
                    )

                    def load(
                        count: int,
                        pixel: Value = pixel,
                        first: Value = first,
                        last: Value = last,
                        is_whole: Value = is_whole,
                        target: Value = target,
                    ) -> None:
                        if count < e.lanes:
                            self._gather(pixel, point_bytes, first, last, count, buffer)
                            e.builder.call(self.function, [buffer, e.index(self.vector), target])
                            return
                        with e.builder.if_else(is_whole) as (whole, part):
                            with whole:
                                e.builder.call(self.function, [pixel, e.index(point_bytes), target])
                            with part:
                                self._gather(pixel, point_bytes, first, last, count, buffer)
                                e.builder.call(self.function, [buffer, e.index(self.vector), target])

                    self.over_counts(channel_vector, load)
                with otherwise, e.loop(0, g.rows.count, name="frequency") as j:
                    at = e.at(target, e.mul(j, self.pitch))
                    e.store_vector(e.splat(0.0), at)
                    e.store_vector(e.splat(0.0), at, self.vector)

    def _gather(self, pixel: Value, point_bytes: int, first: Value, last: Value, count: int, buffer: Value) -> None:
        """The points of a row side by side in the buffer, zeros outside first .. last."""
        e, n = self.e, self.geometry.rows.n
        for begin, end in ((0, first), (last, n)):
            with e.loop(begin, end, name="zero") as j:
                e.store_vector(e.splat(0.0), buffer, e.mul(j, self.vector))
        with e.loop(first, last, name="point") as j:
            e.store_vector(e.load_vector(pixel, e.mul(j, point_bytes), count), buffer, e.mul(j, self.vector))

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


class OutputStage(_Stage):
    """S -> rows of pixels, with the epilogue."""

    def __init__(self, e: Emitter, geometry: Geometry, epilogue: Epilogue) -> None:
        super().__init__(e, geometry, geometry.outputs)
        self.epilogue = epilogue
        self.function = emit_rows_back(e, geometry.rows, geometry.pitch_bytes(e.lanes))

    def emit(
        self,
        tensors: tuple[Value, Value, Value],
        image_bytes: tuple[Value, Value],
        tile: Value,
        tiles: Value,
        channel_vector: Value,
        s: Value,
        buffer: Value,
    ) -> None:
        """One vector of columns. `tensors` are bias, y and residual; `image_bytes` of y and of the residual."""
        e, g = self.e, self.geometry
        several = self.slots.tiles > 1
        count = e.minimum(self.slots.tiles, e.sub(tiles, tile))
        rows = g.columns.n if g.is_line else g.m_h
        if not several:
            _, first_row, first_column = self.split(tile)
            left = e.sub(g.q, first_column) if g.is_line else e.sub(g.p, first_row)
            rows = e.minimum(rows, left)
        with e.loop(0, rows, name="row") as i:
            e.builder.call(self.function, [e.at(s, e.mul(i, 2 * self.vector)), buffer])
            if several:
                with e.loop(0, count, name="tile") as number:
                    here = e.at(buffer, e.mul(number, self.slots.slot * ELEM_BYTES))
                    place = (e.add(tile, number), e.index(0), i)
                    self._store(tensors, image_bytes, place, here, g.outputs, self.slots.slot)
            else:
                place = (tile, e.mul(channel_vector, self.vector), i)
                self.over_counts(
                    channel_vector,
                    lambda count: self._store(tensors, image_bytes, place, buffer, count, e.lanes),
                )

    def _store(
        self,
        tensors: tuple[Value, Value, Value],
        image_bytes: tuple[Value, Value],
        place: tuple[Value, Value, Value],
        buffer: Value,
        count: int,
        lanes: int,
    ) -> None:
        """The outputs of a row: `count` channels. `place` is (tile, bytes before the first channel, row)."""
        e, g = self.e, self.geometry
        tile, channel, i = place
        bias, y, residual = tensors
        image, p, q = self.split(tile)
        if g.is_line:
            q = e.add(q, i)
            length = _steps(e, e.sub(e.minimum(g.m_w, e.sub(g.q, self.split(tile)[2])), i), g.step)
        else:
            length = e.minimum(g.m_w, e.sub(g.q, q))
            rows = e.sub(g.p, p)
            length = e.builder.select(e.builder.icmp_signed("<", i, rows), length, e.index(0))
            p = e.add(p, i)
        target = e.at(y, e.add(e.add(e.mul(image, image_bytes[0]), channel), _place(e, g.y_strides, p, q)))
        added = residual
        if self.epilogue.residual:
            place = e.add(e.add(e.mul(image, image_bytes[1]), channel), _place(e, g.residual_strides, p, q))
            added = e.at(residual, place)
        shift = e.load_vector(bias, channel, count, lanes) if self.epilogue.bias else None
        with e.loop(0, length, name="point") as j:
            value = e.load_vector(buffer, e.mul(j, self.vector), lanes=lanes)
            if shift is not None:
                value = e.builder.fadd(value, shift)
            where = e.mul(j, g.step * g.residual_strides[1] * ELEM_BYTES) if self.epilogue.residual else 0
            value = finish_vector(e, self.epilogue, value, added, where, count)
            e.store_vector(value, target, e.mul(j, g.step * g.y_strides[1] * ELEM_BYTES), count)
