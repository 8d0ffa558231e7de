"""MatMul of two activations: register tiles of rows by vectors of columns, each output one sum over K in order.

The number of rows is an argument, not part of the recipe: it is the batch where the left side has rank 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waterline.codegen.cpu.emitter import F32, Emitter, Value
from waterline.codegen.cpu.kernel import Arg, Call, Input, Kernel, Number, Output
from waterline.graph.ops import MatMul, broadcast
from waterline.machine import Machine
from waterline.operators.lanes import load_lanes, store_lanes
from waterline.operators.nest import F32_BYTES, Nest, broadcast_batch, nest
from waterline.spec import TensorView

PANEL_BYTES = 256 << 10  # of the right side, when it has to be gathered into scratch
ITEM_ROWS = 4  # tiles, one below the other, in a work item
ITEM_MACS = 1 << 17  # a chunk of work, 5 to 20 microseconds on one core


@dataclass(frozen=True)
class MatrixProduct(Kernel):
    """Args: output, left, right, the bytes between their images, rows M.

    Attributes:
        k, columns: of the product (M, K) x (K, columns).
        output, left, right: strides of (row, column) of each matrix.
        matrices: loops over the batch of matrices; operands output, left, right.
        tile_rows, tile_vectors: of the registers that sums are kept in.
        gathers: the right side's rows are not contiguous, and are gathered into scratch.
    """

    k: int
    columns: int
    output: tuple[int, int]
    left: tuple[int, int]
    right: tuple[int, int]
    matrices: Nest
    tile_rows: int
    tile_vectors: int
    gathers: bool

    @property
    def item_rows(self) -> int:
        return self.tile_rows * ITEM_ROWS

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        pointers = [e.load_pointer(args, 8 * i) for i in range(3)]
        batch = [e.load_i64(args, 24 + 8 * i) for i in range(3)]
        rows = e.load_i64(args, 48)
        width = self.tile_vectors * e.lanes
        panels = -(-self.columns // width)
        row_blocks = e.div(e.add(rows, self.item_rows - 1), self.item_rows)
        left_over = self.columns % width
        whole: list[int | None] = [None] * self.tile_vectors
        last: list[int | None] = [None] * (left_over // e.lanes)
        last += [left_over % e.lanes] if left_over % e.lanes else []
        has_whole = self.columns >= width

        # Work items: matrix, then block of rows, then panel of columns.
        with e.loop(begin, end, name="item") as item:
            panel, rest = e.mod(item, panels), e.div(item, panels)
            block, matrix = e.builder.urem(rest, row_blocks), e.builder.udiv(rest, row_blocks)
            offsets = self.matrix_offsets(e, matrix, batch)
            matrices = [e.at(pointer, offset) for pointer, offset in zip(pointers, offsets, strict=True)]
            first = e.mul(block, self.item_rows)
            stop = e.minimum(e.add(first, self.item_rows), rows)
            column = e.mul(panel, width)
            y = e.at(matrices[0], e.mul(column, self.output[1] * F32_BYTES))
            right = e.at(matrices[2], e.mul(column, self.right[1] * F32_BYTES))

            def emit(counts: list[int | None]) -> None:
                self.emit_panel(e, y, matrices[1], right, first, stop, scratch, counts)

            if not has_whole or not last:
                emit(last or whole)
            else:
                with e.builder.if_else(e.builder.icmp_unsigned("<", panel, e.index(panels - 1))) as (then, otherwise):
                    with then:
                        emit(whole)
                    with otherwise:
                        emit(last)

    def matrix_offsets(self, e: Emitter, matrix: Value, batch: list[Value]) -> list[Value]:
        """The offsets in bytes of one of the batch of matrices."""
        loops = self.matrices
        n, rest = e.div(matrix, loops.image_items), e.mod(matrix, loops.image_items)
        offsets = [e.mul(n, step) for step in batch]
        for axis in range(len(loops.sizes) - 1, -1, -1):
            offsets = loops.moved(e, offsets, e.mod(rest, loops.sizes[axis]), axis)
            rest = e.div(rest, loops.sizes[axis])
        return offsets

    def emit_panel(
        self,
        e: Emitter,
        y: Value,
        left: Value,
        right: Value,
        first: Value,
        stop: Value,
        scratch: Value,
        counts: list[int | None],
    ) -> None:
        """Rows first to stop of a panel of columns."""
        row_bytes = self.right[0] * F32_BYTES
        step_bytes = e.lanes * self.right[1] * F32_BYTES
        if self.gathers:
            with e.loop(0, self.k, name="k") as k:
                for v, count in enumerate(counts):
                    place = e.add(e.mul(k, row_bytes), v * step_bytes)
                    to = e.add(e.mul(k, len(counts) * e.lanes * F32_BYTES), v * e.lanes * F32_BYTES)
                    e.store_vector(load_lanes(e, right, place, self.right[1], count), scratch, to)
            right, row_bytes, step_bytes = scratch, len(counts) * e.lanes * F32_BYTES, e.lanes * F32_BYTES
        tiles = e.mul(e.div(e.sub(stop, first), self.tile_rows), self.tile_rows)
        tiles_end = e.add(first, tiles)
        for start, end, rows in ((first, tiles_end, self.tile_rows), (tiles_end, stop, 1)):
            with e.loop(start, end, rows, name="row") as row:
                self.emit_tile(e, y, left, right, row, rows, counts, row_bytes, step_bytes)

    def emit_tile(
        self,
        e: Emitter,
        y: Value,
        left: Value,
        right: Value,
        row: Value,
        rows: int,
        counts: list[int | None],
        row_bytes: int,
        step_bytes: int,
    ) -> None:
        source = e.at(left, e.mul(row, self.left[0] * F32_BYTES))
        with e.carried_loop(0, self.k, 1, [e.splat(0.0)] * (rows * len(counts)), name="k") as loop:
            line = e.at(right, e.mul(loop.index, row_bytes))
            place = e.at(source, e.mul(loop.index, self.left[1] * F32_BYTES))
            vectors = [
                e.load_vector(line, v * step_bytes, None if self.gathers else count) for v, count in enumerate(counts)
            ]
            sums = []
            for i in range(rows):
                factor = e.splat(e.load(place, F32, i * self.left[0] * F32_BYTES, F32_BYTES))
                totals = loop.values[i * len(counts) : (i + 1) * len(counts)]
                sums += [e.multiply_add(factor, vector, total) for vector, total in zip(vectors, totals, strict=True)]
            loop.carry(sums)
        for i in range(rows):
            to = e.mul(e.add(row, i), self.output[0] * F32_BYTES)
            for v, count in enumerate(counts):
                at = e.add(to, v * e.lanes * self.output[1] * F32_BYTES)
                store_lanes(e, loop.results[i * len(counts) + v], y, at, self.output[1], count)


def lower_matmul(
    op: MatMul, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    a, b = inputs
    y = outputs[0]
    if len(a.shape) == 1:
        a, y = with_axis(a, 0), with_axis(y, len(y.shape) - (len(b.shape) > 1))
    if len(b.shape) == 1:
        b, y = with_axis(b, 1), with_axis(y, len(y.shape))
    rows, columns = y.shape[-2:]
    k = a.shape[-1]
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    stacked = [TensorView(view.shape[:-2], view.strides[:-2]) for view in (y, a, b)]
    batched = len(batch) > 0
    operands, steps = broadcast_batch(stacked, batch, batched)
    matrices = nest(batch, [view.strides for view in operands], batched=batched).with_items(1, 1)
    lanes = machine.lanes()
    gathers = b.strides[-1] != 1 and columns > 1
    tile_rows, tile_vectors = (6, 4) if machine.vector_registers == 32 else (4, 3)
    tile_vectors = min(tile_vectors, -(-columns // lanes))
    while gathers and tile_vectors > 1 and k * tile_vectors * lanes * F32_BYTES > PANEL_BYTES:
        tile_vectors -= 1
    kernel = MatrixProduct(
        k,
        columns,
        (y.strides[-2], y.strides[-1]),
        (a.strides[-2], a.strides[-1]),
        (b.strides[-2], b.strides[-1] if columns > 1 else 1),
        matrices,
        tile_rows,
        tile_vectors,
        gathers,
    )
    panels = -(-columns // (tile_vectors * lanes))
    count = matrices.image_items * (batch[0] if batched else 1)
    items = count * -(-rows // kernel.item_rows) * panels
    macs = min(rows, kernel.item_rows) * tile_vectors * lanes * max(k, 1)
    scratch_bytes = k * tile_vectors * lanes * F32_BYTES if gathers else 0
    args: tuple[Arg, ...] = (Output(), Input(0), Input(1), *steps, Number(rows))
    return [Call(kernel, args, items, max(1, min(ITEM_MACS // macs, items // 8)), scratch_bytes=scratch_bytes)]


def with_axis(view: TensorView, axis: int) -> TensorView:
    """The same tensor with another axis of size 1."""
    return TensorView((*view.shape[:axis], 1, *view.shape[axis:]), (*view.strides[:axis], 1, *view.strides[axis:]))
