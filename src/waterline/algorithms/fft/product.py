"""Matrix products of complex numbers on register tiles: the sum over channels at one frequency.

`m[t, k] = sum_c v[t, c] w[c, k]`, four real multiply-adds a complex one. (Three would do (Gauss), but they want a third
matrix of filters, half as much again to read, and it is reading the filters that takes long where tiles are few.)
Real and imaginary parts lie in planes of their own, so a vector holds equal parts of neighbouring outputs; weights lie
as panels, front to back: for each c the real parts of the panel's outputs, then the imaginary ones.

Numerics: the real part of a sum is one chain of multiply-adds in the order of c, first Re v Re w, then -Im v Im w;
the same for the imaginary part. It depends neither on the tile nor on the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from waterline.codegen.cpu.emitter import CACHE_LINE_BYTES, F32, PTR, Emitter, Value
from waterline.codegen.cpu.epilogue import vector_counts
from waterline.machine import Machine

ELEM_BYTES = 4
# Cycles around the inner loop: call, addresses, and the sums' way to memory.
TILE_CYCLES = 16.0
# Registers beside sums, weights and the two parts of an input: what LLVM wants for itself, as in `blocking.MOST_ROWS`.
SPARE_REGISTERS = {"avx512": 0, "avx2": 0, "avx": 1, "sse2": 2, "neon": 2}


@dataclass(frozen=True)
class ComplexTile:
    """`rows` x `vectors` complex sums in registers."""

    rows: int
    vectors: int

    def panel_columns(self, lanes: int) -> int:
        return self.vectors * lanes

    def cycles_per_depth(self, machine: Machine) -> float:
        """Least cycles of one complex step: multiply-adds, loads (two a cycle), latency of too few chains."""
        arithmetic = 4 * self.rows * self.vectors / machine.multiply_adds_per_cycle
        loads = (2 * self.rows + 2 * self.vectors) / 2
        return max(arithmetic, loads, 2.0 * machine.fma_latency)

    def cycles(self, depth: int, machine: Machine) -> float:
        return TILE_CYCLES + depth * self.cycles_per_depth(machine) + 2 * self.rows * self.vectors


def tiles(machine: Machine, columns: int, most_rows: int) -> list[ComplexTile]:
    """Every tile whose sums stay in the vector registers, not much larger than the product."""
    room = machine.vector_registers - SPARE_REGISTERS[machine.isa]
    found = []
    for vectors in range(1, -(-columns // machine.lanes()) + 1):
        rows = (room - 2 * vectors - 2) // (2 * vectors)
        if rows < 1:
            break
        found += [ComplexTile(height, vectors) for height in range(1, min(rows, most_rows) + 1)]
    return found or [ComplexTile(1, 1)]


@dataclass(frozen=True)
class ComplexProduct:
    """The products of one frequency: `groups` of `depth` x `columns`, rows at constant distances.

    Attributes:
        row_bytes, plane_bytes: from row to row, and from real to imaginary parts, on the side of the inputs.
        out_row_bytes, out_plane_bytes: the same of the sums.
        room: outputs that a row has room for: what lies behind its own is stored as zeros.
        passes: tiles of rows over which the request for the next panel of weights is spread, so that it arrives evenly
            while this one is multiplied.
    """

    tile: ComplexTile
    groups: int
    depth: int
    columns: int
    row_bytes: int
    plane_bytes: int
    out_row_bytes: int
    out_plane_bytes: int
    room: int
    passes: int

    def weight_elems(self, lanes: int) -> int:
        """Of one frequency."""
        return self.groups * self.depth * 2 * (-(-self.columns // lanes) * lanes)

    def emit(self, entry: Emitter) -> dict[int, ir.Function]:
        """For each number of outputs that a panel may have its function(v, weights, m)."""
        lanes = entry.lanes
        width = self.tile.panel_columns(lanes)
        counts = {min(width, self.columns - first) for first in range(0, self.columns, width)}
        return {count: self._emit_tile(entry, count) for count in sorted(counts)}

    def _emit_tile(self, entry: Emitter, columns: int) -> ir.Function:
        name = f"{entry.function.name}_product{columns}"
        e = Emitter(entry.module, entry.machine, name, [PTR] * 4, internal=True, noinline=True)
        v, weights, m, following = e.arguments
        rows, vectors = self.tile.rows, -(-columns // e.lanes)
        vector_bytes = e.lanes * ELEM_BYTES
        step_bytes = 2 * vectors * vector_bytes
        sums = [e.splat(0.0)] * (2 * rows * vectors)
        with e.carried_loop(0, self.depth, 1, [weights, *sums], name="depth") as loop:
            panel, *partial = loop.values
            at = e.mul(loop.index, ELEM_BYTES)
            lines = self._lines(vectors, vector_bytes)
            ahead = e.at(following, e.mul(loop.index, lines * CACHE_LINE_BYTES))
            for line in range(lines):
                e.prefetch(ahead, line * CACHE_LINE_BYTES, locality=2)
            w = [e.load_vector(panel, i * vector_bytes) for i in range(2 * vectors)]
            for i in range(rows):
                re = e.splat(e.load(e.at(v, at), F32, i * self.row_bytes, 4))
                im = e.splat(e.load(e.at(v, at), F32, i * self.row_bytes + self.plane_bytes, 4))
                minus = e.builder.fneg(im)
                for j in range(vectors):
                    here = 2 * (i * vectors + j)
                    partial[here] = e.multiply_add(re, w[j], partial[here])
                    partial[here + 1] = e.multiply_add(re, w[vectors + j], partial[here + 1])
                    partial[here] = e.multiply_add(minus, w[vectors + j], partial[here])
                    partial[here + 1] = e.multiply_add(im, w[j], partial[here + 1])
            loop.carry([e.at(panel, step_bytes), *partial])
        counts = vector_counts(columns, e.lanes)
        if self.groups == 1:  # what lies behind the outputs is room for them: zeros do no harm
            counts[-1] = min(e.lanes, self.room - (len(counts) - 1) * e.lanes)
        for i in range(rows):
            for j, count in enumerate(counts):
                for part in (0, 1):
                    place = i * self.out_row_bytes + part * self.out_plane_bytes + j * vector_bytes
                    e.store_vector(loop.results[1 + 2 * (i * vectors + j) + part], m, place, count)
        e.finish()
        return e.function

    def _lines(self, vectors: int, vector_bytes: int) -> int:
        """Cache lines of the next weights that a tile asks for in each step of depth."""
        return -(-2 * vectors * vector_bytes // (CACHE_LINE_BYTES * self.passes))

    def emit_rows(
        self, e: Emitter, functions: dict[int, ir.Function], v: Value, weights: Value, m: Value, row_tiles: Value
    ) -> None:
        """All groups and panels of one frequency over `row_tiles` tiles of rows."""
        lanes, width = e.lanes, self.tile.panel_columns(e.lanes)
        panels = -(-self.columns // width)
        last = self.columns - (panels - 1) * width
        group_bytes = self.weight_elems(lanes) // self.groups * ELEM_BYTES
        panel_bytes = self.depth * 2 * width * ELEM_BYTES
        with e.loop(0, self.groups, name="group") as group:
            left = e.at(v, e.mul(group, self.depth * ELEM_BYTES))
            right = e.at(weights, e.mul(group, group_bytes))
            target = e.at(m, e.mul(group, self.columns * ELEM_BYTES))
            for begin, end, columns in ((0, panels - 1, width), (panels - 1, panels, last)):
                if begin == end:
                    continue
                vectors = -(-columns // lanes)
                pass_bytes = self.depth * self._lines(vectors, lanes * ELEM_BYTES) * CACHE_LINE_BYTES
                with e.loop(begin, end, name="panel") as panel:
                    here = e.at(right, e.mul(panel, panel_bytes))
                    there = e.at(here, self.depth * 2 * vectors * lanes * ELEM_BYTES)
                    with e.loop(0, row_tiles, name="rows") as i:
                        column = e.mul(panel, width * ELEM_BYTES)
                        arguments = [
                            e.at(left, e.mul(i, self.tile.rows * self.row_bytes)),
                            here,
                            e.at(target, e.add(column, e.mul(i, self.tile.rows * self.out_row_bytes))),
                            e.at(there, e.mul(i, pass_bytes)),
                        ]
                        e.builder.call(functions[columns], arguments)
