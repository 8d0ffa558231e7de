"""Matrix product on register tiles: the kernel under every algorithm that ends in a GEMM.

`y[row, k] = epilogue(sum_d a[row, d] * w[d, k])`, where the sum runs over `runs` runs of `run` contiguous elements.
The rows of `a` lie at a constant distance (`row_stride_elems`) or where a table says, one offset a row and run: that
table is the indirection buffer of Dukhan (2019), and the only difference between GEMM and indirect convolution.

Packed operand (`pack_panels`): panels of `tile.vectors` vectors of columns, each read front to back; the last panel is
as wide as what is left, rounded up to whole vectors.

Numerics: each element is one chain of multiply-adds in the order of d and then the bias, whatever the tile; so
results depend neither on the blocking nor on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from waterline.codegen.cpu import epilogue
from waterline.codegen.cpu.emitter import CACHE_LINE_BYTES, F32, I1, I32, I64, PTR, Emitter, Value
from waterline.codegen.cpu.kernel import Kernel
from waterline.codegen.cpu.memory import aligned_zeros
from waterline.machine import Machine
from waterline.spec import Epilogue

ELEM_BYTES = 4

# What a load beside multiply-adds costs, from the first-level cache. (With all data there, tiles of 6x4, 8x3, 12x2 and
# 24x1 reached 91, 91, 87 and 79 % of a loop on registers alone.)
LOAD_CYCLES = 0.125


@dataclass(frozen=True)
class Tile:
    """What one register operation covers: `rows` x `vectors` accumulators; the depth loop is unrolled."""

    rows: int
    vectors: int
    unroll: int = 2

    def cycles_per_depth(self, machine: Machine) -> float:
        """Cycles of one step of depth: multiply-adds, loads (two a cycle), and the latency of too few chains.

        Loads cost something although they have ports of their own: tiles of fewer loads are faster.
        """
        accumulators = self.rows * self.vectors
        arithmetic = accumulators / machine.multiply_adds_per_cycle
        loads = self.rows + self.vectors
        return max(arithmetic, loads / 2, float(machine.fma_latency)) + LOAD_CYCLES * loads


# Words of the argument array.
X, TABLE, ZERO, PANELS, BIAS, Y, RESIDUAL, IMAGES, ROWS, BLOCKS, X_IMAGE, Y_IMAGE, RESIDUAL_IMAGE = range(13)


@dataclass(frozen=True)
class GemmKernel(Kernel):
    """The kernel. Items are (image, block of rows, panel) or, with `panel_outer`, (panel, image, block of rows).

    With `group_images` the latter are so for a group of images after the other.

    Attributes:
        runs, run_elems: the depth of the product is runs x run_elems.
        columns: outputs of one group. groups: independent products side by side; group g reads at g * run_elems.
        tile: main tile. tails: tile heights for the rows that are left, tallest first.
        block_tiles: main tiles in a block of rows.
        row_stride_elems: distance of rows of `a`; 0 where the table gives them. Rows of one run are contiguous.
        y_stride_elems, residual_stride_elems: distance of rows of the output and of the residual.
        chunk_runs: runs that all rows of a block pass through before the next runs; 0: all. Between chunks the sums
            rest in y. So weights that come from far are used from the second-level cache by all rows but the first.
        prefetch_passes: over how many tiles of rows the request for the next chunk of weights is spread, so that it
            arrives evenly while this one is multiplied; 0: weights are not asked for ahead of their use.
        group_elems: distance of the rows of neighbouring groups; 0: run_elems.
        adds_chunks: each chunk is summed by itself and added to what rests in y, instead of going on with its sums:
            shorter chains of roundings.
        group_images: with `panel_outer`, images that all panels pass over before the next ones; 0: all images.
        near_bytes: how far ahead of its use a panel is asked for, into the first-level cache; 0: not.
    """

    runs: int
    run_elems: int
    columns: int
    groups: int
    tile: Tile
    tails: tuple[int, ...]
    block_tiles: int
    panel_outer: bool
    row_stride_elems: int
    y_stride_elems: int
    residual_stride_elems: int
    epilogue: Epilogue
    chunk_runs: int = 0
    prefetch_passes: int = 0
    group_elems: int = 0
    adds_chunks: bool = False
    near_bytes: int = 0
    group_images: int = 0

    @property
    def has_table(self) -> bool:
        return self.row_stride_elems == 0

    @property
    def is_chunked(self) -> bool:
        """Whether the sums of a tile rest in y between chunks of the depth."""
        return 0 < self.chunk_runs < self.runs

    def prefetch_lines(self, vectors: int, vector_bytes: int) -> int:
        """Cache lines that a tile asks for in each unrolled step, a panel being `vectors` wide."""
        if not self.prefetch_passes:
            return 0
        step_bytes = min(self.tile.unroll, self.run_elems) * vectors * vector_bytes
        return -(-step_bytes // (CACHE_LINE_BYTES * self.prefetch_passes))

    # ---- panels -------------------------------------------------------------------------------------------------
    def panel_columns(self, lanes: int) -> int:
        return self.tile.vectors * lanes

    def panels(self, lanes: int) -> int:
        """Panels of one group."""
        return -(-self.columns // self.panel_columns(lanes))

    # ---- emission -----------------------------------------------------------------------------------------------
    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e, lanes = emitter, emitter.lanes
        width = self.panel_columns(lanes)
        panels = self.panels(lanes)
        last_columns = self.columns - (panels - 1) * width
        kinds = {width: self.tile.vectors}  # columns of a panel -> its vectors
        kinds[last_columns] = -(-last_columns // lanes)
        heights = (self.tile.rows, *self.tails)
        if panels == 1:
            kinds = {last_columns: kinds[last_columns]}
        tiles = {
            (rows, columns): TileFunction(self, e, rows, columns, vectors).emit()
            for columns, vectors in kinds.items()
            for rows in dict.fromkeys(heights)
        }

        words = {i: (e.load_pointer if i <= RESIDUAL else e.load_i64)(args, i * 8) for i in range(RESIDUAL_IMAGE + 1)}
        depth = self.runs * self.run_elems
        group_bytes = ((panels - 1) * width + -(-last_columns // lanes) * lanes) * depth * ELEM_BYTES
        with e.loop(begin, end, name="item") as item:
            if self.panel_outer:
                panel_index, image, block = self._panel_outer_item(e, item, words[IMAGES], words[BLOCKS])
            else:
                panel_index = e.mod(item, self.groups * panels)
                rest = e.div(item, self.groups * panels)
                block = e.builder.urem(rest, words[BLOCKS])
                image = e.builder.udiv(rest, words[BLOCKS])
            group = e.div(panel_index, panels)
            panel = e.mod(panel_index, panels)
            column = e.add(e.mul(group, self.columns), e.mul(panel, width))
            x = e.at(
                words[X],
                e.add(e.mul(image, words[X_IMAGE]), e.mul(group, (self.group_elems or self.run_elems) * ELEM_BYTES)),
            )
            weights = e.at(words[PANELS], e.add(e.mul(group, group_bytes), e.mul(panel, width * depth * ELEM_BYTES)))
            bias = e.at(words[BIAS], e.mul(column, ELEM_BYTES)) if self.epilogue.bias else words[BIAS]
            y = e.at(words[Y], e.add(e.mul(image, words[Y_IMAGE]), e.mul(column, ELEM_BYTES)))
            residual = words[RESIDUAL]
            if self.epilogue.residual:
                residual = e.at(residual, e.add(e.mul(image, words[RESIDUAL_IMAGE]), e.mul(column, ELEM_BYTES)))
            part = Part(tiles, words, block, bias, y, residual)
            if len(kinds) == 1:
                self._emit_rows(e, part, next(iter(kinds)), x, weights)
            else:
                is_last = e.builder.icmp_unsigned("==", panel, e.index(panels - 1))
                with e.builder.if_else(is_last) as (then, otherwise):
                    with then:
                        self._emit_rows(e, part, last_columns, x, weights)
                    with otherwise:
                        self._emit_rows(e, part, width, x, weights)

    def _panel_outer_item(self, e: Emitter, item: Value, images: Value, blocks: Value) -> tuple[Value, Value, Value]:
        """Panel, image and block of rows of an item: panels are the outer loop of each group of images."""
        b, first = e.builder, e.index(0)
        if self.group_images:
            whole = b.mul(blocks, e.index(self.group_images * self.groups * self.panels(e.lanes)))
            first = e.mul(b.udiv(item, whole), self.group_images)
            item = b.urem(item, whole)
            images = e.minimum(self.group_images, e.sub(images, first))  # the last group may be smaller
        rest = b.udiv(item, blocks)
        return b.udiv(rest, images), e.add(first, b.urem(rest, images)), b.urem(item, blocks)

    def _emit_rows(self, e: Emitter, part: Part, columns: int, x: Value, weights: Value) -> None:
        """All rows of a block, chunk of depth by chunk of depth."""
        table, vectors = part.words[TABLE], -(-columns // e.lanes)
        if not self.is_chunked:
            self._emit_chunk(e, part, columns, Chunk(weights, table, x, None, None, None))
            return
        chunks = -(-self.runs // self.chunk_runs)
        with e.loop(0, chunks, name="chunk") as i:
            run = e.mul(i, self.chunk_runs)
            chunk = Chunk(
                weights=e.at(weights, e.mul(run, self.run_elems * vectors * e.lanes * ELEM_BYTES)),
                table=table,
                x=x if self.has_table else e.at(x, e.mul(run, self.run_elems * ELEM_BYTES)),
                run=run,
                runs=e.minimum(self.chunk_runs, e.sub(self.runs, run)),
                is_last=e.builder.icmp_unsigned("==", i, e.index(chunks - 1)),
            )
            self._emit_chunk(e, part, columns, chunk)

    def _emit_chunk(self, e: Emitter, part: Part, columns: int, chunk: Chunk) -> None:
        """The main tiles of a block of rows and, in the last block, the rows that are left."""
        vectors = -(-columns // e.lanes)
        lines = self.prefetch_lines(vectors, e.machine.vector_bytes)
        chunk_elems = (self.chunk_runs if self.is_chunked else self.runs) * self.run_elems
        pass_bytes = chunk_elems // min(self.tile.unroll, self.run_elems) * lines * CACHE_LINE_BYTES
        following = e.at(chunk.weights, chunk_elems * vectors * e.lanes * ELEM_BYTES)

        def call(height: int, row: Value, number: Value) -> None:
            data, table = chunk.x, chunk.table
            if self.has_table:
                table = e.at(table, e.mul(row, self.runs * 4))
                if chunk.run is not None:
                    table = e.at(table, e.mul(chunk.run, height * 4))
            else:
                data = e.at(data, e.mul(row, self.row_stride_elems * ELEM_BYTES))
            out = e.at(part.y, e.mul(row, self.y_stride_elems * ELEM_BYTES))
            added = part.residual
            if self.epilogue.residual:
                added = e.at(added, e.mul(row, self.residual_stride_elems * ELEM_BYTES))
            arguments = [data, table, words[ZERO], chunk.weights, part.bias, out, added]
            if lines:
                arguments.append(e.at(following, e.mul(number, pass_bytes)))
            if self.is_chunked:
                arguments += [chunk.runs, e.builder.icmp_unsigned("==", chunk.run, e.index(0)), chunk.is_last]
            e.builder.call(part.tiles[height, columns], arguments)

        main, words, block = self.tile.rows, part.words, part.block
        full = e.div(words[ROWS], main)
        first = e.mul(block, self.block_tiles)
        last = e.minimum(full, e.add(first, self.block_tiles))
        with e.loop(first, last, name="tile") as tile:
            call(main, e.mul(tile, main), e.sub(tile, first))
        if not self.tails:
            return
        with e.when(e.builder.icmp_unsigned("==", e.add(block, 1), words[BLOCKS])):
            row = e.mul(full, main)
            for height in self.tails:
                count = e.div(e.sub(words[ROWS], row), height)
                with e.loop(0, count, name="tail") as i:
                    call(height, e.add(row, e.mul(i, height)), e.sub(last, first))
                row = e.add(row, e.mul(count, height))


@dataclass(frozen=True)
class Part:
    """One item: a block of rows against a panel.

    Attributes:
        tiles: the functions by rows and columns. words: the arguments. block: number of the block.
        bias, y, residual: of the panel's first column; y and residual of the image's first row.
    """

    tiles: dict[tuple[int, int], ir.Function]
    words: dict[int, Value]
    block: Value
    bias: Value
    y: Value
    residual: Value


@dataclass(frozen=True)
class Chunk:
    """Where a chunk of the depth begins: its weights, the table, the rows; and of all runs its first and how many."""

    weights: Value
    table: Value
    x: Value
    run: Value
    runs: Value
    is_last: Value


class TileFunction:
    """The function of one tile: all runs of depth, then the epilogue, then the only store.

    Its arguments: x, table, zero, weights, bias, y, residual; with `lines` (cache lines asked for in each unrolled
    step) their address; of a chunked kernel how many runs, whether they are the first, whether they are the last.
    """

    def __init__(
        self,
        kernel: GemmKernel,
        entry: Emitter,
        rows: int,
        columns: int,
        vectors: int,
        y_stride_elems: int | None = None,
        lines: int | None = None,
    ) -> None:
        self.kernel = kernel
        self.y_stride_elems = kernel.y_stride_elems if y_stride_elems is None else y_stride_elems
        self.rows = rows
        self.columns = columns
        self.vectors = vectors
        name = f"{entry.function.name}_tile{rows}x{columns}"
        self.lines = kernel.prefetch_lines(vectors, entry.machine.vector_bytes) if lines is None else lines
        parameters = [PTR] * 7 + [PTR] * (self.lines > 0) + [I64, I1, I1] * kernel.is_chunked
        self.e = Emitter(entry.module, entry.machine, name, parameters, internal=True, noinline=True)

    def emit(self) -> ir.Function:
        e, kernel = self.e, self.kernel
        x, table, zero, weights, bias, y, residual, *rest = e.arguments
        ahead = rest.pop(0) if self.lines else weights
        counts = epilogue.vector_counts(self.columns, e.lanes)
        sums = [e.splat(0.0)] * (self.vectors * self.rows)
        runs: Value | int = kernel.runs
        if kernel.is_chunked:
            runs, is_first, is_last = rest
            if not kernel.adds_chunks:
                sums = self._resumed(is_first, sums, counts, y)
        if kernel.runs == 1:
            _, _, sums = self._run(self._row_addresses(x, table, zero), weights, ahead, sums)
        else:
            with e.carried_loop(0, runs, 1, [weights, ahead, x, table, *sums], name="run") as loop:
                panel, request, data, offsets, *partial = loop.values
                panel, request, partial = self._run(self._row_addresses(data, offsets, zero), panel, request, partial)
                if kernel.has_table:
                    offsets = e.at(offsets, self.rows * 4)
                else:
                    data = e.at(data, kernel.run_elems * ELEM_BYTES)
                loop.carry([panel, request, data, offsets, *partial])
            sums = loop.results[4:]
        if kernel.is_chunked and kernel.adds_chunks:
            sums = self._resumed(is_first, sums, counts, y)
        places = [
            epilogue.Place(i * self.y_stride_elems * ELEM_BYTES, i * kernel.residual_stride_elems * ELEM_BYTES)
            for i in range(self.rows)
        ]
        if not kernel.is_chunked:
            epilogue.store_tile(e, kernel.epilogue, sums, counts, places, y, bias, residual)
        else:
            with e.builder.if_else(is_last) as (last, between):
                with last:
                    epilogue.store_tile(e, kernel.epilogue, sums, counts, places, y, bias, residual)
                with between:
                    epilogue.store_tile(e, Epilogue(), sums, counts, places, y, bias, residual)
        e.finish()
        return e.function

    def _resumed(self, is_first: Value, sums: list[Value], counts: list[int], y: Value) -> list[Value]:
        """The sums in the first chunk; later what the chunks before left in y (and the sums, where these are added)."""
        e, b = self.e, self.e.builder
        start = b.block
        with b.if_then(b.not_(is_first)):
            resting = [
                e.load_vector(y, (i * self.y_stride_elems + v * e.lanes) * ELEM_BYTES, count)
                for i in range(self.rows)
                for v, count in enumerate(counts)
            ]
            if self.kernel.adds_chunks:
                resting = [b.fadd(total, value) for total, value in zip(resting, sums, strict=True)]
            loaded = b.block
        found = []
        for value, total in zip(sums, resting, strict=True):
            phi = b.phi(value.type)
            phi.add_incoming(value, start)
            phi.add_incoming(total, loaded)
            found.append(phi)
        return found

    def _row_addresses(self, x: Value, table: Value, zero: Value) -> list[tuple[Value, int]]:
        """For each row its address as (pointer, constant bytes)."""
        e = self.e
        if not self.kernel.has_table:
            return [(x, i * self.kernel.row_stride_elems * ELEM_BYTES) for i in range(self.rows)]
        addresses = []
        for i in range(self.rows):
            offset = e.load(table, I32, i * 4, 4)
            inside = e.at(x, e.mul(e.builder.sext(offset, I64), ELEM_BYTES))
            outside = e.builder.icmp_signed("<", offset, ir.Constant(I32, 0))
            addresses.append((e.builder.select(outside, zero, inside), 0))
        return addresses

    def _run(
        self, rows: list[tuple[Value, int]], panel: Value, ahead: Value, sums: list[Value]
    ) -> tuple[Value, Value, list[Value]]:
        """One run of depth: `sums += a[rows, run] x w[run, panel]`. Returns the next addresses and the sums."""
        e, length = self.e, self.kernel.run_elems
        unroll = min(self.kernel.tile.unroll, length)
        main = length - length % unroll
        if main == unroll:
            panel, ahead, sums = self._steps(rows, e.index(0), panel, ahead, sums, unroll)
        else:
            carried = [panel, ahead, *sums]
            with e.carried_loop(0, main * ELEM_BYTES, unroll * ELEM_BYTES, carried, name="depth") as loop:
                panel, ahead, *partial = loop.values
                panel, ahead, partial = self._steps(rows, loop.index, panel, ahead, partial, unroll)
                loop.carry([panel, ahead, *partial])
            panel, ahead, *sums = loop.results
        if length % unroll:
            panel, _, sums = self._steps(rows, e.index(main * ELEM_BYTES), panel, ahead, sums, length % unroll)
        return panel, ahead, sums

    def _steps(
        self, rows: list[tuple[Value, int]], offset: Value, panel: Value, ahead: Value, sums: list[Value], count: int
    ) -> tuple[Value, Value, list[Value]]:
        e, sums = self.e, list(sums)
        step_bytes = self.vectors * e.lanes * ELEM_BYTES
        near_lines = step_bytes // CACHE_LINE_BYTES if self.kernel.near_bytes else 0
        for step in range(count):
            for line in range(near_lines):
                e.prefetch(panel, self.kernel.near_bytes + step * step_bytes + line * CACHE_LINE_BYTES)
            # Spread over the steps: a burst would fill the buffers that this chunk's own lines pass through.
            for line in range(step * self.lines // count, (step + 1) * self.lines // count):
                e.prefetch(ahead, line * CACHE_LINE_BYTES, locality=2)
            weights = [e.load_vector(panel, step * step_bytes + v * e.lanes * ELEM_BYTES) for v in range(self.vectors)]
            for i, (pointer, constant) in enumerate(rows):
                value = e.splat(e.load(e.at(pointer, offset), F32, constant + step * ELEM_BYTES))
                for v in range(self.vectors):
                    at = i * self.vectors + v
                    sums[at] = e.multiply_add(value, weights[v], sums[at])
        return e.at(panel, count * step_bytes), e.at(ahead, self.lines * CACHE_LINE_BYTES), sums


def pack_panels(weight: np.ndarray, groups: int, vectors: int, lanes: int) -> np.ndarray:
    """Weights (groups * columns, depth) -> the panels that `GemmKernel` reads, zero where the last vector is not full.

    Returns a flat float32 array: for each group, for each panel, for each d, the panel's columns.
    """
    columns = weight.shape[0] // groups
    depth = weight.shape[1]
    width = vectors * lanes
    padded = -(-columns // lanes) * lanes
    source = weight.reshape(groups, columns, depth)
    packed = aligned_zeros(groups * padded * depth).reshape(groups, padded * depth)
    for first in range(0, columns, width):
        wide = min(width, padded - first)
        used = min(wide, columns - first)
        panel = packed[:, first * depth : (first + wide) * depth].reshape(groups, depth, wide)
        panel[:, :, :used] = source[:, first : first + used].transpose(0, 2, 1)
    return packed.reshape(-1)


def pack_bias(bias: np.ndarray, lanes: int) -> np.ndarray:
    """The bias with slack behind it, so that the last vector may be read whole."""
    packed = np.zeros(bias.size + lanes, np.float32)
    packed[: bias.size] = bias
    return packed


def row_tails(rows: int, tile_rows: int) -> tuple[int, ...]:
    """Tile heights for a number of rows that is known: none, or exactly what is left."""
    left = rows % tile_rows
    return (left,) if left else ()


def any_tails(tile_rows: int) -> tuple[int, ...]:
    """Tile heights that together cover any remainder below `tile_rows`."""
    heights: Sequence[int] = [h for h in (8, 4, 2, 1) if h < tile_rows]
    return tuple(heights)
