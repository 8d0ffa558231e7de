"""What Winograd's phases cost: operations, bytes and, by a machine's rates, time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from waterline.algorithms.base import Cost, Phase
from waterline.algorithms.blocking import (
    EVENLY_NOT_HIDDEN,
    TILE_CYCLES,
    Product,
    clock_hz,
    epilogue_cycles,
    overlapped,
    product_cycles,
    uneven,
    weight_seconds,
)
from waterline.algorithms.winograd.counts import Operations, operation_counts
from waterline.algorithms.winograd.emission import ELEM_BYTES, Variant
from waterline.algorithms.winograd.layer import Order, WinogradConfig, tiles_of, variant_of
from waterline.algorithms.winograd.transforms import Matrix
from waterline.machine import Machine
from waterline.spec import ConvSpec


@dataclass(frozen=True)
class Work:
    """Sizes of a layer in the transform domain. Vectors are of channels, outputs, and outputs of each channel."""

    variant: Variant
    tiles: int
    input_vectors: int
    output_vectors: int
    filter_vectors: int

    @property
    def input_cycles(self) -> float:
        """Each point is written to the second-level cache, and lines that are not there yet are read first."""
        stored = 6.0 * self.variant.points + self.variant.pixels / 2
        return self.input_vectors * (arithmetic_cycles(self.variant.rows.b, self.variant.columns.b) + stored)

    @property
    def filter_cycles(self) -> float:
        stored = 3.0 * self.variant.points + 5.0 * self.variant.r * self.variant.s
        return self.filter_vectors * (arithmetic_cycles(self.variant.rows.g, self.variant.columns.g) + stored)

    @property
    def output_cycles(self) -> float:
        moved = 2.0 * self.variant.points + 2.0 * self.variant.m_h * self.variant.m_w
        return self.output_vectors * (arithmetic_cycles(self.variant.rows.a, self.variant.columns.a) + moved)


def work_of(spec: ConvSpec, config: WinogradConfig, machine: Machine) -> Work:
    variant, lanes = variant_of(spec, config.m), machine.lanes()
    count = spec.n * tiles_of(spec, variant)
    vectors = -(-spec.k // lanes)
    return Work(variant, count, count * -(-spec.c // lanes), count * vectors, spec.c * vectors)


def arithmetic_cycles(rows: Matrix, columns: Matrix) -> float:
    """Cycles of a transform of one vector on both axes, two operations a cycle."""
    return _operations(rows, columns).instructions / 2


@cache
def _operations(rows: Matrix, columns: Matrix) -> Operations:
    """Of a transform on both axes: each column of the tile, and then each row of what that made."""
    down, across = operation_counts(rows) * len(columns[0]), operation_counts(columns) * len(rows)
    return Operations(down.instructions + across.instructions, down.flops + across.flops)


def _products(spec: ConvSpec, config: WinogradConfig, count: int) -> Product:
    rows = -(-count // config.rows) * config.rows
    chunk = config.chunk_elems or spec.c
    return Product(rows, 1, chunk, spec.k, spec.c // chunk, False, 0.0)


def cost(spec: ConvSpec, config: WinogradConfig, machine: Machine) -> Cost:
    """Time of all cores together."""
    seconds = {Order.FUSED: _fused, Order.PHASED: _phased, Order.STREAMED: _streamed}[config.order]
    rates = _Rates(spec, config, machine)
    flops = 2.0 * rates.variant.points * rates.product.rows * spec.c * spec.k
    return Cost(seconds(rates), flops, spec.least_bytes)


class _Rates:
    """What the times of all orders are made of."""

    def __init__(self, spec: ConvSpec, config: WinogradConfig, machine: Machine) -> None:
        self.spec, self.config, self.machine = spec, config, machine
        self.work = work_of(spec, config, machine)
        self.variant = self.work.variant
        self.product = _products(spec, config, self.work.tiles)
        self.per_second = clock_hz(machine) * machine.cores
        self.multiply = self.variant.points * product_cycles(self.product, config.tile, machine) / self.per_second
        cycles = self.work.input_cycles + self.work.output_cycles + epilogue_cycles(spec, machine)
        self.transforms = cycles / self.per_second
        self.v_bytes = self.work.tiles * self.variant.tile_stride(spec.c) * ELEM_BYTES
        self.m_bytes = self.work.tiles * self.variant.tile_stride(spec.k) * ELEM_BYTES
        self.weight_bytes = self.variant.points * spec.c * spec.k * ELEM_BYTES

    def moving(self, size_bytes: float, level: str) -> float:
        return size_bytes / self.machine.bytes_per_s(level, self.machine.cores)

    def uneven(self, items: int) -> float:
        """How much longer the last core works than the average, on the items of one image."""
        return uneven(-(-items // self.spec.n), self.machine)


def _fused(rates: _Rates) -> float:
    """All blocks but the first read the weights again, from L2 if they fit beside a block's data."""
    block_tiles, tiles = rates.config.block_tiles, rates.work.tiles
    blocks = -(-tiles // block_tiles)
    fits = rates.weight_bytes + rates.v_bytes * block_tiles / tiles < rates.machine.l2_bytes
    again = rates.moving(rates.weight_bytes * (blocks - 1), "l2" if fits else "l3")
    products = overlapped(rates.multiply * rates.uneven(blocks), again)
    return products + weight_seconds(rates.weight_bytes, rates.machine) + rates.transforms


def _phased(rates: _Rates) -> float:
    """The transformed data are written and read again, half of them by another core where there are several.

    One product's weights follow the other's, so their arrival is even and hides the multiplications, or these hide it.
    """
    moved = rates.v_bytes + rates.m_bytes
    level = "l2" if moved < rates.machine.l2_bytes // 2 else "l3"
    arriving = weight_seconds(rates.weight_bytes, rates.machine)
    products = overlapped(rates.multiply, arriving, share=EVENLY_NOT_HIDDEN)
    return products + rates.transforms + rates.moving(1.5 * moved, level)


def _streamed(rates: _Rates) -> float:
    """Filters are transformed once for each block of tiles; sums rest between chunks; every panel reads the tiles."""
    spec, config, machine = rates.spec, rates.config, rates.machine
    panels = -(-spec.k // (config.vectors * machine.lanes()))
    blocks = -(-rates.work.tiles // config.block_tiles)
    calls = rates.variant.points * panels * (spec.c // config.chunk_elems) * (rates.product.rows // config.rows)
    resting = calls * (TILE_CYCLES + 2.0 * config.rows * config.vectors) / rates.per_second
    filters = rates.work.filter_cycles * blocks / rates.per_second
    fits = rates.v_bytes <= machine.l2_bytes // 2
    level = "l2" if fits else "l3"
    written = "l2" if fits and machine.cores == 1 else "l3"  # a core needs what the others have transformed
    computing = (rates.multiply + resting + filters) * rates.uneven(panels * blocks)
    arriving = weight_seconds(spec.weight_bytes, machine)
    products = overlapped(computing, arriving, rates.moving(panels * rates.v_bytes, level))
    return products + rates.transforms + rates.moving(2 * rates.v_bytes, written)


def phases(spec: ConvSpec, config: WinogradConfig, machine: Machine) -> tuple[Phase, ...]:
    """Operations executed and bytes read and written by each phase."""
    work, variant, lanes = work_of(spec, config, machine), variant_of(spec, config.m), machine.lanes()
    axes = variant.rows, variant.columns
    points, vector_bytes = variant.points, lanes * ELEM_BYTES

    def flops(vectors: int, rows: Matrix, columns: Matrix) -> int:
        return vectors * lanes * _operations(rows, columns).flops

    product = _products(spec, config, work.tiles)
    multiplied = 2 * points * product.rows * spec.c * spec.k
    weights = points * spec.c * spec.k * ELEM_BYTES
    moved = (points * work.input_vectors + points * work.output_vectors) * vector_bytes + weights
    found = [
        Phase(
            "input",
            flops(work.input_vectors, axes[0].b, axes[1].b),
            (variant.pixels + points) * work.input_vectors * vector_bytes,
        ),
        Phase("gemm", multiplied, moved),
        Phase(
            "output",
            flops(work.output_vectors, axes[0].a, axes[1].a),
            (points + variant.m_h * variant.m_w) * work.output_vectors * vector_bytes,
        ),
    ]
    if config.order == Order.STREAMED:
        blocks = -(-work.tiles // config.block_tiles)
        times = blocks * work.filter_vectors
        transformed = (spec.taps + points) * times * vector_bytes
        found.insert(1, Phase("filter", flops(times, axes[0].g, axes[1].g), transformed))
    return tuple(found)
