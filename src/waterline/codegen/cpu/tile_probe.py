"""What a register tile reaches with all its data in the first-level cache: the ceiling of every kernel built on it.

The loop of `gemm.TileFunction` without what is around it: a step of depth loads a vector of weights for each column
vector, broadcasts an element of each row, and multiplies and adds. It repeats `DEPTH` steps on the same few kilobytes.
Loads have ports of their own, yet a tile does not always reach the peak of a loop on registers; how near it comes says
what is lost to the processor, and what to everything around the tile.
"""

from __future__ import annotations

import ctypes

import numpy as np
from llvmlite import ir

from waterline.codegen.cpu.emitter import F32, I64, PTR, Emitter
from waterline.codegen.cpu.gemm import ELEM_BYTES, Tile
from waterline.codegen.cpu.jit import Library, compile_object
from waterline.codegen.cpu.memory import address, aligned_zeros
from waterline.machine import Machine

NAME = "waterline_probe_tile"  # void (ptr x, ptr weights, ptr sums, i64 turns)
DEPTH = 64
# Rows lie a cache line and a half apart, behind DEPTH elements each, so that they use all sets of the cache.
ROW_ELEMS = DEPTH + 24


def emit_tile(tile: Tile, machine: Machine) -> str:
    """LLVM IR: `turns` times DEPTH steps of the tile, then the sums are stored."""
    module = ir.Module(NAME)
    e = Emitter(module, machine, NAME, [PTR, PTR, PTR, I64])
    x, weights, y, turns = e.arguments
    sums = [e.splat(0.0)] * (tile.rows * tile.vectors)
    step_bytes = tile.vectors * e.lanes * ELEM_BYTES
    with e.carried_loop(0, turns, 1, sums, name="turn") as turn:
        with e.carried_loop(0, DEPTH, tile.unroll, list(turn.values), name="depth") as loop:
            partial = list(loop.values)
            row, panel = e.at(x, e.mul(loop.index, ELEM_BYTES)), e.at(weights, e.mul(loop.index, step_bytes))
            for step in range(tile.unroll):
                loaded = [
                    e.load_vector(panel, step * step_bytes + v * e.lanes * ELEM_BYTES) for v in range(tile.vectors)
                ]
                for i in range(tile.rows):
                    value = e.splat(e.load(row, F32, (i * ROW_ELEMS + step) * ELEM_BYTES))
                    for v, vector in enumerate(loaded):
                        at = i * tile.vectors + v
                        partial[at] = e.multiply_add(value, vector, partial[at])
            loop.carry(partial)
        turn.carry(loop.results)
    for at, total in enumerate(turn.results):
        e.store_vector(total, y, at * e.lanes * ELEM_BYTES)
    e.finish()
    return str(module)


class TileProbe:
    """The loop of a tile, compiled for the machine that runs."""

    def __init__(self, tile: Tile, machine: Machine) -> None:
        lanes = machine.lanes()
        self.flops_per_turn = 2 * DEPTH * tile.rows * tile.vectors * lanes
        self._library = Library([compile_object(emit_tile(tile, machine), machine)], [NAME])
        self._function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)(self._library[NAME])
        self._x = aligned_zeros(tile.rows * ROW_ELEMS)
        self._weights = aligned_zeros(DEPTH * tile.vectors * lanes)
        self._sums = aligned_zeros(tile.rows * tile.vectors * lanes)
        self._x[:], self._weights[:] = 1.0, np.float32(2.0**-40)  # sums grow slowly: neither overflow nor denormals

    def run(self, turns: int) -> int:
        """Runs the loop at least once, without the GIL; returns the number of its f32 operations."""
        turns = max(1, turns)
        self._function(address(self._x), address(self._weights), address(self._sums), turns)
        return turns * self.flops_per_turn

    @property
    def sums(self) -> np.ndarray:
        """(rows, columns) after the last run."""
        return self._sums.reshape(len(self._x) // ROW_ELEMS, -1)
