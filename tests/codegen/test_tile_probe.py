"""The loop of a tile alone: that it computes what a tile computes, for every machine."""

from __future__ import annotations

import numpy as np
import pytest

from waterline.codegen.cpu.gemm import Tile
from waterline.codegen.cpu.jit import compile_object
from waterline.codegen.cpu.tile_probe import DEPTH, TileProbe, emit_tile
from waterline.machine import CATALOGUE, Machine, detect


@pytest.mark.parametrize("tile", [Tile(6, 2, 4), Tile(1, 1, 1), Tile(3, 3, 2)], ids=str)
def test_sums(tile: Tile):
    probe = TileProbe(tile, detect())
    flops = probe.run(3)
    assert flops == 3 * 2 * DEPTH * probe.sums.size
    assert probe.sums.shape == (tile.rows, tile.vectors * detect().lanes())
    np.testing.assert_array_equal(probe.sums, np.float32(3 * DEPTH * 2.0**-40))


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda machine: machine.name)
def test_compiles_for_every_machine(machine: Machine):
    assert compile_object(emit_tile(Tile(3, 2, 4), machine), machine)
