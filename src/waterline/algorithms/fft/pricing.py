"""What a layer costs, and which tiles and blocks are worth it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache

from waterline.algorithms.base import Cost, Phase
from waterline.algorithms.blocking import clock_hz, overlapped, uneven, weight_seconds
from waterline.algorithms.fft import axes
from waterline.algorithms.fft.geometry import ELEM_BYTES, Slots
from waterline.algorithms.fft.layer import GROUP_BYTES
from waterline.algorithms.fft.product import ComplexTile, tiles
from waterline.algorithms.fft.tiling import (
    FftConfig,
    Tiling,
    Window,
    axes_of,
    block_tiles_of,
    is_filter,
    is_line,
    tilings_of,
    working_windows,
)
from waterline.machine import Machine
from waterline.spec import ConvSpec

LARGEST_SPECTRA_BYTES = 1 << 30
# Points of one axis of a tile: a line has two such axes, and on a plane more gain nothing.
LONGEST_AXIS = 256
# Tiles of more than so many times the taps of an axis save nothing, but small ones may be so long.
LONGEST_TILE_TAPS, LEAST_LONGEST_TILE = 4, 32
# Lines of about so many times the taps.
LINE_TAPS = (2, 2.5, 3, 4, 6, 8)
MOST_LENGTHS = 5
MOST_CONFIGS = 4


class Work:
    """Operations, bytes and cycles of one layer's phases."""

    def __init__(self, spec: ConvSpec, config: FftConfig, machine: Machine) -> None:
        self.spec, self.config, self.machine = spec, config, machine
        self.columns, self.rows = axes_of(config, machine)
        down, along = tilings_of(spec, config)
        self.lanes = machine.lanes()
        self.tiles = spec.n * down.tiles * along.tiles
        self.sides = (Slots(spec.c, self.lanes), Slots(spec.k, self.lanes))
        self.vectors = tuple(s.count(self.tiles) for s in self.sides)
        high, _ = working_windows(spec)
        # Rows of a tile that are transformed: on a plane those in the image, of all tiles together.
        n = config.points_h
        if is_line(spec):
            self.rows_in = self.rows_out = float(n)
        else:
            tops = [t * down.m + down.origin for t in range(down.tiles)]
            inside = [max(0, min(top + n, high.last) - max(top, 0)) for top in tops]
            self.rows_in = sum(inside) / down.tiles
            self.rows_out = high.outputs / down.tiles
        self.spectra_bytes = spectra_bytes(spec, config.points_h, self.rows.count, machine)
        self.half_way = self.rows.count * self.columns.n * 2 * machine.vector_bytes

    def _cycles(self) -> tuple[float, float, float, float]:
        """Of rows in, columns both ways, rows out; and of the product alone."""
        machine, columns, rows = self.machine, self.columns, self.rows
        turns = 2 * columns.n if is_line(self.spec) else 0
        read = rows.n * 1.5 * self.sides[0].tiles + 20  # pixels to the buffer, tile by tile
        written = rows.n * 2.5 * self.sides[1].tiles + 20
        ahead = self.vectors[0] * self.rows_in * (axes.cycles(rows, machine) + read)
        back = self.vectors[1] * self.rows_out * (axes.cycles(rows, machine, True) + written)
        there = rows.count * (axes.cycles(columns, machine) + turns + 10)
        again = rows.count * (axes.cycles(columns, machine, True) + turns + 10)
        if is_filter(self.spec):
            product = self.vectors[0] * rows.count * columns.n * 3.0
            return ahead, self.vectors[0] * (there + again), back, product
        tile = ComplexTile(self.config.tile_rows, self.config.tile_vectors)
        block = block_tiles_of(self.spec, self.config, self.lanes)
        row_tiles = self.tiles // block * (block // tile.rows) + -(-(self.tiles % block) // tile.rows)
        panels, rest = divmod(self.spec.group_k, tile.panel_columns(self.lanes))
        cycles = panels * tile.cycles(self.spec.group_c, machine)
        if rest:
            cycles += ComplexTile(tile.rows, -(-rest // self.lanes)).cycles(self.spec.group_c, machine)
        product = rows.count * columns.n * self.spec.groups * row_tiles * cycles
        return ahead, self.vectors[0] * there + self.vectors[1] * again, back, product

    def cost(self) -> Cost:
        return Cost(self.seconds(), sum(phase.flops for phase in self.phases()), self.spec.least_bytes)

    def seconds(self) -> float:
        spec, machine = self.spec, self.machine
        ahead, columns, back, product = self._cycles()
        clock = clock_hz(machine)
        arriving = weight_seconds(self.spectra_bytes, machine)
        half_way = sum(self.vectors) * self.half_way
        if is_filter(spec):
            # One vector at a time goes there and back through the second-level cache.
            compute = self._spread(ahead + columns + back + product, self.vectors[0]) / clock
            level = "l2" if self.half_way < machine.l2_bytes // 2 else "l3"
            passes = self.tiles / self.sides[0].tiles
        else:
            items = self.rows.count * -(-self.tiles // block_tiles_of(spec, self.config, self.lanes))
            compute = self._spread(ahead, self.vectors[0]) + self._spread(back, self.vectors[1])
            compute = (compute + self._spread(columns + product, items)) / clock
            level = (
                "l2" if half_way < machine.l2_bytes // 2 else "l3" if half_way < machine.l3_share_bytes // 2 else "dram"
            )
            passes = half_way / GROUP_BYTES
        moved = 2 * half_way / machine.bytes_per_s(level, machine.cores)
        near = "l2" if self.spectra_bytes < machine.l2_bytes // 2 else "l3"
        again = self.spectra_bytes * max(0.0, passes - 1) / machine.bytes_per_s(near, machine.cores)
        # Pixels are read and written a vector at a time, which no prefetcher guesses: that does not hide.
        pixels = spec.input_bytes + 2 * spec.output_bytes
        far = machine.bytes_per_s(machine.level_of(pixels), machine.cores)
        return overlapped(compute, moved, arriving + again) + pixels / far

    def _spread(self, cycles: float, items: int) -> float:
        """Of so many items on all cores."""
        return cycles / self.machine.cores * uneven(items, self.machine)

    def phases(self) -> tuple[Phase, ...]:
        spec, rows, columns, lanes = self.spec, self.rows, self.columns, self.lanes
        half_way = [v * self.half_way * 1.0 for v in self.vectors]
        row = [v * lanes * axes.flops(rows) for v in self.vectors]
        column = [v * lanes * rows.count * axes.flops(columns) for v in self.vectors]
        places = rows.count * columns.n
        if is_filter(spec):
            product = 6.0 * self.vectors[0] * lanes * places
            return (
                Phase("input", row[0] * self.rows_in, spec.input_bytes + half_way[0]),
                Phase("columns", 2 * column[0] + product, 2 * half_way[0] + self.spectra_bytes),
                Phase("output", row[1] * self.rows_out, half_way[1] + spec.output_bytes),
            )
        tile = self.config.tile_rows
        panels = -(-spec.group_k // lanes) * lanes
        product = 8.0 * places * -(-self.tiles // tile) * tile * spec.c * panels
        return (
            Phase("input", row[0] * self.rows_in + column[0], spec.input_bytes + 3 * half_way[0]),
            Phase("gemm", product, sum(half_way) + self.spectra_bytes),
            Phase("output", column[1] + row[1] * self.rows_out, 3 * half_way[1] + spec.output_bytes),
        )


def spectra_bytes(spec: ConvSpec, points_h: int, frequencies_w: int, machine: Machine) -> int:
    lanes = machine.lanes()
    if is_filter(spec):
        elems = Slots(spec.c, lanes).vectors * 2 * lanes
    else:
        elems = spec.groups * spec.group_c * 2 * (-(-spec.group_k // lanes) * lanes)
    return points_h * frequencies_w * elems * ELEM_BYTES


def _axis_lengths(window: Window) -> list[int]:
    """Points of a tile worth pricing: for each number of tiles the fewest, and of these the least work an output."""
    most = max(window.taps * LONGEST_TILE_TAPS, LEAST_LONGEST_TILE)
    fewest: dict[int, int] = {}
    for n in reversed(axes.lengths(max(2, window.taps), LONGEST_AXIS)):
        tiles = Tiling.of(window, n).tiles
        if n <= most or tiles == 1:
            fewest[tiles] = n
    if not fewest:
        return axes.lengths(window.taps, LONGEST_AXIS)[:1]
    # Transforms, and per point what is read, multiplied and written.
    return sorted(fewest.values(), key=lambda n: Tiling.of(window, n).tiles * n * (math.log2(n) + 4))[:MOST_LENGTHS]


@cache
def _folds() -> dict[int, tuple[int, int]]:
    """Points of a line -> the two axes that it is folded into, as equal as they can be."""
    sizes = axes.lengths(1, LONGEST_AXIS)
    folds: dict[int, tuple[int, int]] = {}
    for n_h in sizes:
        for n_w in sizes:
            n = n_h * n_w
            if max(n_h, 2) <= n_w <= 4 * max(n_h, 4) and (n not in folds or n_w < folds[n][1]):
                folds[n] = n_h, n_w
    return folds


def lengths_of(spec: ConvSpec) -> Iterator[tuple[int, int]]:
    """Points on both axes worth pricing."""
    high, wide = working_windows(spec)
    if not is_line(spec):
        yield from itertools.product(_axis_lengths(high), _axis_lengths(wide))
        return
    lengths = sorted(n for n in _folds() if n >= wide.taps)
    one = wide.one_tile()
    wanted = {one} | {min(one, int(wide.taps * times) + 8) for times in LINE_TAPS}
    chosen = {next((n for n in lengths if n >= want), lengths[-1]) for want in wanted}
    yield from (_folds()[n] for n in sorted(chosen))


@cache
def candidates(spec: ConvSpec, machine: Machine) -> tuple[FftConfig, ...]:
    """The best few by cost, of different points."""
    ranked: list[tuple[float, FftConfig]] = []
    for n_h, n_w in lengths_of(spec):
        if spectra_bytes(spec, n_h, n_w // 2 + 1, machine) > LARGEST_SPECTRA_BYTES:
            continue
        found = [(Work(spec, c, machine).seconds(), c) for c in _blockings(spec, n_h, n_w, machine)]
        ranked.append(min(found, key=lambda entry: entry[0]))
    ranked.sort(key=lambda entry: entry[0])
    return tuple(config for _, config in ranked[:MOST_CONFIGS])


def _blockings(spec: ConvSpec, n_h: int, n_w: int, machine: Machine) -> list[FftConfig]:
    """For one size of tiles: register tiles, and blocks of tiles that stay in half the second-level cache."""
    if is_filter(spec):
        return [FftConfig(n_h, n_w)]
    lanes = machine.lanes()
    down, along = tilings_of(spec, FftConfig(n_h, n_w))
    count = down.tiles * along.tiles
    sides = (Slots(spec.c, lanes), Slots(spec.k, lanes))

    def blocked(tile: ComplexTile) -> FftConfig:
        tile_bytes = n_h * 2 * sum(s.slot for s in sides) * ELEM_BYTES
        block = max(1, machine.l2_bytes // 2 // tile_bytes // tile.rows) * tile.rows
        return FftConfig(n_h, n_w, tile.rows, tile.vectors, min(block, -(-count // tile.rows) * tile.rows))

    def cycles(tile: ComplexTile) -> float:
        panels = -(-spec.group_k // tile.panel_columns(lanes))
        return panels * -(-count // tile.rows) * tile.cycles(spec.group_c, machine)

    best = sorted(tiles(machine, spec.group_k, max(count, 1)), key=lambda tile: (cycles(tile), -tile.rows))
    return [blocked(tile) for tile in best[:2]]
