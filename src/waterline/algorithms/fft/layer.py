"""A layer as calls of the kernels."""

from __future__ import annotations

from waterline.algorithms.arguments import LayerArgs
from waterline.algorithms.base import Implementation, Views, chunk_items
from waterline.algorithms.fft.cpu import (
    FILTER_PHASES,
    PRODUCT_PHASES,
    FilterKernel,
    InputKernel,
    OutputKernel,
    ProductKernel,
)
from waterline.algorithms.fft.geometry import Slots
from waterline.algorithms.fft.tiling import FftConfig, block_tiles_of, geometry_of, is_filter, product_of
from waterline.codegen.cpu.kernel import Call, Clock, Input, Number, Packed, Workspace
from waterline.machine import Machine
from waterline.spec import ConvSpec

# Half-way data of a group of tiles; beyond it, groups of tiles follow each other.
GROUP_BYTES = 24 << 20


class Layer:
    """The calls of one layer."""

    def __init__(self, spec: ConvSpec, config: FftConfig, views: Views, machine: Machine, seconds: float) -> None:
        self.spec, self.config, self.views, self.machine, self.seconds = spec, config, views, machine, seconds
        self.geometry = geometry_of(spec, config, views, machine)
        self.lanes = machine.lanes()
        self.tiles = spec.n * self.geometry.tiles
        self.args = LayerArgs.of(spec, views)

    def implement(self) -> Implementation:
        return self._filter() if is_filter(self.spec) else self._product()

    def _filter(self) -> Implementation:
        kernel = FilterKernel(self.geometry, self.spec.epilogue)
        args = (
            Input(0),
            Packed("turns"),
            Packed("spectra"),
            *self.args.epilogue,
            Clock(FILTER_PHASES),
            *self.args.images,
            Number(self.tiles),
        )
        items = Slots(self.spec.c, self.lanes).count(self.tiles)
        chunk = chunk_items(items, self.seconds)
        return Implementation((Call(kernel, args, items, chunk, kernel.scratch_bytes(self.lanes)),))

    def _product(self) -> Implementation:
        spec, geometry, lanes = self.spec, self.geometry, self.lanes
        block = block_tiles_of(spec, self.config, lanes)
        sides = (Slots(spec.c, lanes), Slots(spec.k, lanes))
        tile_bytes = sum(s.count(block) for s in sides) * geometry.vector_bytes(lanes)
        group = min(max(1, GROUP_BYTES // tile_bytes), -(-self.tiles // block)) * block
        product = ProductKernel(geometry, product_of(spec, self.config, lanes), block)
        source, target = InputKernel(geometry), OutputKernel(geometry, spec.epilogue)
        calls: list[Call] = []
        for first in range(0, self.tiles, group):
            count = min(group, self.tiles - first)
            share = self.seconds * count / self.tiles / 4
            ends = (Number(first), Number(first + count))
            vectors = [s.count(count) for s in sides]
            blocks = -(-count // block)
            items = geometry.rows.count * blocks
            calls += [
                Call(
                    source,
                    (Input(0), Workspace("s"), self.args.x_image, *ends),
                    vectors[0],
                    chunk_items(vectors[0], share),
                    source.scratch_bytes(lanes),
                    "input",
                ),
                Call(
                    product,
                    (
                        Workspace("s"),
                        Packed("turns"),
                        Packed("spectra"),
                        Workspace("m"),
                        Clock(PRODUCT_PHASES),
                        Number(count),
                        Number(blocks),
                    ),
                    items,
                    chunk_items(items, 2 * share),
                    product.scratch_bytes(lanes),
                ),
                Call(
                    target,
                    (Workspace("m"), *self.args.stored, *ends),
                    vectors[1],
                    chunk_items(vectors[1], share),
                    target.scratch_bytes(lanes),
                    "output",
                ),
            ]
        most = min(group, self.tiles)
        sizes = [s.count(most) * geometry.vector_bytes(lanes) for s in sides]
        return Implementation(tuple(calls), {"s": sizes[0], "m": sizes[1]})
