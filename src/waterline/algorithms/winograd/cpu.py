"""Winograd's kernels: a phase for all tiles, or all phases for a block of tiles or of filters."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from waterline.algorithms.winograd.emission import (
    ELEM_BYTES,
    LINE_ELEMS,
    Geometry,
    TileWalk,
    Variant,
    emit_filter_transform,
    emit_input_transform,
    emit_output_transform,
    filter_point_bytes,
)
from waterline.codegen.cpu.clock import PhaseClock
from waterline.codegen.cpu.emitter import CACHE_LINE_BYTES, I1, PTR, Emitter, Value
from waterline.codegen.cpu.gemm import GemmKernel, TileFunction
from waterline.codegen.cpu.kernel import Kernel
from waterline.spec import Epilogue

# What the kernels' clocks count.
FUSED_PHASES = ("input", "gemm", "output")
STREAMED_PHASES = ("filter", "gemm", "output")


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
class Target:
    """Where outputs go: the tensors' addresses and the bytes of an image."""

    bias: Value
    y: Value
    y_image: Value
    residual: Value
    residual_image: Value


@dataclass(frozen=True)
class PanelKernel(Kernel):
    """What kernels share that take a panel of outputs from the products to the pixels.

    `product` is the GEMM of one point: its depth is the channels, its columns the outputs. The products of a block of
    tiles with a panel lie in scratch memory, the points of a tile next to each other.
    """

    variant: Variant
    geometry: Geometry
    product: GemmKernel
    block_tiles: int
    epilogue: Epilogue

    def panel_stride(self, lanes: int) -> int:
        """Elements from tile to tile of a panel's products."""
        return self.variant.points * self.product.panel_columns(lanes) + LINE_ELEMS

    def products_bytes(self, lanes: int) -> int:
        return self.block_tiles * self.panel_stride(lanes) * ELEM_BYTES

    def last_columns(self, lanes: int) -> int:
        return self.product.columns - (self.product.panels(lanes) - 1) * self.product.panel_columns(lanes)

    def multiply(
        self,
        e: Emitter,
        tile: ir.Function,
        lines: int,
        rows: tuple[Value, int],
        weights: tuple[Value, int],
        m: Value,
        count: Value,
        ahead: Value,
        is_first: Value | None = None,
    ) -> None:
        """The products of all points of a block: m[tile, point, :] (+)= rows[tile, point] x weights[point].

        All chunks of the channels, one after the other for each point; with `is_first` a single one of them.

        Args:
            rows: address of the block in the transform domain, and bytes from point to point.
            weights: address of the panel, and bytes from point to point.
            ahead: what is asked for meanwhile, `lines` cache lines in each unrolled step.
            is_first: whether the chunk is the first.
        """
        product, lanes = self.product, e.lanes
        width = product.panel_columns(lanes)
        m_stride = self.panel_stride(lanes) * ELEM_BYTES
        null = ir.Constant(PTR, None)
        height = product.tile.rows
        pass_bytes = product.run_elems // min(product.tile.unroll, product.run_elems) * lines * CACHE_LINE_BYTES
        passes = e.div(e.add(count, height - 1), height)
        chunks = product.runs if is_first is None else 1
        chunk_bytes = weights[1] // product.runs
        assert self.block_tiles % height == 0, self
        with e.loop(0, self.variant.points, name="point") as point, e.loop(0, chunks, name="chunk") as chunk:
            panel = e.at(weights[0], e.add(e.mul(point, weights[1]), e.mul(chunk, chunk_bytes)))
            left = e.at(rows[0], e.add(e.mul(point, rows[1]), e.mul(chunk, product.run_elems * ELEM_BYTES)))
            target = e.at(m, e.mul(point, width * ELEM_BYTES))
            flags: list[Value] = []
            if product.is_chunked:
                is_start = e.builder.icmp_unsigned("==", chunk, e.index(0)) if is_first is None else is_first
                flags = [e.index(1), is_start, ir.Constant(I1, 0)]
            # Whole register tiles: rows behind the last tile hold older data, and nobody reads their products.
            with e.loop(0, passes, name="rows") as i:
                at = e.mul(i, height)
                source = e.at(left, e.mul(at, product.row_stride_elems * ELEM_BYTES))
                arguments = [source, null, null, panel, null, e.at(target, e.mul(at, m_stride)), null]
                if lines:
                    number = e.add(e.mul(e.add(e.mul(point, chunks), chunk), passes), i)
                    arguments.append(e.at(ahead, e.mul(number, pass_bytes)))
                e.builder.call(tile, arguments + flags)

    def finish(
        self,
        e: Emitter,
        walk: TileWalk,
        output: ir.Function,
        panel: Value,
        first: Value,
        count: Value,
        m: Value,
        t: Target,
    ) -> None:
        """The outputs of a panel for the tiles from `first` on."""
        channel = e.mul(panel, self.product.panel_columns(e.lanes) * ELEM_BYTES)
        bias = e.at(t.bias, channel) if self.epilogue.bias else t.bias
        residual = e.at(t.residual, channel) if self.epilogue.residual else t.residual
        y = e.at(t.y, channel)
        with e.loop(0, count, name="tile") as i:
            here = e.at(m, e.mul(i, self.panel_stride(e.lanes) * ELEM_BYTES))
            tile, has_residual = e.add(first, i), self.epilogue.residual
            walk.output(output, tile, here, bias, y, t.y_image, residual, t.residual_image, has_residual)

    def output_function(self, e: Emitter, columns: int) -> ir.Function:
        width = self.product.panel_columns(e.lanes)
        panel_bytes = self.variant.points * self.geometry.channels * width * ELEM_BYTES
        ahead = self.panel_stride(e.lanes) if panel_bytes > e.machine.l2_bytes // 4 else 0
        return emit_output_transform(e, self.variant, self.geometry, self.epilogue, columns, width, ahead)


@dataclass(frozen=True)
class FusedKernel(PanelKernel):
    """Items are blocks of `block_tiles` tiles: all three phases in the calling thread's second-level cache.

    A block's transformed input stays in scratch memory while panel after panel of outputs is multiplied and
    transformed back. With `prefetch_passes` of the product the weights of the next point are on their way meanwhile.
    Arguments: x, table, zero, panels, bias, y, residual, x/y/residual image bytes, number of tiles, clock.
    """

    def scratch_bytes(self, lanes: int) -> int:
        input_bytes = self.block_tiles * self.variant.tile_stride(self.geometry.channels) * ELEM_BYTES
        return input_bytes + self.products_bytes(lanes)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, variant, geometry, product = emitter, self.variant, self.geometry, self.product
        x, table, zero, panels, bias, y, residual = (e.load_pointer(args, 8 * i) for i in range(7))
        x_image, y_image, residual_image, tiles = (e.load_i64(args, 8 * i) for i in range(7, 11))
        clock = PhaseClock(e, e.load_pointer(args, 8 * 11))
        lanes, depth = e.lanes, geometry.channels
        width, count_panels, last = product.panel_columns(lanes), product.panels(lanes), self.last_columns(lanes)
        panel_bytes = variant.points * depth * width * ELEM_BYTES
        transform = emit_input_transform(e, variant, geometry)
        walk = TileWalk(e, variant, geometry)
        target = Target(bias, y, y_image, residual, residual_image)
        v_stride = variant.tile_stride(geometry.channels) * ELEM_BYTES
        m = e.at(scratch, self.block_tiles * v_stride)
        clock.start()
        with e.loop(begin, end, name="item") as item:
            first = e.mul(item, self.block_tiles)
            count = e.minimum(e.sub(tiles, first), self.block_tiles)
            with e.loop(0, count, name="tile") as i:
                walk.input(transform, e.add(first, i), x, x_image, table, zero, e.at(scratch, e.mul(i, v_stride)))
            clock.lap(0)
            groups = [(0, count_panels - 1, width)] if count_panels > 1 and last != width else []
            groups.append((count_panels - 1 if groups else 0, count_panels, last))
            for begin_panel, end_panel, columns in groups:
                vectors = -(-columns // lanes)
                stride = self.panel_stride(lanes)
                function = TileFunction(product, e, product.tile.rows, columns, vectors, y_stride_elems=stride)
                tile, output = function.emit(), self.output_function(e, columns)
                point_bytes = depth * vectors * lanes * ELEM_BYTES
                with e.loop(begin_panel, end_panel, name="panel") as panel:
                    weights = e.at(panels, e.mul(panel, panel_bytes))
                    rows = (scratch, depth * ELEM_BYTES)
                    following = e.at(weights, point_bytes)
                    self.multiply(e, tile, function.lines, rows, (weights, point_bytes), m, count, following)
                    clock.lap(1)
                    self.finish(e, walk, output, panel, first, count, m, target)
                    clock.lap(2)
        clock.flush()


@dataclass(frozen=True)
class StreamedKernel(PanelKernel):
    """Items are (panel, block of tiles): the filters come as they are and are transformed in the second-level cache.

    A chunk of channels at a time: the taps of a panel's filters become points in scratch memory, all tiles of the block
    are multiplied with them, and the next chunk's taps are on their way meanwhile. Then the panel is transformed back.
    The tiles' transformed input is in a workspace. For few tiles: of all orders this one moves the fewest weights.
    Arguments: v, taps, bias, y, residual, y/residual image bytes, first tile, number of tiles, clock.
    """

    prefetch_lines: int = 0

    def chunk_bytes(self, vectors: int, lanes: int) -> int:
        """Of a chunk's transformed filters."""
        return self.variant.points * filter_point_bytes(self.product.run_elems, vectors * lanes * ELEM_BYTES)

    def scratch_bytes(self, lanes: int) -> int:
        return self.products_bytes(lanes) + self.chunk_bytes(self.product.tile.vectors, lanes)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, variant, geometry, product = emitter, self.variant, self.geometry, self.product
        v, taps, bias, y, residual = (e.load_pointer(args, 8 * i) for i in range(5))
        y_image, residual_image, first_tile, tiles = (e.load_i64(args, 8 * i) for i in range(5, 9))
        clock = PhaseClock(e, e.load_pointer(args, 8 * 9))
        lanes, chunk_elems = e.lanes, product.run_elems
        width, count_panels, last = product.panel_columns(lanes), product.panels(lanes), self.last_columns(lanes)
        walk = TileWalk(e, variant, geometry)
        target = Target(bias, y, y_image, residual, residual_image)
        v_stride = variant.tile_stride(geometry.channels) * ELEM_BYTES
        m, u = scratch, e.at(scratch, self.products_bytes(lanes))
        blocks = e.div(e.add(tiles, self.block_tiles - 1), self.block_tiles)
        panel_bytes = geometry.channels * variant.r * variant.s * width * ELEM_BYTES

        def emit_panel(columns: int, panel: Value, first: Value, count: Value) -> None:
            vectors = -(-columns // lanes)
            stride, lines = self.panel_stride(lanes), self.prefetch_lines
            function = TileFunction(product, e, product.tile.rows, columns, vectors, y_stride_elems=stride, lines=lines)
            tile, output = function.emit(), self.output_function(e, columns)
            transform = emit_filter_transform(e, variant, chunk_elems, columns)
            row_bytes = vectors * lanes * ELEM_BYTES
            taps_bytes = chunk_elems * variant.r * variant.s * row_bytes
            source = e.at(taps, e.mul(panel, panel_bytes))
            block = e.at(v, e.mul(first, v_stride))
            with e.loop(0, product.runs, name="chunk") as i:
                here = e.at(source, e.mul(i, taps_bytes))
                e.builder.call(transform, [here, u])
                clock.lap(0)
                rows = (e.at(block, e.mul(i, chunk_elems * ELEM_BYTES)), geometry.channels * ELEM_BYTES)
                points = (u, filter_point_bytes(chunk_elems, row_bytes))
                is_first = e.builder.icmp_unsigned("==", i, e.index(0))
                self.multiply(e, tile, lines, rows, points, m, count, e.at(here, taps_bytes), is_first)
                clock.lap(1)
            self.finish(e, walk, output, panel, e.add(first_tile, first), count, m, target)
            clock.lap(2)

        clock.start()
        with e.loop(begin, end, name="item") as item:
            panel, first = e.builder.udiv(item, blocks), e.mul(e.builder.urem(item, blocks), self.block_tiles)
            count = e.minimum(e.sub(tiles, first), self.block_tiles)
            if count_panels == 1 or last == width:
                emit_panel(last, panel, first, count)
            else:
                is_last = e.builder.icmp_unsigned("==", panel, e.index(count_panels - 1))
                with e.builder.if_else(is_last) as (then, otherwise):
                    with then:
                        emit_panel(last, panel, first, count)
                    with otherwise:
                        emit_panel(width, panel, first, count)
        clock.flush()
