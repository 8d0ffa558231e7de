"""`Transposition`: copies between layouts whose unit strides lie on different axes, in tiles turned in registers."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Kernel
from waterline.machine import Machine
from waterline.operators.copying import moved_pointers
from waterline.operators.lanes import shuffle
from waterline.operators.nest import F32_BYTES, ITEM_ELEMS, Nest

QUAD = 4  # lanes of 128 bits, within which every machine shuffles cheaply


@dataclass(frozen=True)
class Transposition(Kernel):
    """Args of movement.

    Attributes:
        loops: operands output and input; the second innermost loop has stride 1 in the input, the innermost in the
            output. `rows` and `span` are multiples of `tile`.
        tile: lanes of the square tile.
    """

    loops: Nest
    tile: int

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = moved_pointers(e, args)
        row_tail, column_tail = (size % self.tile for size in self.loops.sizes[-2:])
        row_full, column_full = (size - size % self.tile for size in self.loops.sizes[-2:])

        def tile(offsets: list[Value], rows: int, columns: int) -> None:
            to, source = offsets
            column_bytes = self.loops.strides[1][-1] * F32_BYTES
            row_bytes = self.loops.strides[0][-2] * F32_BYTES
            for i in range(rows):
                e.prefetch(output, e.add(to, i * row_bytes), to_write=True)
            vectors = [e.load_vector(x, e.add(source, i * column_bytes), rows, self.tile) for i in range(columns)] + [
                e.splat(0.0, self.tile)
            ] * (self.tile - columns)
            for i, vector in enumerate(transposed(e, vectors)[:rows]):
                e.store_vector(vector, output, e.add(to, i * row_bytes), columns)

        def along_rows(offsets: list[Value], block: Value, columns: int) -> None:
            first = e.mul(block, self.loops.rows)
            with e.loop(first, e.minimum(e.add(first, self.loops.rows), row_full), self.tile, name="row") as row:
                tile(self.loops.moved(e, offsets, row, -2), self.tile, columns)
            if row_tail:
                with e.when(e.builder.icmp_signed("==", block, e.index(self.loops.row_blocks - 1))):
                    tile(self.loops.moved(e, offsets, row_full, -2), row_tail, columns)

        def body(offsets: list[Value], block: Value, span: Value) -> None:
            first = e.mul(span, self.loops.span)
            stop = e.minimum(e.add(first, self.loops.span), column_full)
            with e.loop(first, stop, self.tile, name="column") as column:
                along_rows(self.loops.moved(e, offsets, column, -1), block, self.tile)
            if column_tail:
                with e.when(e.builder.icmp_signed("==", span, e.index(self.loops.spans - 1))):
                    along_rows(self.loops.moved(e, offsets, column_full, -1), block, column_tail)

        self.loops.for_each_item(e, begin, end, body)


def transposition(loops: Nest, machine: Machine) -> Transposition:
    """The kernel for loops whose last two are (stride 1 in the input, stride 1 in the output)."""
    tile = QUAD
    while tile < machine.lanes() and tile < min(loops.sizes[-2:]):
        tile *= 2
    rows = min(4 * tile, -(-loops.sizes[-2] // tile) * tile)
    span = max(tile, ITEM_ELEMS // rows // tile * tile)
    return Transposition(loops.with_items(rows, min(span, -(-loops.sizes[-1] // tile) * tile)), tile)


def transposed(e: Emitter, rows: list[Value]) -> list[Value]:
    """The columns of a square of vectors: quads within 128-bit lanes, then whole 128-bit lanes."""
    size = len(rows)
    turned: list[list[Value]] = []  # [group of four rows][row in a quad]: column 4 m + row in lane m
    for first in range(0, size, QUAD):
        a, b, c, d = rows[first : first + QUAD]
        low_ab, high_ab = _unpack(e, a, b, 1)
        low_cd, high_cd = _unpack(e, c, d, 1)
        turned.append([*_unpack(e, low_ab, low_cd, 2), *_unpack(e, high_ab, high_cd, 2)])
    columns: list[Value] = [None] * size
    for j in range(QUAD):
        for m, column in enumerate(_transposed_lanes(e, [group[j] for group in turned])):
            columns[QUAD * m + j] = column
    return columns


def _unpack(e: Emitter, a: Value, c: Value, width: int) -> tuple[Value, Value]:
    """Within each quad: the low and the high halves of a and c interleaved, `width` elements at a time."""
    lanes = a.type.count
    masks: tuple[list[int], list[int]] = ([], [])
    for quad in range(0, lanes, QUAD):
        for half, mask in enumerate(masks):
            for place in range(quad + 2 * half, quad + 2 * half + 2, width):
                mask += range(place, place + width)
                mask += range(lanes + place, lanes + place + width)
    return shuffle(e, a, c, masks[0]), shuffle(e, a, c, masks[1])


def _transposed_lanes(e: Emitter, rows: list[Value]) -> list[Value]:
    """A square of 128-bit lanes, by perfect shuffles: each stage interleaves row i with row i + half."""
    size = len(rows)
    stage = size
    while stage > 1:
        half = size // 2
        rows = [vector for i in range(half) for vector in _interleaved_lanes(e, rows[i], rows[i + half])]
        stage //= 2
    return rows


def _interleaved_lanes(e: Emitter, a: Value, c: Value) -> list[Value]:
    lanes = a.type.count
    order = [start + q for m in range(lanes // QUAD) for start in (m * QUAD, lanes + m * QUAD) for q in range(QUAD)]
    return [shuffle(e, a, c, order[:lanes]), shuffle(e, a, c, order[lanes:])]
