"""Emission of Winograd's three transforms: of a tile of the input, of filters, of a tile of products.

Tiles are numbered through the batch, row by row in each image. In the transform domain a tile is n_h * n_w *points* of
C (or K) channels each; tiles lie `tile_stride` elements apart, one cache line more than the points fill, so that the
rows of the products do not fall into the same cache sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from waterline.algorithms.winograd.transforms import Filtering, Matrix, filtering, program
from waterline.codegen.cpu.emitter import I32, I64, PTR, Emitter, Value
from waterline.codegen.cpu.epilogue import finish_vector, is_cheap
from waterline.spec import Epilogue

ELEM_BYTES = 4
LINE_ELEMS = 16


@dataclass(frozen=True)
class Variant:
    """F(m_h x m_w, r x s): outputs of a tile, taps of the filter and strides on both axes."""

    m_h: int
    m_w: int
    r: int
    s: int
    stride_h: int = 1
    stride_w: int = 1

    @property
    def rows(self) -> Filtering:
        return filtering(self.m_h, self.r, stride=self.stride_h)

    @property
    def columns(self) -> Filtering:
        return filtering(self.m_w, self.s, stride=self.stride_w)

    @property
    def pixels(self) -> int:
        """Of the input, that a tile sees."""
        return self.rows.inputs * self.columns.inputs

    @property
    def points(self) -> int:
        return self.rows.n * self.columns.n

    def tile_stride(self, channels: int) -> int:
        return self.points * channels + LINE_ELEMS


@dataclass(frozen=True)
class Geometry:
    """What the transforms need of the layer. Sizes of one image; strides in elements."""

    channels: int
    outputs: int
    p: int
    q: int
    x_strides: tuple[int, int]
    y_strides: tuple[int, int]
    residual_strides: tuple[int, int]

    def grid(self, variant: Variant) -> tuple[int, int]:
        """Tiles along the rows and along the columns of an image."""
        return -(-self.p // variant.m_h), -(-self.q // variant.m_w)


def apply_matrix(e: Emitter, matrix: Matrix, inputs: Sequence[Value]) -> list[Value]:
    """A constant matrix times a vector of vectors."""
    values = list(inputs)
    sums, rows = program(matrix)
    for step in sums:
        # Terms with coefficient 1 first, so that the others fold into multiply-adds.
        terms = sorted(step.terms, key=lambda term: (term[0] != 1, abs(term[0]) != 1))
        (first, at), *rest = terms
        total = values[at] if first == 1 else e.builder.fmul(values[at], e.splat(float(first)))
        for coefficient, index in rest:
            if coefficient == 1:
                total = e.builder.fadd(total, values[index])
            elif coefficient == -1:
                total = e.builder.fsub(total, values[index])
            else:
                total = e.multiply_add(values[index], e.splat(float(coefficient)), total)
        values.append(total)
    return [values[row] for row in rows]


def _both_axes(e: Emitter, rows: Matrix, columns: Matrix, grid: list[list[Value]]) -> list[list[Value]]:
    """rows x grid x columns^T."""
    by_column = [apply_matrix(e, rows, [line[j] for line in grid]) for j in range(len(grid[0]))]
    height = len(by_column[0])
    return [apply_matrix(e, columns, [column[i] for column in by_column]) for i in range(height)]


def emit_input_transform(entry: Emitter, variant: Variant, geometry: Geometry) -> ir.Function:
    """input(x image, table of this tile, zero row, v): the points of one tile of all channels.

    The table holds the element offset of every pixel that the tile reads, -1 where it is padding: the indirection
    buffer again.
    """
    name = f"{entry.function.name}_input"
    e = Emitter(entry.module, entry.machine, name, [PTR, PTR, PTR, PTR], internal=True, noinline=True)
    x, table, zero, v = e.arguments
    height, width = variant.rows.inputs, variant.columns.inputs
    pixels = e.stack(variant.pixels * 8)
    with e.loop(0, variant.pixels, name="pixel") as i:
        offset = e.load(table, I32, e.mul(i, 4), 4)
        inside = e.at(x, e.mul(e.builder.sext(offset, I64), ELEM_BYTES))
        outside = e.builder.icmp_signed("<", offset, ir.Constant(I32, 0))
        chosen = e.builder.ptrtoint(e.builder.select(outside, zero, inside), I64)
        e.store(chosen, pixels, e.mul(i, 8), 8)

    def transform(channel: Value, count: int | None) -> None:
        at = e.mul(channel, ELEM_BYTES)
        grid = []
        for i in range(height):
            line = []
            for j in range(width):
                pixel = e.builder.inttoptr(e.load_i64(pixels, (i * width + j) * 8), PTR)
                line.append(e.load_vector(pixel, at, count))
            grid.append(line)
        for i, line in enumerate(_both_axes(e, variant.rows.b, variant.columns.b, grid)):
            for j, value in enumerate(line):
                point = (i * variant.columns.n + j) * geometry.channels * ELEM_BYTES
                e.store_vector(value, v, e.add(at, point), count)

    _over_channels(e, geometry.channels, transform)
    e.finish()
    return e.function


def _over_channels(e: Emitter, channels: int, body: Callable[[Value, int | None], None]) -> None:
    """`body(first channel, count)` for every vector of channels; the last one may be partial (count is not None)."""
    full = channels - channels % e.lanes
    if full:
        with e.loop(0, full, e.lanes, name="channel") as channel:
            body(channel, None)
    if channels % e.lanes:
        body(e.index(full), channels % e.lanes)


def filter_point_bytes(channels: int, row_bytes: int) -> int:
    """Distance of the points of transformed filters: a line more than they fill, for they are written side by side."""
    return channels * row_bytes + LINE_ELEMS * ELEM_BYTES


def emit_filter_transform(entry: Emitter, variant: Variant, channels: int, columns: int) -> ir.Function:
    """filter(raw, u): the points of `channels` channels of a panel of `columns` filters.

    raw: for each channel, for each tap a row of whole vectors of filters. u: for each point, for each channel such a
    row, as the products read them; points lie `filter_point_bytes` apart.
    """
    name = f"{entry.function.name}_filter{columns}"
    e = Emitter(entry.module, entry.machine, name, [PTR, PTR], internal=True, noinline=True)
    raw, u = e.arguments
    row_bytes = -(-columns // e.lanes) * e.lanes * ELEM_BYTES
    with e.loop(0, channels, name="channel") as channel:
        source = e.at(raw, e.mul(channel, variant.r * variant.s * row_bytes))
        target = e.at(u, e.mul(channel, row_bytes))
        with e.loop(0, row_bytes, e.lanes * ELEM_BYTES, name="filters") as at:
            grid = [
                [e.load_vector(source, e.add(at, (i * variant.s + j) * row_bytes)) for j in range(variant.s)]
                for i in range(variant.r)
            ]
            for i, line in enumerate(_both_axes(e, variant.rows.g, variant.columns.g, grid)):
                for j, value in enumerate(line):
                    point = i * variant.columns.n + j
                    e.store_vector(value, target, e.add(at, point * filter_point_bytes(channels, row_bytes)))
    e.finish()
    return e.function


def emit_output_transform(
    entry: Emitter,
    variant: Variant,
    geometry: Geometry,
    epilogue: Epilogue,
    columns: int,
    point_stride: int,
    ahead_elems: int = 0,
) -> ir.Function:
    """output(m, bias, y tile, residual tile, valid rows, valid columns): `columns` outputs of one tile.

    The next tile's products, `ahead_elems` further on, are asked for meanwhile (0: they are near anyway).
    """
    name = f"{entry.function.name}_output{columns}"
    e = Emitter(entry.module, entry.machine, name, [PTR, PTR, PTR, PTR, I64, I64], internal=True, noinline=True)
    m, bias, y, residual, valid_rows, valid_columns = e.arguments
    height, width = variant.rows.n, variant.columns.n
    vector_bytes = e.lanes * ELEM_BYTES
    rest = e.stack(variant.m_h * variant.m_w * vector_bytes)

    def finish(value: Value, at: Value, i: Value | int, j: Value | int, count: int | None) -> None:
        where = _tile_offset(e, geometry.residual_strides, i, j, at) if epilogue.residual else 0
        value = finish_vector(e, epilogue, value, residual, where, count or e.lanes)
        e.store_vector(value, y, _tile_offset(e, geometry.y_strides, i, j, at), count)

    def transform(channel: Value, count: int | None) -> None:
        at = e.mul(channel, ELEM_BYTES)
        # The lines are asked for together: stores would wait for them one after the other.
        for i in range(variant.m_h):
            for j in range(variant.m_w):
                e.prefetch(y, _tile_offset(e, geometry.y_strides, i, j, at), to_write=True)
        if ahead_elems:
            for point in range(variant.points):
                e.prefetch(m, e.add(at, (point * point_stride + ahead_elems) * ELEM_BYTES))
        grid = [
            [e.load_vector(m, e.add(at, (i * width + j) * point_stride * ELEM_BYTES)) for j in range(width)]
            for i in range(height)
        ]
        lines = _both_axes(e, variant.rows.a, variant.columns.a, grid)
        if epilogue.bias:
            shift = e.load_vector(bias, at, count)
            lines = [[e.builder.fadd(value, shift) for value in line] for line in lines]
        full = e.builder.and_(
            e.builder.icmp_signed("==", valid_rows, e.index(variant.m_h)),
            e.builder.icmp_signed("==", valid_columns, e.index(variant.m_w)),
        )
        if is_cheap(epilogue):
            with e.builder.if_else(full) as (whole, part):
                with whole:
                    for i, line in enumerate(lines):
                        for j, value in enumerate(line):
                            finish(value, at, i, j, count)
                with part:
                    _rest(lines)
                    _finish_valid(at, count)
        else:
            _rest(lines)
            _finish_valid(at, count)

    def _rest(lines: list[list[Value]]) -> None:
        for i, line in enumerate(lines):
            for j, value in enumerate(line):
                e.store(value, rest, (i * variant.m_w + j) * vector_bytes, vector_bytes)

    def _finish_valid(at: Value, count: int | None) -> None:
        with e.loop(0, valid_rows, name="row") as i, e.loop(0, valid_columns, name="column") as j:
            value = e.load_vector(rest, e.mul(e.add(e.mul(i, variant.m_w), j), vector_bytes))
            finish(value, at, i, j, count)

    _over_channels(e, columns, transform)
    e.finish()
    return e.function


def _tile_offset(e: Emitter, strides: tuple[int, int], i: Value | int, j: Value | int, at: Value) -> Value:
    rows, columns = e.mul(i, strides[0] * ELEM_BYTES), e.mul(j, strides[1] * ELEM_BYTES)
    return e.add(at, e.add(rows, columns))


class TileWalk:
    """Where a tile's data is: shared by the kernels that go through tiles."""

    def __init__(self, e: Emitter, variant: Variant, geometry: Geometry) -> None:
        self.e, self.variant, self.geometry = e, variant, geometry
        self.grid = geometry.grid(variant)

    def split(self, tile: Value) -> tuple[Value, Value]:
        """(image, tile of the image)."""
        count = self.grid[0] * self.grid[1]
        return self.e.div(tile, count), self.e.mod(tile, count)

    def input(
        self, function: ir.Function, tile: Value, x: Value, x_image: Value, table: Value, zero: Value, v: Value
    ) -> None:
        e = self.e
        image, here = self.split(tile)
        source = e.at(x, e.mul(image, x_image))
        e.builder.call(function, [source, e.at(table, e.mul(here, self.variant.pixels * 4)), zero, v])

    def output(
        self,
        function: ir.Function,
        tile: Value,
        m: Value,
        bias: Value,
        y: Value,
        y_image: Value,
        residual: Value,
        residual_image: Value,
        has_residual: bool,
    ) -> None:
        e, variant, geometry = self.e, self.variant, self.geometry
        image, here = self.split(tile)
        i, j = e.div(here, self.grid[1]), e.mod(here, self.grid[1])
        first_row, first_column = e.mul(i, variant.m_h), e.mul(j, variant.m_w)
        target = e.at(
            e.at(y, e.mul(image, y_image)), _tile_offset(e, geometry.y_strides, first_row, first_column, e.index(0))
        )
        added = residual
        if has_residual:
            at = _tile_offset(e, geometry.residual_strides, first_row, first_column, e.index(0))
            added = e.at(e.at(residual, e.mul(image, residual_image)), at)
        rows = e.minimum(e.sub(geometry.p, first_row), variant.m_h)
        columns = e.minimum(e.sub(geometry.q, first_column), variant.m_w)
        e.builder.call(function, [m, bias, target, added, rows, columns])
