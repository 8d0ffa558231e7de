"""`block_fusion`: all layers of a block, strip by strip of rows, with everything between them in a core's own cache.

Source: Lavin, "On the Efficiency of Convolutional Neural Networks" (2024), block-fusion kernels; the order of
computation is depth first over strips, see `flow`. On a CPU a strip's intermediate rows stay in the second-level cache
(or the first, where they are small), in rings or in windows that slide down the image. Threads share nothing: each
computes bands of strips, and at the top of a band the rows that it shares with the band above are computed again.

Layouts: NHWC, weights as each layer's own algorithm packs them. Work: that of the layers, and the rows that are
computed again. Numerics: those of the layers' own algorithms, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from waterline.algorithms.base import Algorithm, Cost, Implementation, Phase, Refusal
from waterline.algorithms.block_fusion.cpu import BANDS, BlockKernel, Stage, Tensor
from waterline.algorithms.block_fusion.flow import Flow, least_rows, overlaps
from waterline.algorithms.block_fusion.layers import (
    StagePlan,
    named,
    refuse_layer,
    rings,
    row_window,
    stage_name,
    stage_plan,
)
from waterline.algorithms.block_fusion.pricing import BlockConfig, BlockWork, layer_configs, moving_seconds
from waterline.algorithms.blocking import clock_hz, overlapped, weight_seconds
from waterline.algorithms.columns import ColumnKernel
from waterline.codegen.cpu.kernel import Arg, Call, Clock, Input, Number, Output
from waterline.graph.block import BlockLayer, BlockSpec
from waterline.machine import Machine
from waterline.spec import TensorView, channels_last

ELEM_BYTES = 4
ALIGNMENT_BYTES = 64
# Of the second-level cache, what the buffers of a block may fill.
BUFFER_SHARE = 0.5
# What buffers and weights together may fill, for the weights to be there when the next strip needs them.
HELD_SHARE = 0.6
# Of the third level's rate, what weights reach that are asked for ahead of their use. (ConvNeXt's last stage for one
# image on two cores, which read all of its weights: 0.30; ConvFirst's last for 16 images is not held up at 0.26.)
FAR_RATE = 0.4
FAR_NOT_HIDDEN = 0.05
# Rows of pixels that make a product worth while: strips of fewer spend their time on weights.
LEAST_PIXELS = 24
# A window over a layer holds this many times the rows that a strip adds: with more it moves them the more seldom.
WINDOW_STRIPS = (1, 2, 3)
BANDS_PER_CORE = 2  # parts of an image for each core that wants one, where few rows are computed again
UNEQUAL_CORES = 0.05  # of an item: what the last core is behind the others
MOST_AGAIN = 0.06  # of the work: for more bands than cores, rows that are computed again


@dataclass(frozen=True)
class BlockViews:
    """Where what the block is given and its result lie: images as (N, C, H, W), constants of any rank."""

    inputs: tuple[TensorView, ...]
    output: TensorView


class BlockFusion(Algorithm[BlockSpec, BlockViews]):
    """Several layers as one kernel: what `Algorithm` is for a convolution, for a `BlockSpec`."""

    name = "block_fusion"

    def refuse(self, spec: BlockSpec, machine: Machine) -> Refusal | None:
        for layer in spec.layers:
            if reason := refuse_layer(layer, machine):
                return reason
        if spec.output[2] < 2:
            return Refusal(f"its result has {spec.output[2]} row: there are no strips")
        flow = flow_of(spec)
        least = min(self.buffer_bytes(spec, least_rows(flow, height)) for height in strip_heights(spec))
        if least > BUFFER_SHARE * machine.l2_bytes:
            return Refusal(
                f"between its layers even one strip takes {least} bytes, more than {BUFFER_SHARE:.0%} of the "
                f"second-level cache, {machine.l2_bytes} bytes"
            )
        return None

    def configs(self, spec: BlockSpec, machine: Machine) -> list[BlockConfig]:
        """Strips of different heights, the best by cost first."""
        return [config for config, _ in self.priced(spec, machine)]

    def priced(self, spec: BlockSpec, machine: Machine) -> list[tuple[BlockConfig, Cost]]:
        """`configs` with what each costs."""
        found: list[tuple[BlockConfig, Cost]] = []
        flow = flow_of(spec)
        for strip_rows in strip_heights(spec):
            least = least_rows(flow, strip_rows)
            again = overlaps(flow, strip_rows) or (0,) * len(least)
            layers = layer_configs(spec, flow, strip_rows, machine)
            in_rings = rings(spec, layers)
            for held in WINDOW_STRIPS:
                buffers = tuple(
                    rows if is_ring or not kept else min(layer.output[2], held * (rows - kept) + kept)
                    for layer, rows, kept, is_ring in zip(spec.layers, least, again, in_rings, strict=False)
                )
                if self.buffer_bytes(spec, buffers) > BUFFER_SHARE * machine.l2_bytes:
                    continue
                config = BlockConfig(strip_rows, buffers, layers)
                found.append((config, self.cost(spec, config, machine)))
                if not any(kept and not is_ring for kept, is_ring in zip(again, in_rings, strict=True)):
                    break
        return sorted(found, key=lambda each: each[1].seconds)

    def buffer_bytes(self, spec: BlockSpec, buffer_rows: Sequence[int]) -> int:
        """Of a thread's memory, for what stays inside."""
        return sum(
            -(-(rows * _row_bytes(layer) + ALIGNMENT_BYTES) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            for layer, rows in zip(spec.layers, buffer_rows, strict=False)
        )

    def cost(self, spec: BlockSpec, config: BlockConfig, machine: Machine) -> Cost:
        work = BlockWork.of(spec.with_batch(1), flow_of(spec), config, self._bands(spec, config, machine), machine)
        compute = spec.n * work.cycles / clock_hz(machine) / machine.cores * _uneven(spec.n * work.items, machine)
        near_bytes, far_bytes = spec.n * work.inner_bytes, 0.0
        held = self.buffer_bytes(spec, config.buffer_rows) + spec.weight_bytes
        if held <= HELD_SHARE * machine.l2_bytes:
            near_bytes += spec.n * work.weight_bytes
        else:
            far_bytes = spec.n * work.weight_bytes
        near = near_bytes / machine.bytes_per_s("l2") / machine.cores
        moving = moving_seconds(spec, machine) + weight_seconds(spec.weight_bytes, machine)
        # Weights that the strips push out of the cache come back while others are multiplied, as long as time allows.
        far = far_bytes / (FAR_RATE * machine.bytes_per_s("l3")) / machine.cores
        compute = overlapped(compute, far, share=FAR_NOT_HIDDEN)
        return Cost(overlapped(compute, near, moving), spec.n * work.flops, spec.least_bytes)

    def phases(self, spec: BlockSpec, config: BlockConfig, machine: Machine) -> tuple[Phase, ...]:
        """One a layer: its operations without what is computed again, its bytes as if it were alone."""
        found = []
        for number, layer in enumerate(spec.layers):
            own = layer.spec
            moved = own.least_bytes if own is not None else 2 * ELEM_BYTES * int(np.prod(layer.output))
            found.append(Phase(phase_name(number, layer), float(own.flops) if own else 0.0, float(moved)))
        return tuple(found)

    # ---- running ------------------------------------------------------------------------------------------------
    def implement(self, spec: BlockSpec, config: BlockConfig, views: BlockViews, machine: Machine) -> Implementation:
        plans = self._stages(spec, config, views, machine)
        flow = flow_of(spec)
        tensors = [Tensor(_view_row_bytes(view)) for view in views.inputs]
        args: list[Arg] = [Number(0), Clock(tuple(phase_name(i, layer) for i, layer in enumerate(spec.layers)))]
        for number, view in enumerate(views.inputs):
            args += [Input(number), Number(_image_bytes(view))]
        offset = 0
        in_rings = rings(spec, config.layers)
        for layer, rows, is_ring in zip(spec.layers, config.buffer_rows, in_rings, strict=False):
            tensors.append(Tensor(_row_bytes(layer), offset, rows, is_ring))
            offset += self.buffer_bytes(BlockSpec(spec.inputs, (layer,)), (rows,))
        tensors.append(Tensor(views.output.strides[2] * ELEM_BYTES))
        args += [Output(), Number(views.output.strides[0] * ELEM_BYTES)]
        for number, plan in enumerate(plans):
            args += [named(arg, number) for arg in plan.args]
        bands = self._bands(spec, config, machine)
        args[BANDS] = Number(bands)
        kernel = BlockKernel(
            stages=tuple(_in_ring(plan.stage, tensors) for plan in plans),
            windows=flow.windows,
            readers=flow.readers,
            tensors=tuple(tensors),
            inputs=len(views.inputs),
            strip_rows=config.strip_rows,
            stage_scratch_bytes=offset,
        )
        scratch = offset + max(plan.scratch_bytes for plan in plans) + ALIGNMENT_BYTES
        return Implementation((Call(kernel, tuple(args), spec.n * bands, 1, scratch),))

    def pack_tables(
        self, spec: BlockSpec, config: BlockConfig, views: BlockViews, machine: Machine
    ) -> dict[str, np.ndarray]:
        return {
            stage_name(number, name): table
            for number, plan in enumerate(self._stages(spec, config, views, machine))
            for name, table in plan.tables.items()
        }

    def _stages(self, spec: BlockSpec, config: BlockConfig, views: BlockViews, machine: Machine) -> list[StagePlan]:
        where = list(views.inputs)
        for layer in spec.layers[:-1]:
            where.append(TensorView.dense((1, *layer.output[1:]), channels_last(4)))
        where.append(views.output)
        first = len(views.inputs)
        return [
            stage_plan(layer, own, [where[i] for i in layer.inputs], where[first + number], first + number, machine)
            for number, (layer, own) in enumerate(zip(spec.layers, config.layers, strict=True))
        ]

    def _bands(self, spec: BlockSpec, config: BlockConfig, machine: Machine) -> int:
        """Parts of an image that threads compute by themselves: enough for all cores, with little computed again."""
        flow = flow_of(spec)
        strips = flow.strips(config.strip_rows)
        rows = overlaps(flow, config.strip_rows)
        if not rows:
            return strips
        again = _work_again(spec, rows)
        for wanted in (BANDS_PER_CORE * machine.cores, machine.cores):
            bands = min(strips, max(1, -(-wanted // max(spec.n, 1))))
            if bands == 1 or bands * again <= MOST_AGAIN:
                return bands
        return bands


def _in_ring(stage: Stage, tensors: Sequence[Tensor]) -> Stage:
    """A stage whose kernel finds its input's rows where they are."""
    kernel = stage.kernel
    source = next((tensors[number] for word, number in stage.tensors if word == 0), None)
    if source is None or not source.is_ring or not isinstance(kernel, ColumnKernel):
        return stage
    return replace(stage, kernel=replace(kernel, x_ring_rows=source.buffer_rows))


def _uneven(items: int, machine: Machine) -> float:
    """How much longer the last core works than the average: some have an item more, and cores differ."""
    rounds = -(-items // machine.cores)
    return (rounds + UNEQUAL_CORES) * machine.cores / max(items, 1) if machine.cores > 1 else 1.0


def flow_of(block: BlockSpec) -> Flow:
    first = len(block.inputs)
    outputs = [layer.output[2] for layer in block.layers]
    windows, readers = [], []
    for number, layer in enumerate(block.layers):
        source = layer.inputs[0]
        rows = outputs[source - first] if source >= first else block.inputs[source][2]
        windows.append(row_window(layer, rows))
        readers.append(tuple(j for j, other in enumerate(block.layers) if first + number in other.inputs))
    return Flow(tuple(windows), tuple(readers))


def strip_heights(block: BlockSpec) -> list[int]:
    """Rows of the result that are worth trying, from those that fill a product to all."""
    _, _, rows, columns = block.output
    least = min(rows, -(-LEAST_PIXELS // columns))
    found = []
    height = least
    while height < rows:
        found.append(-(-rows // -(-rows // height)))  # as even as so many strips can be
        height *= 2
    return sorted({*found, -(-rows // 2), rows})


def _work_again(block: BlockSpec, overlapping: Sequence[int]) -> float:
    """The part of an image's operations that each further band adds."""
    again = sum(
        layer.spec.flops * rows / layer.output[2]
        for layer, rows in zip(block.layers, overlapping, strict=False)
        if layer.spec is not None
    )
    return again / max(block.flops, 1)


def phase_name(number: int, layer: BlockLayer) -> str:
    return f"{number + 1}: {layer.label}"


def _row_bytes(layer: BlockLayer) -> int:
    _, c, _, w = layer.output
    return c * w * ELEM_BYTES


def _view_row_bytes(view: TensorView) -> int:
    """0 for what belongs to a whole image."""
    if len(view.shape) != 4 or view.shape[2:] == (1, 1):
        return 0
    return view.strides[2] * ELEM_BYTES


def _image_bytes(view: TensorView) -> int:
    """From one image to the next; 0 for constants, which all images share."""
    return view.strides[0] * ELEM_BYTES if len(view.shape) == 4 and view.shape[0] > 1 else 0


__all__ = ["BlockConfig", "BlockFusion", "BlockViews", "flow_of"]
