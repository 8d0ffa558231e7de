"""Emission of a fused block: the layers' own kernels in one module, called strip by strip."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from waterline.algorithms.block_fusion.flow import Flow
from waterline.algorithms.columns import ColumnKernel, Window
from waterline.codegen.cpu import gemm
from waterline.codegen.cpu.clock import PhaseClock
from waterline.codegen.cpu.emitter import I64, PTR, Emitter, Value, i64
from waterline.codegen.cpu.kernel import Kernel

WORD_BYTES = 8
# Words of the argument array before those of tensors and stages.
BANDS, CLOCK, FIRST = range(3)
NOWHERE = -(1 << 40)  # where a buffer's window lies before the first strip: no row is inside

# How a stage is told which rows to compute.
ROWS = "rows"  # by work items, which are rows of the image in order
PIXELS = "pixels"  # the rows' pixels are the rows of one matrix product
TABLES = "tables"  # row by row, each with a table of its own


@dataclass(frozen=True)
class Tensor:
    """Where the block finds a tensor.

    Attributes:
        row_bytes: from one row of the image to the next; 0 for what belongs to a whole image.
        buffer_bytes: where its buffer begins in the thread's scratch memory; -1: it is not the block's own, and
            argument words give its address and the distance of images.
        buffer_rows: that its buffer holds.
        is_ring: row i lies at i mod buffer_rows; else the buffer holds a window, whose rows move.
    """

    row_bytes: int
    buffer_bytes: int = -1
    buffer_rows: int = 0
    is_ring: bool = False

    @property
    def is_inner(self) -> bool:
        return self.buffer_bytes >= 0


@dataclass(frozen=True)
class Stage:
    """A layer inside the block.

    Attributes:
        kernel: of the layer alone. words: of its argument array.
        tensors: (word, tensor) of the addresses that change from strip to strip.
        how: ROWS, PIXELS or TABLES.
        items: work items of a row (ROWS), of a whole product (PIXELS), of a row's product (TABLES).
        row_pixels: of the output. table_row_bytes: with TABLES.
    """

    kernel: Kernel
    words: int
    tensors: tuple[tuple[int, int], ...]
    how: str
    items: int
    row_pixels: int = 0
    table_row_bytes: int = 0


@dataclass(frozen=True)
class BlockKernel(Kernel):
    """Items are (image, band of strips). The argument array: bands, the clock; address and image bytes of each tensor
    that is not the block's own; the words of every stage.

    Attributes:
        windows, readers: see `Flow`. strip_rows: of the result.
        tensors: the block's inputs, then each stage's result. inputs: how many of them are inputs.
        stage_scratch_bytes: where the scratch memory of the stages' kernels begins.
    """

    stages: tuple[Stage, ...]
    windows: tuple[Window, ...]
    readers: tuple[tuple[int, ...], ...]
    tensors: tuple[Tensor, ...]
    inputs: int
    strip_rows: int
    stage_scratch_bytes: int

    @property
    def flow(self) -> Flow:
        return Flow(self.windows, self.readers)

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        _Block(self, emitter, args, scratch).emit(begin, end)


class _Block:
    """Emission of one block kernel."""

    def __init__(self, kernel: BlockKernel, e: Emitter, args: Value, scratch: Value) -> None:
        self.kernel = kernel
        self.e = e
        self.scratch = scratch
        b = e.builder
        self.bands = e.load_i64(args, BANDS * WORD_BYTES)
        self.clock = PhaseClock(e, e.load_pointer(args, CLOCK * WORD_BYTES))
        word = FIRST
        self.outside: dict[int, tuple[Value, Value]] = {}  # tensor -> address and distance of images
        for number, tensor in enumerate(kernel.tensors):
            if not tensor.is_inner:
                at = word * WORD_BYTES
                self.outside[number] = (e.load_i64(args, at), e.load_i64(args, at + WORD_BYTES))
                word += 2
        self.buffers = {
            number: b.ptrtoint(e.at(scratch, tensor.buffer_bytes), I64)
            for number, tensor in enumerate(kernel.tensors)
            if tensor.is_inner
        }
        self.functions = [self._stage_function(i) for i in range(len(kernel.stages))]
        self.frames: list[Value] = []
        self.tables: list[Value] = []
        for stage in kernel.stages:
            frame = e.stack(stage.words * WORD_BYTES)
            for i in range(stage.words):
                e.store(e.load_i64(args, (word + i) * WORD_BYTES), frame, i * WORD_BYTES, WORD_BYTES)
            self.frames.append(frame)
            self.tables.append(e.load_i64(args, (word + gemm.TABLE) * WORD_BYTES) if stage.how == TABLES else i64(0))
            word += stage.words

    def _stage_function(self, number: int) -> ir.Function:
        e = self.e
        inner = Emitter(
            e.module, e.machine, f"{e.function.name}_stage{number}", [PTR, I64, I64, PTR], internal=True, noinline=True
        )
        self.kernel.stages[number].kernel.build(inner, *inner.arguments)
        inner.finish()
        return inner.function

    # ---- strips -------------------------------------------------------------------------------------------------
    def emit(self, begin: Value, end: Value) -> None:
        e, kernel = self.e, self.kernel
        strips = kernel.flow.strips(kernel.strip_rows)
        layers = len(kernel.stages) - 1  # that have a buffer
        with e.loop(begin, end, name="item") as item:
            image, band = e.builder.udiv(item, self.bands), e.builder.urem(item, self.bands)
            first = e.builder.udiv(e.mul(band, strips), self.bands)
            last = e.builder.udiv(e.mul(e.add(band, 1), strips), self.bands)
            carried = [i64(0)] * layers + [i64(NOWHERE)] * layers
            self.clock.start()
            with e.carried_loop(first, last, 1, carried, name="strip") as loop:
                done, origins = loop.values[:layers], loop.values[layers:]
                top = e.mul(loop.index, kernel.strip_rows)
                bottom = e.minimum(e.add(top, kernel.strip_rows), kernel.windows[-1].outputs)
                loop.carry(self._strip(image, top, bottom, done, origins))
        self.clock.flush()

    def _strip(self, image: Value, top: Value, bottom: Value, done: list[Value], origins: list[Value]) -> list[Value]:
        """Computes rows [top, bottom) of the result. Returns what is carried to the next strip."""
        e, kernel = self.e, self.kernel
        count = len(kernel.stages)
        rows: list[tuple[Value, Value]] = [(top, bottom)] * count
        kept: list[Value] = [i64(0)] * count
        for i in range(count - 2, -1, -1):
            readers = kernel.readers[i]
            kept[i] = self._least([self._first_needed(kernel.windows[j], rows[j][0]) for j in readers])
            ends = self._most([self._end_needed(kernel.windows[j], rows[j][1]) for j in readers])
            first = e.maximum(done[i], kept[i])
            rows[i] = (first, e.maximum(first, ends))
        origins = list(origins)
        done = list(done)
        for i in range(count):
            if i < count - 1:
                if not kernel.tensors[kernel.inputs + i].is_ring:
                    origins[i] = self._slide(kernel.inputs + i, origins[i], kept[i], done[i], rows[i][1])
                done[i] = rows[i][1]
            self._call(i, image, *rows[i], origins)
            self.clock.lap(i)
        return [*done, *origins]

    def _first_needed(self, window: Window, row: Value) -> Value:
        e = self.e
        first = e.sub(e.mul(row, window.stride), window.before)
        return e.minimum(e.maximum(first, 0), window.size)

    def _end_needed(self, window: Window, end: Value) -> Value:
        e = self.e
        reach = (window.taps - 1) * window.dilation - window.before - window.stride + 1
        return e.minimum(e.maximum(e.add(e.mul(end, window.stride), i64(reach)), 0), window.size)

    def _least(self, values: list[Value]) -> Value:
        found = values[0]
        for value in values[1:]:
            found = self.e.minimum(found, value)
        return found

    def _most(self, values: list[Value]) -> Value:
        found = values[0]
        for value in values[1:]:
            found = self.e.maximum(found, value)
        return found

    def _slide(self, number: int, origin: Value, kept: Value, done: Value, end: Value) -> Value:
        """Makes room in a tensor's buffer for the rows before `end`. Returns the row at the buffer's beginning."""
        e, b = self.e, self.e.builder
        tensor = self.kernel.tensors[number]
        is_full = b.icmp_signed(">", e.sub(end, origin), i64(tensor.buffer_rows))
        before = b.block
        with b.if_then(is_full):
            buffer = b.inttoptr(self.buffers[number], PTR)
            source = e.at(buffer, e.mul(e.sub(kept, origin), tensor.row_bytes))
            # Rows move towards the beginning; the last vector may reach into what will be computed anew.
            step = e.lanes * 4
            with e.loop(0, e.mul(e.sub(done, kept), tensor.row_bytes), step, name="move") as at:
                e.store_vector(e.load_vector(source, at), buffer, at)
            moved = b.block
        phi = b.phi(I64)
        phi.add_incoming(origin, before)
        phi.add_incoming(kept, moved)
        return phi

    # ---- calls --------------------------------------------------------------------------------------------------
    def _address(self, number: int, image: Value, row: Value | int, origins: list[Value], at: Value | None) -> Value:
        """Of a row of a tensor, as an i64; row 0 may lie before the buffer. In a ring, as seen from row `at`; None:
        where the ring begins."""
        e = self.e
        tensor = self.kernel.tensors[number]
        if tensor.is_ring:
            turn = i64(0) if at is None else e.sub(at, e.mod(at, tensor.buffer_rows))
            row = e.sub(row, turn)
            return e.add(self.buffers[number], e.mul(row, tensor.row_bytes))
        if tensor.is_inner:
            row = e.sub(row, origins[number - self.kernel.inputs])
            return e.add(self.buffers[number], e.mul(row, tensor.row_bytes))
        address, image_bytes = self.outside[number]
        return e.add(e.add(address, e.mul(image, image_bytes)), e.mul(e.index(row), tensor.row_bytes))

    def _call(self, number: int, image: Value, first: Value, end: Value, origins: list[Value]) -> None:
        """Computes rows [first, end): as many at once as lie one after the other in all rings but the one that the
        kernel itself goes round."""
        e, stage, frame = self.e, self.kernel.stages[number], self.frames[number]
        scratch = e.at(self.scratch, self.kernel.stage_scratch_bytes)
        goes_round = isinstance(stage.kernel, ColumnKernel) and stage.kernel.x_ring_rows > 0

        def set_word(word: int, value: Value) -> None:
            e.store(value, frame, word * WORD_BYTES, WORD_BYTES)

        def place(row: Value | int, words: tuple[tuple[int, int], ...], at: Value) -> None:
            for word, tensor in words:
                seen_from = None if goes_round and word == 0 else at
                set_word(word, self._address(tensor, image, row, origins, seen_from))

        def call(begin: Value | int, stop: Value) -> None:
            e.builder.call(self.functions[number], [frame, e.index(begin), stop, scratch])

        if stage.how == TABLES:
            reading = tuple(pair for pair in stage.tensors if pair[0] == gemm.X)
            writing = tuple(pair for pair in stage.tensors if pair[0] != gemm.X)
            place(0, reading, first)
            with e.loop(first, end, name="row") as row:
                place(row, writing, row)
                set_word(gemm.TABLE, e.add(self.tables[number], e.mul(row, stage.table_row_bytes)))
                call(0, i64(stage.items))
            return
        tensors = [self.kernel.tensors[tensor] for word, tensor in stage.tensors if not (goes_round and word == 0)]
        with self._runs(first, end, {tensor.buffer_rows for tensor in tensors if tensor.is_ring}) as (begin, stop):
            if stage.how == ROWS:
                place(0, stage.tensors, begin)
                call(e.mul(begin, stage.items), e.mul(stop, stage.items))
            else:
                place(begin, stage.tensors, begin)
                set_word(gemm.ROWS, e.mul(e.sub(stop, begin), stage.row_pixels))
                call(0, i64(stage.items))

    @contextmanager
    def _runs(self, first: Value, end: Value, rings: Collection[int]) -> Iterator[tuple[Value, Value]]:
        """The rows [first, end) cut where rings of so many rows begin again."""
        e, b = self.e, self.e.builder
        before, body, after = b.block, b.append_basic_block("run.body"), b.append_basic_block("run.after")
        b.cbranch(b.icmp_signed("<", first, end), body, after)
        b.position_at_end(body)
        begin = b.phi(I64, "run")
        begin.add_incoming(first, before)
        stop = end
        for rows in sorted(rings):
            stop = e.minimum(stop, e.add(e.sub(begin, e.mod(begin, rows)), rows))
        yield begin, stop
        begin.add_incoming(stop, b.block)
        b.cbranch(b.icmp_signed("<", stop, end), body, after)
        b.position_at_end(after)
