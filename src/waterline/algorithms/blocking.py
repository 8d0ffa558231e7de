"""How GEMM-like algorithms choose tiles and blocks: from registers, caches and rates, for any machine."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.codegen.cpu.gemm import ELEM_BYTES, Tile
from waterline.machine import Machine
from waterline.spec import ConvSpec

# Cycles around a tile's inner loop: call, addresses, accumulators in and out; and for each row of each run of depth.
TILE_CYCLES = 24.0
ROW_POINTER_CYCLES = 1.0

# With more rows than this over each panel, the time its weights take to arrive does not matter.
MOST_FAR_ROWS = 560
# Weights that come from far are multiplied in chunks of the depth: small next to the second-level cache, about as large
# as the first. (7x7 maps: 2048 -> 512 in chunks of 1024, 512 and 256 elements took 668, 650 and 625 us.) Shorter chunks
# than so many elements spend too much on their sums.
CHUNKS_OF_L2 = 32
# Blocks of rows that are made for the sake of several cores: each reads all weights.
MOST_ROW_SHARES = 4
LEAST_CHUNK_ELEMS = 96
# Cycles for each vector of outputs of activations that need an exponential, a logarithm or a division; the others hide
# behind the stores. (Behind tiles of 6x4 with 64 elements' depth, against ReLU, on AVX-512: SiLU 10, GELU 7.5.)
ACTIVATION_CYCLES = 10.0
CHEAP_ACTIVATIONS = frozenset({"relu", "leaky_relu", "clip", "hard_sigmoid", "hard_swish", "abs", "neg", "square"})
# How far ahead of its use a panel is asked for that exceeds the first-level cache but is in the second. (Products of
# 512 elements' depth on tiles of 6x4: 84 % of the same peak without, 86, 88 and 88 % with 512, 1024 and 2048 bytes. It
# does harm where panels come from memory: the processor's own prefetching is better there.)
NEAR_BYTES = 1024
# The part of a shorter stream (arithmetic, memory) that does not hide behind the longest.
NOT_HIDDEN = 0.3
EVENLY_NOT_HIDDEN = 0.1  # where both streams are even: requests are spread over the work


@dataclass(frozen=True)
class Product:
    """The sizes of the matrix product behind a layer, for one image and one group.

    `rows` x (`runs` * `run_elems`) x `columns`; `row_bytes` is how much fresh input a row needs.
    """

    rows: int
    runs: int
    run_elems: int
    columns: int
    groups: int
    has_table: bool
    row_bytes: float

    @property
    def depth(self) -> int:
        return self.runs * self.run_elems

    @property
    def weight_bytes(self) -> int:
        return self.depth * self.columns * self.groups * ELEM_BYTES


@dataclass(frozen=True)
class GemmConfig:
    """A blocking: the register tile, main tiles in a block of rows, whether panels are the outer loop, how much of the
    depth is multiplied at a time while the weights of the next such chunk are on their way (0: all of it), and how far
    ahead of their use weights are asked for from the second-level cache (0: not). Panels that are the outer loop pass
    over `group_images` images of a batch before the next ones (0: over all)."""

    rows: int
    vectors: int
    unroll: int
    block_tiles: int
    panel_outer: bool
    chunk_elems: int = 0
    near_bytes: int = 0
    group_images: int = 0

    @property
    def tile(self) -> Tile:
        return Tile(self.rows, self.vectors, self.unroll)

    def chunking(self, product: Product) -> Chunking:
        """How the kernel walks the depth of `product`."""
        if not self.chunk_elems:
            return Chunking(product.runs, product.run_elems)
        passes = min(-(-product.rows // self.rows), self.block_tiles)
        if product.has_table:
            return Chunking(product.runs, product.run_elems, max(1, self.chunk_elems // product.run_elems), passes)
        return Chunking(product.depth // self.chunk_elems, self.chunk_elems, 1, passes)


@dataclass(frozen=True)
class Chunking:
    """The depth as runs, runs of a chunk, and passes over which the request for the next chunk is spread."""

    runs: int
    run_elems: int
    chunk_runs: int = 0
    prefetch_passes: int = 0


def clock_hz(machine: Machine) -> float:
    """The clock at which the measured (or estimated) peak is reached."""
    return machine.peak() / (machine.lanes() * 2 * machine.multiply_adds_per_cycle)


def tile_cycles(product: Product, tile: Tile, rows: int, machine: Machine, is_far: bool) -> float:
    """Cycles of one tile of `rows` rows over the whole depth, while its weights arrive from afar or not."""
    shape = Tile(rows, tile.vectors, tile.unroll)
    step = shape.cycles_per_depth(machine)
    panel_bytes = product.depth * tile.vectors * machine.vector_bytes
    if panel_bytes > machine.l1d_bytes // 2:
        streaming = tile.vectors * machine.vector_bytes * clock_hz(machine) / machine.bytes_per_s("l2")
        step = overlapped(step, streaming, share=EVENLY_NOT_HIDDEN) if is_far else max(step, streaming)
    spare = machine.general_registers - 4
    if product.has_table and rows > spare:
        step += (rows - spare) / 2 / tile.unroll  # row pointers that live on the stack are loaded again
    per_run = ROW_POINTER_CYCLES * rows if product.has_table else 0.0
    return TILE_CYCLES + product.runs * per_run + product.depth * step + 2.0 * rows * tile.vectors


def product_cycles(product: Product, tile: Tile, machine: Machine, *, is_far: bool = False) -> float:
    """Cycles of one image with this tile, tiles that are not full included; `is_far`: see `has_far_weights`."""
    lanes = machine.lanes()
    width = tile.vectors * lanes
    full_panels, left = divmod(product.columns, width)
    total = 0.0
    for count, vectors in ((full_panels, tile.vectors), (1 if left else 0, -(-left // lanes))):
        if not count:
            continue
        shape = Tile(tile.rows, vectors, tile.unroll)
        full, tail = divmod(product.rows, tile.rows)
        total += count * full * tile_cycles(product, shape, tile.rows, machine, is_far)
        if tail:
            total += count * tile_cycles(product, shape, tail, machine, is_far)
    return total * product.groups


def product_flops(product: Product, machine: Machine) -> float:
    """Operations executed for one image, unused columns included: what is left of the rows has tiles of its own."""
    columns = -(-product.columns // machine.lanes()) * machine.lanes()
    return 2.0 * product.rows * columns * product.depth * product.groups


# The most rows of a tile of 1, 2, 3 and 4 vectors whose accumulators, weights and broadcasts LLVM keeps in registers.
# Beside them it wants some for products that it has not added yet (without FMA), for copies (without instructions of
# three operands) and for loads that it moves up. `tests/codegen/test_assembly.py` holds the bound for each.
MOST_ROWS = {
    "avx512": (24, 14, 9, 6),
    "avx2": (7, 6, 3, 2),
    "avx": (12, 5, 3, 2),
    "sse2": (7, 3, 2, 1),
    "neon": (14, 9, 6, 5),
}


def tiles(machine: Machine, columns: int, rows: int, unroll: int) -> list[Tile]:
    """Every tile that stays in the vector registers."""
    widest = -(-columns // machine.lanes())
    found = []
    for vectors, most in enumerate(MOST_ROWS[machine.isa][:widest], 1):
        found += [Tile(height, vectors, unroll) for height in range(1, min(most, rows) + 1)]
    return found


def gemm_configs(product: Product, machine: Machine, count: int = 4) -> list[GemmConfig]:
    """The `count` blockings with the least cycles."""
    unroll, is_far = 4 if product.run_elems >= 64 else 2, has_far_weights(product, machine)
    ranked = sorted(
        tiles(machine, product.columns, max(product.rows, 1), unroll),
        key=lambda tile: product_cycles(product, tile, machine, is_far=is_far),
    )
    return [_blocked(product, tile, machine) for tile in ranked[:count]]


def _blocked(product: Product, tile: Tile, machine: Machine) -> GemmConfig:
    """Blocks of rows: what stays in the second-level cache while all panels pass over it, or the other way round."""
    full = max(1, product.rows // tile.rows)
    is_large = product.weight_bytes > machine.l2_bytes // 2
    # Rows rather than columns are divided among cores: the next layer finds the rows where this one has left them.
    shares = min(machine.cores, MOST_ROW_SHARES)
    # Images that stay in the second-level cache while panels pass over them; weights are read again for the next ones.
    images = max(1, int(machine.l2_bytes // 2 / max(product.rows * product.row_bytes, 1.0)))
    if has_far_weights(product, machine):
        block = full if is_large else -(-full // shares)
        chunk = chunk_elems(product, tile, machine)
        is_outer = is_large or block == full
        group = images if is_outer else 0
        return GemmConfig(tile.rows, tile.vectors, tile.unroll, block, is_outer, chunk, group_images=group)
    panel_bytes = product.depth * tile.vectors * machine.vector_bytes
    near_bytes = NEAR_BYTES if panel_bytes > machine.l1d_bytes // 2 else 0
    if is_large:
        block = min(full, 16)
        return GemmConfig(tile.rows, tile.vectors, tile.unroll, block, True, 0, near_bytes, images)
    budget = machine.l2_bytes // 4
    block = max(1, int(budget / max(tile.rows * product.row_bytes, 1.0)))
    block = min(block, -(-full // (2 * shares)), 16)
    return GemmConfig(tile.rows, tile.vectors, tile.unroll, block, False, near_bytes=near_bytes)


def has_far_weights(product: Product, machine: Machine) -> bool:
    """Whether the time in which the weights arrive matters: they are large, and few rows pass over them."""
    return product.rows <= MOST_FAR_ROWS and product.weight_bytes > machine.l2_bytes // 16


def chunk_elems(product: Product, tile: Tile, machine: Machine) -> int:
    """Elements of a chunk of the depth: whole runs through a table; else the longest that divides the depth evenly."""
    most = machine.l2_bytes // CHUNKS_OF_L2 // (tile.vectors * machine.vector_bytes)
    if product.has_table:
        return max(1, most // product.run_elems) * product.run_elems
    for chunk in range(min(most, product.depth) // tile.unroll * tile.unroll, LEAST_CHUNK_ELEMS - 1, -tile.unroll):
        if product.depth % chunk == 0:
            return chunk
    return product.depth


def gemm_seconds(spec: ConvSpec, product: Product, config: GemmConfig, machine: Machine, images: float) -> float:
    """Time on all cores: arithmetic on so many images, weights that arrive, activations that move."""
    is_far = has_far_weights(product, machine)
    cycles = images * product_cycles(product, config.tile, machine, is_far=is_far) + epilogue_cycles(spec, machine)
    compute = cycles / clock_hz(machine) / machine.cores
    return overlapped(compute, weight_seconds(product.weight_bytes, machine), moving_seconds(spec, machine))


def epilogue_cycles(spec: ConvSpec, machine: Machine) -> float:
    """Of all outputs of a layer, before they are stored."""
    found = [each for each in (spec.epilogue.before, spec.epilogue.after) if each is not None]
    vectors = spec.output_bytes / machine.vector_bytes
    return vectors * ACTIVATION_CYCLES * sum(each.kind not in CHEAP_ACTIVATIONS for each in found)


def moving_seconds(spec: ConvSpec, machine: Machine) -> float:
    """Time in which input and residual are read and the output is written, whose lines are read first.

    The layer before has left them in the caches of all cores, where they fit into those.
    """
    output_bytes = spec.output_bytes * (2 + spec.epilogue.residual)
    held = spec.input_bytes + spec.output_bytes * (1 + spec.epilogue.residual)
    level = machine.level_of(held, machine.cores)
    return (spec.input_bytes + output_bytes) / machine.bytes_per_s(level, machine.cores)


def weight_seconds(size_bytes: float, machine: Machine) -> float:
    """Time in which weights arrive. In a network all that exceeds a core's cache has been displaced by other layers."""
    level = "l2" if size_bytes <= machine.l2_bytes // 2 else machine.weights_level
    return size_bytes / machine.bytes_per_s(level, machine.cores)


def overlapped(*seconds: float, share: float = NOT_HIDDEN) -> float:
    """Time of things that go on at once but get in each other's way: the longest and a share of the rest."""
    return max(seconds) + share * (sum(seconds) - max(seconds))


def uneven(items: float, machine: Machine) -> float:
    """How much longer the last core works than the average on so many items, at most one too many: cores differ."""
    return (items + machine.cores - 1) / items
