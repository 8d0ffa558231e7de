"""The GEMM kernel alone: packing, tiles and tails, tables, groups, blocks, prefetching, and the order of items."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterline.codegen.cpu import gemm
from waterline.codegen.cpu.gemm import GemmKernel, Tile, any_tails, pack_bias, pack_panels, row_tails
from waterline.codegen.cpu.jit import Library, compile_object
from waterline.machine import CATALOGUE, ISAS, detect
from waterline.spec import Activation, Epilogue

LOCAL = detect()
RESTRICTIONS = [isa for isa, (arch, needed, _) in ISAS.items() if arch == LOCAL.arch and needed <= LOCAL.features]
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
BASE = GemmKernel(
    runs=1,
    run_elems=7,
    columns=19,
    groups=1,
    tile=Tile(3, 2, 2),
    tails=(2,),
    block_tiles=2,
    panel_outer=False,
    row_stride_elems=9,
    y_stride_elems=23,
    residual_stride_elems=0,
    epilogue=Epilogue(),
)


class Problem:
    """Random whole numbers for a kernel: `images` x `rows` rows of `a`, weights, bias and residual."""

    def __init__(self, kernel: GemmKernel, isa: str, rng: np.random.Generator, images: int = 2, rows: int = 8) -> None:
        self.kernel, self.machine, self.images, self.rows = kernel, LOCAL.restricted(isa), images, rows
        depth = kernel.runs * kernel.run_elems
        width = kernel.groups * kernel.columns

        def draw(*shape: int) -> np.ndarray:
            return rng.integers(-3, 4, shape).astype(np.float32)

        self.a = draw(images, rows, kernel.runs, kernel.groups, kernel.run_elems)
        self.weight, self.bias, self.residual = draw(width, depth), draw(width), draw(images, rows, width)
        self.offsets: np.ndarray | None = None
        if kernel.has_table:  # the runs of an image in any order, some of them in the row of zeros
            self.offsets = rng.permutation(rows * kernel.runs).reshape(rows, kernel.runs).astype(np.int32)
            self.is_zero = rng.random((rows, kernel.runs)) < 0.2

    def memory(self) -> np.ndarray:
        """`a` as the kernel finds it: (images, elements)."""
        k = self.kernel
        if self.offsets is None:
            spread = np.full((self.images, self.rows, k.row_stride_elems), np.nan, np.float32)
            flat = self.a.reshape(self.images, self.rows, -1)
            spread[:, :, : flat.shape[2]] = flat
            return spread.reshape(self.images, -1)
        pixel = k.groups * k.run_elems
        lying = np.full((self.images, self.rows * k.runs, pixel), np.nan, np.float32)
        lying[:, self.offsets.reshape(-1)] = self.a.reshape(self.images, -1, pixel)
        return lying.reshape(self.images, -1)

    def table(self) -> np.ndarray:
        """In the kernel's order: for each tile, for each run, the tile's rows."""
        k = self.kernel
        assert self.offsets is not None
        elems = np.where(self.is_zero, -1, self.offsets * k.groups * k.run_elems)
        pieces, row = [], 0
        for height in (k.tile.rows, *k.tails):
            while self.rows - row >= height:
                pieces.append(elems[row : row + height].T.reshape(-1))
                row += height
        assert row == self.rows
        return np.concatenate(pieces).astype(np.int32)

    def truth(self) -> np.ndarray:
        k, a = self.kernel, self.a.copy()
        if self.offsets is not None:
            a[:, self.is_zero] = 0
        groups = a.transpose(3, 0, 1, 2, 4).reshape(k.groups, self.images * self.rows, -1)
        y = np.matmul(groups, self.weight.reshape(k.groups, k.columns, -1).transpose(0, 2, 1))
        y = y.transpose(1, 0, 2).reshape(self.images, self.rows, -1)
        if k.epilogue.bias:
            y = y + self.bias
        if k.epilogue.residual:
            y = y + self.residual
        return np.maximum(y, 0) if k.epilogue.after else y

    def run(self, *, backwards: bool = False) -> np.ndarray:
        k, lanes = self.kernel, self.machine.lanes()
        key = k.key(self.machine)
        library = Library([compile_object(k.emit(key, self.machine), self.machine)], [key])
        a, y = self.memory(), np.full((self.images, self.rows, k.y_stride_elems), np.nan, np.float32)
        panels = pack_panels(self.weight, k.groups, k.tile.vectors, lanes)
        bias, zero = pack_bias(self.bias, lanes), np.zeros(64, np.float32)
        residual = np.zeros((self.images, self.rows, max(k.residual_stride_elems, 1)), np.float32)
        if k.epilogue.residual:
            residual[:, :, : self.residual.shape[2]] = self.residual
        table = self.table() if k.has_table else np.zeros(1, np.int32)
        blocks = max(1, -(-(self.rows // k.tile.rows) // k.block_tiles))
        args = np.zeros(gemm.RESIDUAL_IMAGE + 1, np.int64)
        arrays = {
            gemm.X: a,
            gemm.TABLE: table,
            gemm.ZERO: zero,
            gemm.PANELS: panels,
            gemm.BIAS: bias,
            gemm.Y: y,
            gemm.RESIDUAL: residual,
        }
        for word, array in arrays.items():
            args[word] = array.ctypes.data
        args[gemm.IMAGES], args[gemm.ROWS], args[gemm.BLOCKS] = self.images, self.rows, blocks
        args[gemm.X_IMAGE], args[gemm.Y_IMAGE] = a[0].nbytes, y[0].nbytes
        args[gemm.RESIDUAL_IMAGE] = residual[0].nbytes
        items = self.images * blocks * k.groups * k.panels(lanes)
        order = range(items)
        for item in reversed(order) if backwards else order:
            ENTRY(library[key])(args.ctypes.data, item, item + 1, None)
        width = k.groups * k.columns
        assert np.isnan(y[:, :, width:]).all(), "written between the rows"
        return y[:, :, :width]


KERNELS = {
    "plain": BASE,
    "one run exactly unrolled": replace(BASE, run_elems=4, tile=Tile(3, 2, 4)),
    "shorter than the unrolling": replace(BASE, run_elems=1, tile=Tile(3, 2, 4)),
    "one column": replace(BASE, columns=1, tile=Tile(3, 1, 2)),
    "panel outer": replace(BASE, panel_outer=True, block_tiles=1),
    "panel outer, one image after the other": replace(BASE, panel_outer=True, block_tiles=1, group_images=1),
    "panel outer, groups of as many images": replace(BASE, panel_outer=True, block_tiles=1, group_images=2),
    "block of one tile": replace(BASE, block_tiles=1),
    "any tails": replace(BASE, tile=Tile(6, 1, 2), tails=any_tails(6)),
    "a tail only": replace(BASE, tile=Tile(9, 1, 2), tails=(8,)),
    "prefetching": replace(BASE, prefetch_passes=2),
    "chunks": replace(BASE, runs=5, run_elems=7, row_stride_elems=40, chunk_runs=2, prefetch_passes=3),
    "chunks of one run, with an epilogue": replace(
        BASE,
        runs=3,
        row_stride_elems=64,
        chunk_runs=1,
        residual_stride_elems=21,
        epilogue=Epilogue(bias=True, residual=True, after=Activation("relu")),
    ),
    "chunks that are added": replace(
        BASE, runs=5, run_elems=7, row_stride_elems=40, chunk_runs=2, adds_chunks=True, epilogue=Epilogue(bias=True)
    ),
    "chunks of a table": replace(BASE, runs=5, row_stride_elems=0, chunk_runs=2, prefetch_passes=1),
    "epilogue": replace(
        BASE, residual_stride_elems=21, epilogue=Epilogue(bias=True, residual=True, after=Activation("relu"))
    ),
    "table": replace(BASE, runs=3, row_stride_elems=0),
    "table of one run": replace(BASE, row_stride_elems=0),
    "groups": replace(BASE, runs=2, row_stride_elems=0, groups=3, columns=5, run_elems=3, tile=Tile(3, 1, 2)),
    "groups wider than a panel": replace(
        BASE, runs=2, row_stride_elems=0, groups=2, columns=35, run_elems=3, y_stride_elems=75, epilogue=Epilogue(True)
    ),
}


@pytest.mark.parametrize("isa", RESTRICTIONS)
@pytest.mark.parametrize("name", KERNELS)
def test_products_of_whole_numbers_are_exact(name: str, isa: str, rng):
    problem = Problem(KERNELS[name], isa, rng)
    y = problem.run()
    np.testing.assert_array_equal(y, problem.truth())
    assert y.tobytes() == problem.run(backwards=True).tobytes()


@pytest.mark.parametrize("isa", RESTRICTIONS)
def test_blocking_does_not_change_a_bit(isa: str, rng):
    """Each element is one chain of multiply-adds in the order of depth, whatever the tile and the unrolling."""
    base = replace(BASE, run_elems=37, row_stride_elems=37, epilogue=Epilogue(bias=True))
    problem = Problem(base, isa, rng)
    problem.a = rng.standard_normal(problem.a.shape).astype(np.float32)
    problem.weight = rng.standard_normal(problem.weight.shape).astype(np.float32)
    results = set()
    for tile in (Tile(3, 2, 2), Tile(1, 1, 1), Tile(8, 1, 3), Tile(4, 2, 64)):
        problem.kernel = replace(base, tile=tile, tails=any_tails(tile.rows), panel_outer=tile.rows == 1)
        results.add(problem.run().tobytes())
    assert len(results) == 1


def test_a_kernel_reads_its_rows_only():
    """What lies between the rows is NaN in these tests: no product may meet it."""
    problem = Problem(BASE, RESTRICTIONS[0], np.random.default_rng(1))
    assert np.isnan(problem.memory()).any()
    assert np.isfinite(problem.run()).all()


# ---- packing --------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 4),
    columns=st.integers(1, 40),
    depth=st.integers(1, 9),
    vectors=st.integers(1, 4),
    lanes=st.sampled_from([4, 8, 16]),
)
def test_panels_hold_every_weight_once_and_zeros(groups: int, columns: int, depth: int, vectors: int, lanes: int):
    weight = np.arange(1, groups * columns * depth + 1, dtype=np.float32).reshape(groups * columns, depth)
    packed = pack_panels(weight, groups, vectors, lanes)
    padded = -(-columns // lanes) * lanes
    assert packed.shape == (groups * padded * depth,)
    width = vectors * lanes
    for group in range(groups):
        one = packed.reshape(groups, -1)[group]
        for first in range(0, columns, width):
            wide = min(width, padded - first)
            panel = one[first * depth : (first + wide) * depth].reshape(depth, wide)
            used = min(wide, columns - first)
            rows = weight[group * columns + first : group * columns + first + used]
            assert (panel[:, :used] == rows.T).all()
            assert (panel[:, used:] == 0).all()


def test_the_bias_may_be_read_a_vector_too_far():
    packed = pack_bias(np.arange(5, dtype=np.float32), 8)
    assert packed.tolist() == [0, 1, 2, 3, 4] + [0] * 8


@given(rows=st.integers(0, 200), tile=st.integers(1, 24))
def test_tails_cover_what_is_left(rows: int, tile: int):
    assert sum(row_tails(rows, tile)) == rows % tile
    left = rows % tile
    for height in any_tails(tile):
        assert 0 < height < tile
        left %= height
    assert left == 0


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_cycles_of_a_tile_are_at_least_those_of_its_arithmetic(machine):
    for tile in (Tile(1, 1), Tile(6, 2), Tile(14, 2), Tile(5, 4)):
        cycles = tile.cycles_per_depth(machine)
        assert cycles >= tile.rows * tile.vectors / machine.fma_ports
        assert cycles >= machine.fma_latency


@pytest.mark.parametrize("images", [1, 2, 3, 5, 7])
def test_groups_of_images(images: int, rng):
    """The last group is smaller; every image is computed once, whatever the order of items."""
    kernel = replace(BASE, panel_outer=True, block_tiles=1, group_images=3)
    problem = Problem(kernel, LOCAL.isa, rng, images=images)
    np.testing.assert_array_equal(problem.run(), problem.truth())
