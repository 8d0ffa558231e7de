"""The layers of a block as stages: which kernel computes some rows of each, and with which arguments.

Nothing here computes anything new: a stage is the kernel that the layer would have alone, told to compute a few rows.
* A 1x1 convolution takes the pixels of these rows as the rows of a matrix product (`direct_gemm`).
* A depthwise or narrow grouped convolution has rows as its work items (`depthwise`, `grouped`).
* Any other convolution goes row by row through the indirection buffer (`indirect`): its offsets reach rows that may lie
  in the window over a layer inside the block.
* An operator that works on each pixel takes rows for images; pooling has rows as its work items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from waterline import operators
from waterline.algorithms.base import Algorithm, Refusal, Views
from waterline.algorithms.block_fusion.cpu import PIXELS, ROWS, TABLES, Stage
from waterline.algorithms.blocking import GemmConfig
from waterline.algorithms.columns import Window
from waterline.algorithms.depthwise import DEPTHWISE
from waterline.algorithms.direct_gemm import DIRECT_GEMM
from waterline.algorithms.grouped import GROUPED
from waterline.algorithms.indirect import INDIRECT
from waterline.algorithms.indirect.model import merges_rows, tap_offsets, tile_table
from waterline.algorithms.row_layer import windows
from waterline.codegen.cpu import gemm
from waterline.codegen.cpu.gemm import GemmKernel, any_tails, row_tails
from waterline.codegen.cpu.kernel import Arg, Call, Input, Number, Output, Packed
from waterline.graph.block import BlockLayer, BlockSpec
from waterline.graph.ops import Binary, LayerNorm, Pool, PRelu, Unary
from waterline.machine import Machine
from waterline.spec import ConvSpec, TensorView

WHOLE_BLOCK = 1 << 20  # tiles in a block of rows: a strip is one block


def algorithm_of(spec: ConvSpec) -> Algorithm:
    """What computes a convolution inside a block."""
    if spec.groups == 1:
        return DIRECT_GEMM if spec.is_pointwise else INDIRECT
    return DEPTHWISE if spec.is_depthwise and spec.k == spec.c else GROUPED


def refuse_layer(layer: BlockLayer, machine: Machine) -> Refusal | None:
    """Why a layer cannot be part of a block, whatever the others are."""
    spec, op = layer.spec, layer.op
    if spec is not None:
        if spec.upsample != (1, 1):
            return Refusal(f"{layer.label} inserts {spec.upsample} zeros between its inputs")
        return algorithm_of(spec).refuse(spec, machine)
    if isinstance(op, Pool):
        return None if op.dilation == (1, 1) else Refusal(f"pooling with dilation {op.dilation}")
    return None if isinstance(op, Unary | Binary | PRelu | LayerNorm) else Refusal(f"{op.name} does not work on rows")


def row_window(layer: BlockLayer, input_rows: int) -> Window:
    """How rows of a layer's output depend on rows of its inputs."""
    if layer.spec is not None:
        return windows(layer.spec)[0]
    rows = layer.output[2]
    if isinstance(layer.op, Pool):
        op = layer.op
        return Window(op.kernel[0], op.stride[0], op.dilation[0], op.pad[0], input_rows, rows)
    return Window(1, 1, 1, 0, rows, rows)


def takes_pixels(spec: ConvSpec) -> bool:
    """Whether a matrix product takes the pixels of a strip at once; else it goes through tables, row by row."""
    return spec.is_pointwise and spec.groups == 1


def has_table(layer: BlockLayer, config: Any) -> bool:
    """Whether a convolution goes through the indirection buffer."""
    return isinstance(config, GemmConfig) and layer.spec is not None and not takes_pixels(layer.spec)


def rings(block: BlockSpec, configs: Sequence[Any]) -> tuple[bool, ...]:
    """For each inner layer whether its rows lie in a ring: a depthwise or grouped convolution reads several of them,
    and all that read it can do without their lying one after the other."""
    first = len(block.inputs)
    found = []
    for number in range(len(block.layers) - 1):
        reads = [
            (layer, config, layer.inputs[0] == first + number)
            for layer, config in zip(block.layers, configs, strict=True)
            if first + number in layer.inputs
        ]
        windowed = [(layer, config) for layer, config, is_x in reads if is_x and not _is_local(layer)]
        found.append(
            bool(windowed)
            and not any(is_x and has_table(layer, config) for layer, config, is_x in reads)
            and all(layer.spec is not None for layer, _ in windowed)
        )
    return tuple(found)


def _is_local(layer: BlockLayer) -> bool:
    """Whether a row of the result needs the same row of its inputs and no other."""
    window = row_window(layer, layer.output[2])
    return (window.taps, window.stride, window.before) == (1, 1, 0)


@dataclass(frozen=True)
class StagePlan:
    """A stage with its arguments (0 in the place of tensors' addresses) and the tables that they name."""

    stage: Stage
    args: tuple[Arg, ...]
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    scratch_bytes: int = 0


def stage_plan(
    layer: BlockLayer, config: Any, inputs: Sequence[TensorView], output: TensorView, result: int, machine: Machine
) -> StagePlan:
    """The stage of a layer.

    Args:
        config: of the layer's algorithm; None for operators.
        inputs, output: where its tensors lie, as (N, C, H, W) or constants of any rank.
        result: number of the tensor that it computes.
    """
    if layer.spec is None:
        return _operator(layer, inputs, output, result, machine)
    residual = inputs[-1] if layer.spec.epilogue.residual else None
    views = Views(inputs[0], output, residual)
    spec, algorithm = layer.spec, algorithm_of(layer.spec)
    (call,) = algorithm.implement(spec, config, views, machine).calls
    if isinstance(config, GemmConfig):
        return _product(layer, config, call, views, result, machine)
    return _stage(layer, call, result, ROWS, 1)


def _product(
    layer: BlockLayer, config: GemmConfig, call: Call, views: Views, result: int, machine: Machine
) -> StagePlan:
    spec, kernel = layer.spec, call.kernel
    assert spec is not None
    assert isinstance(kernel, GemmKernel)
    by_rows = kernel.has_table
    kernel = replace(
        kernel,
        tails=row_tails(spec.q, config.rows) if by_rows else any_tails(config.rows),
        block_tiles=WHOLE_BLOCK,
        panel_outer=False,
        group_images=0,
    )
    items = kernel.groups * kernel.panels(machine.lanes())
    args = list(call.args)
    args[gemm.IMAGES] = args[gemm.BLOCKS] = Number(1)
    args[gemm.ROWS] = Number(spec.q)
    call = replace(call, kernel=kernel, args=tuple(args))
    if not by_rows:
        return _stage(layer, call, result, PIXELS, items)
    offsets = tap_offsets(spec, views.x)
    if merges_rows(spec, views.x):
        offsets = offsets.reshape(-1, spec.r, spec.s)[:, :, 0]
    rows = [tile_table(row, config.rows) for row in offsets.reshape(spec.p, spec.q, -1)]
    tables = {"table": np.concatenate(rows), "zero": np.zeros(max(spec.group_c, 64), np.float32)}
    return replace(_stage(layer, call, result, TABLES, items, rows[0].nbytes), tables=tables)


def _operator(
    layer: BlockLayer, inputs: Sequence[TensorView], output: TensorView, result: int, machine: Machine
) -> StagePlan:
    op = layer.op
    if isinstance(op, Pool):
        one = [view.with_batch(1) for view in (inputs[0], output)]
        (call,) = operators.lower(op, one[:1], one[1:], machine)
    elif isinstance(op, LayerNorm):
        x, y = (_pixels(view) for view in (inputs[0], output))
        (call,) = operators.lower(replace(op, axis=2), [x, *inputs[1:]], [y], machine)
    else:
        (call,) = operators.lower(op, [_as_images(view) for view in inputs], [_as_images(output)], machine)
    return _stage(layer, call, result, ROWS, call.items // layer.output[2])


def _as_images(view: TensorView) -> TensorView:
    """Each row as an image of its own; what belongs to a whole image belongs to each of them."""
    if len(view.shape) != 4:
        return view
    _, c, h, w = view.shape
    if h == w == 1 and view.shape[0] * c > 1:
        return TensorView((1, c, 1, 1), (0, view.strides[1], 0, 0))
    return TensorView((h, c, 1, w), (view.strides[2], view.strides[1], 0, view.strides[3]))


def _pixels(view: TensorView) -> TensorView:
    """(H, W, C) of one image."""
    _, c, h, w = view.shape
    return TensorView((h, w, c), (view.strides[2], view.strides[3], view.strides[1]))


def _stage(layer: BlockLayer, call: Call, result: int, how: str, items: int, table_row_bytes: int = 0) -> StagePlan:
    args: list[Arg] = []
    tensors: list[tuple[int, int]] = []
    for word, arg in enumerate(call.args):
        match arg:
            case Input(i):
                # The weight and the bias of a convolution are not among the layer's inputs; its residual is the last.
                number = i if layer.spec is None or i == 0 else -1
                tensors.append((word, layer.inputs[number]))
                args.append(Number(0))
            case Output():
                tensors.append((word, result))
                args.append(Number(0))
            case _:
                args.append(arg)
    stage = Stage(call.kernel, len(args), tuple(tensors), how, items, layer.output[3], table_row_bytes)
    return StagePlan(stage, tuple(args), {}, call.scratch_bytes)


def named(arg: Arg, number: int) -> Arg:
    """An argument of stage `number` among those of the block."""
    return Packed(stage_name(number, arg.name)) if isinstance(arg, Packed) else arg


def stage_name(number: int, name: str) -> str:
    """The name of an array of one stage among those of the block."""
    return f"{number}.{name}"


__all__ = [
    "StagePlan",
    "algorithm_of",
    "has_table",
    "named",
    "refuse_layer",
    "rings",
    "row_window",
    "stage_name",
    "stage_plan",
    "takes_pixels",
]
