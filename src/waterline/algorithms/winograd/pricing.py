"""What Winograd's phases cost: operations, bytes and, by a machine's rates, time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from waterline.algorithms.base import Cost, Phase
from waterline.algorithms.blocking import (
    TILE_CYCLES,
    Product,
    clock_hz,
    overlapped,
    product_cycles,
    weight_seconds,
)
from waterline.algorithms.winograd.counts import operation_counts
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


@cache
def arithmetic_cycles(rows: Matrix, columns: Matrix) -> float:
    """Cycles of a transform of one vector on both axes, two operations a cycle."""
    return _transform_flops(rows, columns, lambda counted: counted.instructions) / 2


def _transform_flops(rows: Matrix, columns: Matrix, count) -> float:  # type: ignore[no-untyped-def]
    return count(operation_counts(rows)) * len(columns[0]) + count(operation_counts(columns)) * len(rows)


def _products(spec: ConvSpec, config: WinogradConfig, count: int) -> Product:
    rows = -(-count // config.rows) * config.rows
    chunk = config.chunk_elems or spec.c
    return Product(rows, 1, chunk, spec.k, spec.c // chunk, False, 0.0)


def cost(spec: ConvSpec, config: WinogradConfig, machine: Machine) -> Cost:
    """Time of all cores together."""
    work, variant, cores = work_of(spec, config, machine), variant_of(spec, config.m), machine.cores
    lanes, per_second = machine.lanes(), clock_hz(machine) * machine.cores
    product = _products(spec, config, work.tiles)
    rate = {level: machine.bytes_per_s(level, cores) for level in ("l2", "l3", "dram")}
    multiply = variant.points * product_cycles(product, config.tile, machine) / per_second
    transforms = (work.input_cycles + work.output_cycles) / per_second
    v_bytes = work.tiles * variant.tile_stride(spec.c) * ELEM_BYTES
    m_bytes = work.tiles * variant.tile_stride(spec.k) * ELEM_BYTES
    panels = -(-spec.k // (config.vectors * lanes))
    if config.order == Order.STREAMED:
        blocks = -(-work.tiles // config.block_tiles)
        chunks = spec.c // config.chunk_elems
        row_tiles = product.rows // config.rows
        resting = variant.points * panels * chunks * row_tiles * (TILE_CYCLES + 2.0 * config.rows * config.vectors)
        filters = work.filter_cycles * blocks / per_second
        arriving = weight_seconds(spec.taps * spec.c * spec.k * ELEM_BYTES, machine)
        again = panels * v_bytes / rate["l2" if v_bytes <= machine.l2_bytes // 2 else "l3"]
        uneven = _uneven(panels * -(-blocks // spec.n), cores)
        seconds = overlapped((multiply + resting / per_second + filters) * uneven, arriving, again)
        seconds += transforms + 2 * v_bytes / rate["l2" if v_bytes <= machine.l2_bytes // 2 else "l3"]
    elif config.order == Order.FUSED:
        weights = variant.points * spec.c * spec.k * ELEM_BYTES
        blocks = -(-work.tiles // config.block_tiles)
        block_bytes = config.block_tiles * (v_bytes / work.tiles)
        level = "l2" if weights + block_bytes < machine.l2_bytes else "l3"
        again = weights * (blocks - 1) / rate[level]
        seconds = (
            overlapped(multiply * _uneven(-(-blocks // spec.n), cores), again)
            + weight_seconds(weights, machine)
            + transforms
        )
    else:
        weights = variant.points * spec.c * spec.k * ELEM_BYTES
        level = "l2" if v_bytes + m_bytes < machine.l2_bytes // 2 else "l3"
        seconds = overlapped(multiply, weight_seconds(weights, machine))
        seconds += transforms + 3 * (v_bytes + m_bytes) / rate[level]
    flops = 2.0 * variant.points * product.rows * spec.c * spec.k
    return Cost(seconds, flops, spec.least_bytes)


def _uneven(items: int, cores: int) -> float:
    """How much longer the last core works than the average, on the items of one image."""
    return -(-items // cores) * cores / items


def phases(spec: ConvSpec, config: WinogradConfig, machine: Machine) -> tuple[Phase, ...]:
    """Operations executed and bytes read and written by each phase."""
    work, variant, lanes = work_of(spec, config, machine), variant_of(spec, config.m), machine.lanes()
    axes = variant.rows, variant.columns
    points, vector_bytes = variant.points, lanes * ELEM_BYTES

    def flops(vectors: int, rows: Matrix, columns: Matrix) -> int:
        return int(vectors * lanes * _transform_flops(rows, columns, lambda counted: counted.flops))

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
