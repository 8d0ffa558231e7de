"""Concat, Slice, Expand, Pad, and `copy` between any two views of one shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from waterline.codegen.cpu.kernel import Arg, Call, Input, Kernel, Number, Output
from waterline.graph.ops import Concat, Expand, Pad, Reshape, Slice, Transpose
from waterline.machine import Machine
from waterline.operators.copying import Copy, Fill, Renumbering
from waterline.operators.lines import MOST_PLANES, Border, Lines
from waterline.operators.mapping import lower_mapped
from waterline.operators.nest import F32_BYTES, ITEM_ELEMS, Nest, broadcast_strides, chunk, is_batched, nest
from waterline.operators.transposition import transposition
from waterline.spec import TensorView

INPUT = Input(0)


def copy(x: TensorView, y: TensorView, machine: Machine) -> list[Call]:
    """y = x, element by element; the views have one shape and any strides. None where there is no element."""
    return copy_part(x, y, machine)


def copy_part(
    x: TensorView,
    y: TensorView,
    machine: Machine,
    *,
    source: Arg = INPUT,
    x_offset: int = 0,
    y_offset: int = 0,
    phase: str = "",
) -> list[Call]:
    """`copy` of views that begin `x_offset` and `y_offset` elements after the tensors' first ones.

    The strides of x may be 0 (repeated) or negative (backwards) as well.
    """
    if y.elems == 0:
        return []
    batched = is_batched(y)
    kernel, image_items, item_bytes = copy_kernel(x, y, batched, machine)
    items = image_items * (y.shape[0] if batched else 1)
    args = (Output(), source, Number(y_offset * F32_BYTES), Number(x_offset * F32_BYTES))
    return [Call(kernel, args, items, chunk(items, item_bytes), phase=phase)]


def copy_kernel(x: TensorView, y: TensorView, batched: bool, machine: Machine) -> tuple[Kernel, int, int]:
    """The kernel for one image, its work items, and the bytes that one of them moves."""
    axes = [axis for axis in range(int(batched), len(y.shape)) if y.shape[axis] != 1]
    source = next((axis for axis in axes if x.strides[axis] == 1), None)
    target = next((axis for axis in axes if y.strides[axis] == 1), None)
    if source is not None and target is not None and source != target:
        borders = [Border(y.shape[a], 0, 0, x.strides[a], y.strides[a]) for a in axes]
        lines = interleaving_lines(borders, 0.0, batch_strides(x, y, batched))
        if lines is not None:
            return lines, lines.image_items, lines.item_bytes
        inner = y.shape[source], y.shape[target]
        outer = nest(
            [1 if axis in (source, target) else size for axis, size in enumerate(y.shape)],
            [y.strides, x.strides],
            batched=batched,
        )
        loops = Nest(
            (*outer.sizes, *inner),
            tuple(
                (*strides, view.strides[source], view.strides[target])
                for strides, view in zip(outer.strides, (y, x), strict=True)
            ),
            outer.batch,
            1,
            1,
        )
        turned = transposition(loops, machine)
        return turned, turned.loops.image_items, 2 * F32_BYTES * turned.loops.item_elems
    loops = nest(y.shape, [y.strides, x.strides], batched=batched)
    return Copy(loops), loops.image_items, 2 * F32_BYTES * loops.item_elems


def batch_strides(x: TensorView, y: TensorView, batched: bool) -> tuple[int, int]:
    return (y.strides[0], x.strides[0]) if batched else (0, 0)


# ---- lines ----------------------------------------------------------------------------------------------------------
def interleaving_lines(borders: Sequence[Border], value: float, batch: tuple[int, int]) -> Lines | None:
    """The kernel, if few planes become the innermost axis of an output without gaps along the next."""
    axes = sorted(borders, key=lambda axis: -axis.output_stride)
    if len(axes) < 2:
        return None
    line, planes = axes[-2:]
    if not 1 < planes.size <= MOST_PLANES or planes.is_padded or planes.output_stride != 1:
        return None
    if line.input_stride != 1 or line.output_stride != planes.size:
        return None
    return lines_of(axes[:-2], line, planes.size, planes.input_stride, value, batch)


def contiguous_lines(borders: Sequence[Border], value: float, batch: tuple[int, int]) -> Lines | None:
    """The kernel, if the innermost axis of the output is contiguous in both tensors."""
    axes = merged_borders(sorted(borders, key=lambda axis: -axis.output_stride))
    if not axes or axes[-1].output_stride != 1 or axes[-1].input_stride != 1:
        return None
    return lines_of(axes[:-1], axes[-1], 1, 0, value, batch)


def lines_of(
    outer: Sequence[Border], line: Border, planes: int, plane_stride: int, value: float, batch: tuple[int, int]
) -> Lines:
    outer = merged_borders(outer) or [Border(1)]
    rows = max(1, min(outer[-1].total, ITEM_ELEMS // max(1, line.total * planes)))
    return Lines(tuple(outer), replace(line, input_stride=0, output_stride=0), planes, plane_stride, value, batch, rows)


def merged_borders(axes: Sequence[Border]) -> list[Border]:
    """Neighbouring loops as one, where the inner has no border and both tensors continue."""
    merged: list[Border] = []
    for axis in axes:
        outer = merged[-1] if merged else None
        if (
            outer is not None
            and not axis.is_padded
            and outer.output_stride == axis.output_stride * axis.size
            and outer.input_stride == axis.input_stride * axis.size
        ):
            merged[-1] = replace(
                axis, size=outer.size * axis.size, before=outer.before * axis.size, after=outer.after * axis.size
            )
        else:
            merged.append(axis)
    return merged


# ---- operations -----------------------------------------------------------------------------------------------------
def lower_concat(
    op: Concat, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    y = outputs[0]
    calls, start = [], 0
    for i, x in enumerate(inputs):
        part = TensorView(x.shape, y.strides)
        offset = start * y.strides[op.axis]
        calls += copy_part(x, part, machine, source=Input(i), y_offset=offset, phase=f"input {i}")
        start += x.shape[op.axis]
    return calls


def lower_slice(op: Slice, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine) -> list[Call]:
    x, y = inputs[0], outputs[0]
    ranges = op.ranges(x.shape)
    offset = sum(kept.start * stride for kept, stride in zip(ranges, x.strides, strict=True))
    strides = tuple(kept.step * stride for kept, stride in zip(ranges, x.strides, strict=True))
    return copy_part(TensorView(y.shape, strides), y, machine, x_offset=offset)


def lower_transpose(
    op: Transpose, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x = inputs[0]
    turned = TensorView(tuple(x.shape[axis] for axis in op.perm), tuple(x.strides[axis] for axis in op.perm))
    return copy(turned, outputs[0], machine)


def lower_reshape(
    op: Reshape, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    x, y = inputs[0], outputs[0]
    common = refined(x, y)
    if common is not None:
        return copy(*common, machine)
    batched = is_batched(y) and x.shape[0] == y.shape[0]
    dense = TensorView.dense(y.shape)
    loops = nest(y.shape, [y.strides, dense.strides], batched=batched).with_points(ITEM_ELEMS)
    kernel = Renumbering(loops, x.shape, x.strides)
    items = loops.image_items * (y.shape[0] if batched else 1)
    return [Call(kernel, (Output(), Input(0)), items, chunk(items, 2 * loops.item_elems * F32_BYTES))]


def refined(x: TensorView, y: TensorView) -> tuple[TensorView, TensorView] | None:
    """Both tensors cut into the same axes, if their own axes in logical order fall on each other's boundaries."""
    keep_batch = bool(x.shape and y.shape) and x.shape[0] == y.shape[0]
    left, right = logical_axes(x, keep_batch), logical_axes(y, keep_batch)
    shape: list[int] = []
    strides: tuple[list[int], list[int]] = ([], [])
    while left and right:
        size = min(left[0][0], right[0][0])
        for axes, steps in ((left, strides[0]), (right, strides[1])):
            whole, stride = axes.pop(0)
            if whole % size:
                return None
            steps.append(stride * (whole // size))
            if whole > size:
                axes.insert(0, (whole // size, stride))
        shape.append(size)
    return TensorView(tuple(shape), tuple(strides[0])), TensorView(tuple(shape), tuple(strides[1]))


def logical_axes(view: TensorView, keep_batch: bool) -> list[tuple[int, int]]:
    """(size, stride) of the axes in logical order, without those of size 1, neighbours merged where they continue.

    With `keep_batch` axis 0 stays as it is.
    """
    axes: list[tuple[int, int]] = []
    for i, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        if keep_batch and i == 0:
            continue
        if size == 1:
            continue
        if axes and axes[-1][1] == stride * size:
            axes[-1] = (axes[-1][0] * size, stride)
        else:
            axes.append((size, stride))
    return [(view.shape[0], view.strides[0]), *axes] if keep_batch else axes


def lower_expand(
    op: Expand, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine
) -> list[Call]:
    y = outputs[0]
    return copy(TensorView(y.shape, broadcast_strides(inputs[0], y.shape)), y, machine)


def lower_pad(op: Pad, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine) -> list[Call]:
    x, y = inputs[0], outputs[0]
    if op.mode != "constant" and x.elems:
        return lower_mapped(x, y, [border_indices(op, axis, size) for axis, size in enumerate(x.shape)])
    return lower_border(op, x, y, machine)


def border_indices(op: Pad, axis: int, size: int) -> tuple[int, ...]:
    """For each output index of an axis the input's; none where the axis stays as it is."""
    before, after = op.before[axis], op.after[axis]
    if before == after == 0:
        return ()
    indices = range(-before, size + after)
    if op.mode == "edge":
        return tuple(min(max(i, 0), size - 1) for i in indices)
    return tuple(size - 1 - abs(size - 1 - abs(i)) for i in indices)


def lower_border(op: Pad, x: TensorView, y: TensorView, machine: Machine) -> list[Call]:
    """A border of one value, in one pass where lines are contiguous, else after filling the whole output."""
    skipped = [max(0, -before) for before in op.before]
    kept = tuple(size - skip - max(0, -after) for size, skip, after in zip(x.shape, skipped, op.after, strict=True))
    before = [max(0, pad) for pad in op.before]
    after = [max(0, pad) for pad in op.after]
    x_offset = sum(skip * stride for skip, stride in zip(skipped, x.strides, strict=True))
    if min(kept, default=1) <= 0:
        return fill(op.value, y)
    batched = is_batched(y) and before[0] == after[0] == 0
    borders = [
        Border(kept[a], before[a], after[a], x.strides[a], y.strides[a])
        for a in range(int(batched), len(kept))
        if y.shape[a] != 1
    ]
    batch = batch_strides(x, y, batched)
    lines = None
    if any(border.is_padded for border in borders):
        lines = contiguous_lines(borders, op.value, batch) or interleaving_lines(borders, op.value, batch)
    if lines is not None:
        items = lines.image_items * (y.shape[0] if batched else 1)
        args = (Output(), Input(0), Number(0), Number(x_offset * F32_BYTES))
        return [Call(lines, args, items, chunk(items, lines.item_bytes))]
    y_offset = sum(b * stride for b, stride in zip(before, y.strides, strict=True))
    interior = copy_part(
        TensorView(kept, x.strides),
        TensorView(kept, y.strides),
        machine,
        x_offset=x_offset,
        y_offset=y_offset,
        phase="interior",
    )
    is_bordered = math.prod(kept) < y.elems
    return [*(fill(op.value, y) if is_bordered else []), *interior]


def fill(value: float, y: TensorView) -> list[Call]:
    batched = is_batched(y)
    loops = nest(y.shape, [y.strides], batched=batched)
    items = loops.image_items * (y.shape[0] if batched else 1)
    return [Call(Fill(value, loops), (Output(),), items, chunk(items, loops.item_elems * F32_BYTES), phase="border")]
