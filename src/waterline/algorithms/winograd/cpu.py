"""Emission of Winograd's kernels: input transform, output transform, and the whole layer block by block.

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
from waterline.codegen.cpu.gemm import GemmKernel, TileFunction
from waterline.codegen.cpu.kernel import Kernel
from waterline.spec import Epilogue

ELEM_BYTES = 4
LINE_ELEMS = 16


@dataclass(frozen=True)
class Variant:
    """F(m_h x m_w, r x s): outputs of a tile and taps of the filter on both axes."""

    m_h: int
    m_w: int
    r: int
    s: int

    @property
    def rows(self) -> Filtering:
        return filtering(self.m_h, self.r)

    @property
    def columns(self) -> Filtering:
        return filtering(self.m_w, self.s)

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
    height, width = variant.rows.n, variant.columns.n
    pixels = e.stack(variant.points * 8)
    with e.loop(0, variant.points, name="pixel") as i:
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
                point = (i * width + j) * geometry.channels * ELEM_BYTES
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


def emit_output_transform(
    entry: Emitter, variant: Variant, geometry: Geometry, epilogue: Epilogue, columns: int, point_stride: int
) -> ir.Function:
    """output(m, bias, y tile, residual tile, valid rows, valid columns): `columns` outputs of one tile."""
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
        e.builder.call(function, [source, e.at(table, e.mul(here, self.variant.points * 4)), zero, v])

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


@dataclass(frozen=True)
class InputTransformKernel(Kernel):
    """Items are tiles from number `first` on. Arguments: x, table, zero, v, x image bytes, first."""

    variant: Variant
    geometry: Geometry

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        x, table, zero, v = (e.load_pointer(args, 8 * i) for i in range(4))
        x_image, first = (e.load_i64(args, 8 * i) for i in (4, 5))
        function = emit_input_transform(e, self.variant, self.geometry)
        walk = TileWalk(e, self.variant, self.geometry)
        stride = self.variant.tile_stride(self.geometry.channels) * ELEM_BYTES
        with e.loop(begin, end, name="item") as item:
            walk.input(function, e.add(first, item), x, x_image, table, zero, e.at(v, e.mul(item, stride)))


@dataclass(frozen=True)
class OutputTransformKernel(Kernel):
    """Items are tiles. Arguments: m, bias, y, residual, y image bytes, residual image bytes, first tile."""

    variant: Variant
    geometry: Geometry
    epilogue: Epilogue

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        m, bias, y, residual = (e.load_pointer(args, 8 * i) for i in range(4))
        y_image, residual_image, first = (e.load_i64(args, 8 * i) for i in (4, 5, 6))
        outputs = self.geometry.outputs
        function = emit_output_transform(e, self.variant, self.geometry, self.epilogue, outputs, outputs)
        walk = TileWalk(e, self.variant, self.geometry)
        stride = self.variant.tile_stride(outputs) * ELEM_BYTES
        with e.loop(begin, end, name="item") as item:
            here, tile = e.at(m, e.mul(item, stride)), e.add(first, item)
            walk.output(function, tile, here, bias, y, y_image, residual, residual_image, self.epilogue.residual)


@dataclass(frozen=True)
class FusedKernel(Kernel):
    """Items are blocks of `block_tiles` tiles: all three phases in the calling thread's second-level cache.

    A block's transformed input stays in scratch memory while panel after panel of outputs is multiplied and
    transformed back. `product` is the GEMM of the points: its groups are the points.
    Arguments: x, table, zero, panels, bias, y, residual, x/y/residual image bytes, number of tiles.
    """

    variant: Variant
    geometry: Geometry
    product: GemmKernel
    block_tiles: int
    epilogue: Epilogue

    def panel_stride(self, lanes: int) -> int:
        """Elements from tile to tile of a panel's products."""
        return self.variant.points * self.product.panel_columns(lanes) + LINE_ELEMS

    def scratch_bytes(self, lanes: int) -> int:
        return (
            self.block_tiles
            * (self.variant.tile_stride(self.geometry.channels) + self.panel_stride(lanes))
            * ELEM_BYTES
        )

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, variant, geometry, product = emitter, self.variant, self.geometry, self.product
        x, table, zero, panels, bias, y, residual = (e.load_pointer(args, 8 * i) for i in range(7))
        x_image, y_image, residual_image, tiles = (e.load_i64(args, 8 * i) for i in range(7, 11))
        width = product.panel_columns(e.lanes)
        panel_count = product.panels(e.lanes)
        last_columns = product.columns - (panel_count - 1) * width
        transform = emit_input_transform(e, variant, geometry)
        walk = TileWalk(e, variant, geometry)
        v = scratch
        v_stride = variant.tile_stride(geometry.channels) * ELEM_BYTES
        m = e.at(scratch, self.block_tiles * v_stride)
        with e.loop(begin, end, name="item") as item:
            first = e.mul(item, self.block_tiles)
            count = e.minimum(e.sub(tiles, first), self.block_tiles)
            with e.loop(0, count, name="tile") as i:
                walk.input(transform, e.add(first, i), x, x_image, table, zero, e.at(v, e.mul(i, v_stride)))
            groups = [(0, panel_count - 1, width)] if panel_count > 1 and last_columns != width else []
            groups.append((panel_count - 1 if groups else 0, panel_count, last_columns))
            for begin_panel, end_panel, columns in groups:
                vectors = -(-columns // e.lanes)
                y_stride = self.panel_stride(e.lanes)
                tile = TileFunction(product, e, product.tile.rows, columns, vectors, y_stride_elems=y_stride).emit()
                output = emit_output_transform(e, variant, geometry, self.epilogue, columns, width)
                with e.loop(begin_panel, end_panel, name="panel") as panel:
                    self._multiply(e, tile, panel, panels, v, m, count)
                    channel = e.mul(panel, width * ELEM_BYTES)
                    with e.loop(0, count, name="tile") as i:
                        walk.output(
                            output,
                            e.add(first, i),
                            e.at(m, e.mul(i, self.panel_stride(e.lanes) * ELEM_BYTES)),
                            e.at(bias, channel) if self.epilogue.bias else bias,
                            e.at(y, channel),
                            y_image,
                            e.at(residual, channel) if self.epilogue.residual else residual,
                            residual_image,
                            self.epilogue.residual,
                        )

    def _multiply(
        self, e: Emitter, tile: ir.Function, panel: Value, panels: Value, v: Value, m: Value, count: Value
    ) -> None:
        """All points of a panel: m[tile, point, :] = v[tile, point, :] x weights[point, :, panel]."""
        product = self.product
        lanes, width = e.lanes, product.panel_columns(e.lanes)
        depth = product.run_elems
        point_weights = -(-product.columns // lanes) * lanes * depth * ELEM_BYTES
        m_stride = self.panel_stride(lanes) * ELEM_BYTES
        null = ir.Constant(PTR, None)
        assert self.block_tiles % product.tile.rows == 0, self
        with e.loop(0, product.groups, name="point") as point:
            weights = e.at(panels, e.add(e.mul(point, point_weights), e.mul(panel, width * depth * ELEM_BYTES)))
            left = e.at(v, e.mul(point, depth * ELEM_BYTES))
            target = e.at(m, e.mul(point, width * ELEM_BYTES))
            # Whole register tiles: rows behind the last tile hold older data, and nobody reads their products.
            with e.loop(0, e.div(e.add(count, product.tile.rows - 1), product.tile.rows), name="rows") as i:
                at = e.mul(i, product.tile.rows)
                source = e.at(left, e.mul(at, product.row_stride_elems * ELEM_BYTES))
                result = e.at(target, e.mul(at, m_stride))
                e.builder.call(tile, [source, null, null, weights, null, result, null])
