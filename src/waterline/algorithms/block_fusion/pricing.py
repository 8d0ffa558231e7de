"""What a block costs: the cycles of its layers on strips, what passes through the second-level cache, what enters and
leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from waterline.algorithms.block_fusion.flow import Flow, overlaps
from waterline.algorithms.block_fusion.layers import algorithm_of, rings, takes_pixels
from waterline.algorithms.blocking import (
    NEAR_BYTES,
    GemmConfig,
    Product,
    chunk_elems,
    clock_hz,
    epilogue_cycles,
    has_far_weights,
    product_cycles,
    product_flops,
    tiles,
)
from waterline.algorithms.depthwise import DEPTHWISE
from waterline.algorithms.grouped import GROUPED
from waterline.algorithms.indirect.model import product_of
from waterline.algorithms.operator_cost import passes
from waterline.codegen.cpu.gemm import Tile
from waterline.graph import ops
from waterline.graph.block import BlockLayer, BlockSpec
from waterline.machine import Machine
from waterline.spec import ConvSpec

# Cycles of a layer's call for one strip (or one row, through tables): its arguments, its addresses, the counters.
CALL_CYCLES = 120.0
# Cycles for each vector of an operator's result that does more than to pass on what it reads.
OPERATOR_CYCLES = {ops.LayerNorm: 13.0, ops.Pool: 8.0}
# For each vector that moves to the beginning of its buffer, from the second-level cache to there. (MobileNetV2's and
# EfficientNet's windows of 100 KB a move: 8 to 9.)
MOVE_CYCLES = 8.0


@dataclass(frozen=True)
class BlockConfig:
    """Rows of a strip of the result, rows that each inner layer's buffer holds, and each layer's own config (None for
    operators)."""

    strip_rows: int
    buffer_rows: tuple[int, ...]
    layers: tuple[Any, ...]


@lru_cache(maxsize=4096)
def _tile_config(product: Product, is_far: bool, machine: Machine) -> GemmConfig:
    """The best tile for the product of a strip, whose weights a strip before it has read or not."""
    unroll = 4 if product.run_elems >= 64 else 2
    best = min(
        tiles(machine, product.columns, product.rows, unroll),
        key=lambda tile: product_cycles(product, tile, machine, is_far=is_far),
    )
    # Of a strip's product, panels are the outer loop; requests for a chunk are spread over the tiles of one strip.
    strip_tiles = -(-product.rows // best.rows)
    if is_far:
        chunk = chunk_elems(product, best, machine)
        return GemmConfig(best.rows, best.vectors, best.unroll, strip_tiles, False, chunk)
    panel_bytes = product.depth * best.vectors * machine.vector_bytes
    near_bytes = NEAR_BYTES if panel_bytes > machine.l1d_bytes // 2 else 0
    return GemmConfig(best.rows, best.vectors, best.unroll, strip_tiles, False, near_bytes=near_bytes)


@lru_cache(maxsize=4096)
def _product_cycles(product: Product, tile: Tile, is_far: bool, machine: Machine) -> float:
    return product_cycles(product, tile, machine, is_far=is_far)


@lru_cache(maxsize=1024)
def _own_config(spec: ConvSpec, machine: Machine) -> Any:
    """What the layer's algorithm takes for an image of its own."""
    return algorithm_of(spec).configs(spec, machine)[0]


def _strip_product(spec: ConvSpec, rows: int) -> tuple[Product, int]:
    """The product of one call for so many rows, and how many calls that takes."""
    whole = product_of(spec)
    has_table = not takes_pixels(spec)
    pixels = spec.q if has_table else rows * spec.q
    runs, run = (whole.runs, whole.run_elems) if has_table else (1, spec.c)
    product = Product(pixels, runs, run, whole.columns, whole.groups, has_table, whole.row_bytes)
    return product, rows if has_table else 1


def layer_configs(block: BlockSpec, flow: Flow, strip_rows: int, machine: Machine) -> tuple[Any, ...]:
    """The config of each layer's own algorithm for strips of so many rows; None for operators."""
    strips = flow.strips(strip_rows)
    computed = flow.computed(strip_rows, 1)
    found: list[Any] = []
    for layer, rows in zip(block.layers, computed, strict=True):
        spec = layer.spec
        if spec is None:
            found.append(None)
            continue
        one = spec.with_batch(1)
        algorithm = algorithm_of(one)
        if algorithm is DEPTHWISE or algorithm is GROUPED:
            own = _own_config(one, machine)
            if not isinstance(own, GemmConfig):
                found.append(own)
                continue
        product, _ = _strip_product(one, max(1, round(rows / strips)))
        is_far = one.is_pointwise and has_far_weights(replace(product, rows=product.rows * strips), machine)
        found.append(_tile_config(product, is_far, machine))
    return tuple(found)


@dataclass(frozen=True)
class BlockWork:
    """Of one image.

    Attributes:
        cycles: of all strips together. flops: executed. items: that threads share.
        inner_bytes: of inner tensors that pass through a core's second-level cache.
        weight_bytes: of weights that strips read, those of every strip counted.
    """

    cycles: float
    flops: float
    items: int
    inner_bytes: float
    weight_bytes: float

    @classmethod
    def of(cls, block: BlockSpec, flow: Flow, config: BlockConfig, bands: int, machine: Machine) -> BlockWork:
        strips = flow.strips(config.strip_rows)
        rows = flow.computed(config.strip_rows, bands)
        cycles, flops, inner_bytes, weight_bytes = 0.0, 0.0, 0.0, 0.0
        for layer, own, total in zip(block.layers, config.layers, rows, strict=True):
            share = total / layer.output[2]
            layer_cycles, layer_flops = _layer_work(layer, own, total, strips, machine)
            if layer.inputs[0] >= len(block.inputs) and not isinstance(own, GemmConfig):
                layer_cycles = max(layer_cycles, _window_cycles(layer, total, machine))
            cycles += layer_cycles + strips * CALL_CYCLES
            flops += layer_flops
            if layer is not block.layers[-1]:
                inner_bytes += 3 * share * 4 * _elems(layer)  # written, and read at least once, with its lines evicted
            if layer.spec is not None:
                _, calls = _strip_product(layer.spec, max(1, round(total / strips)))
                weight_bytes += strips * calls * layer.spec.weight_bytes
        again = overlaps(flow, config.strip_rows)
        in_rings = rings(block, config.layers)
        for layer, kept, held, total, is_ring in zip(
            block.layers, again, config.buffer_rows, rows, in_rings, strict=False
        ):
            if is_ring:
                continue
            strips_a_move = max(1, int((held - kept) * strips // max(total, 1)))
            vectors = kept * _elems(layer) / layer.output[2] / machine.lanes()
            cycles += strips / strips_a_move * vectors * MOVE_CYCLES
        return cls(cycles, flops, bands, inner_bytes, weight_bytes)


def _layer_work(layer: BlockLayer, config: Any, rows: int, strips: int, machine: Machine) -> tuple[float, float]:
    """Cycles and operations of a layer that computes so many rows in so many strips."""
    spec = layer.spec
    share = rows / layer.output[2]
    if spec is None:
        moved = 2 * 4 * _elems(layer) * share
        moving = passes(layer.op) * moved * clock_hz(machine) / machine.bytes_per_s("l2")
        return max(moving, OPERATOR_CYCLES.get(type(layer.op), 0.0) * moved / (2 * machine.vector_bytes)), 0.0
    activations = share * epilogue_cycles(spec, machine)
    if isinstance(config, GemmConfig):
        each = max(1, round(rows / strips))
        product, calls = _strip_product(spec, each)
        times = rows / each
        is_far = config.chunk_elems > 0
        one = _product_cycles(product, config.tile, is_far, machine)
        cycles = times * (calls * one + (calls - 1) * CALL_CYCLES)
        return cycles + activations, times * calls * product_flops(product, machine)
    algorithm = DEPTHWISE if algorithm_of(spec) is DEPTHWISE else GROUPED
    return rows * algorithm.row_cycles(spec, config, machine) + activations, share * spec.flops


def _window_cycles(layer: BlockLayer, rows: int, machine: Machine) -> float:
    """Cycles in which the rows of a window, from the second-level cache, pass through the filters of a column kernel:
    each row once for every filter row that meets it."""
    spec = layer.spec
    if spec is None:
        return 0.0
    vectors = rows * spec.r * spec.w * spec.c / machine.lanes()
    return vectors * machine.vector_bytes * clock_hz(machine) / machine.bytes_per_s("l2")


def moving_seconds(block: BlockSpec, machine: Machine) -> float:
    """As `blocking.moving_seconds`: the result's lines are read before they are written."""
    level = machine.level_of(block.input_bytes + block.output_bytes, machine.cores)
    return (block.input_bytes + 2 * block.output_bytes) / machine.bytes_per_s(level, machine.cores)


def _elems(layer: BlockLayer) -> int:
    n, c, h, w = layer.output
    return n * c * h * w
