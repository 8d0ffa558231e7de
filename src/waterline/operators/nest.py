"""`Nest`: the loops over the elements that the operands of a kernel share.

Axis 0 of a network's tensors is the batch. Where it is the outermost in memory it is not one of the loops: a work item
belongs to one image, its number says which, and the recipe holds the distance between images but not their count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Number
from waterline.spec import TensorView

F32_BYTES = 4
ITEM_ELEMS = 4096  # of one operand in a work item, where the shape allows
CHUNK_BYTES = 512 << 10  # moved by a chunk of work items: 5 to 20 microseconds of one core
LEAST_CHUNKS = 8  # a step is cut into at least so many chunks, where it has the items
UNROLLED_VECTORS = 4  # rows up to this many vectors long are emitted without a loop


@dataclass(frozen=True)
class Nest:
    """Loops from the outermost in memory of operand 0 (the output) to the innermost; at least two.

    Attributes:
        sizes: of the loops.
        strides: for each operand the distance in elements between neighbours of each loop; 0 repeats.
        batch: for each operand the distance in elements between images.
        rows: rounds of the second innermost loop in one work item.
        span: rounds of the innermost loop in one work item, a multiple of every vector's lanes or all of them.
    """

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    batch: tuple[int, ...]
    rows: int
    span: int

    @property
    def row_blocks(self) -> int:
        return -(-self.sizes[-2] // self.rows)

    @property
    def spans(self) -> int:
        return -(-self.sizes[-1] // self.span)

    @property
    def image_items(self) -> int:
        """Work items of one image."""
        return math.prod(self.sizes[:-2]) * self.row_blocks * self.spans

    @property
    def item_elems(self) -> int:
        return min(self.rows, self.sizes[-2]) * min(self.span, self.sizes[-1])

    def with_items(self, rows: int, span: int | None = None) -> Nest:
        return replace(self, rows=max(1, rows), span=span or max(1, self.sizes[-1]))

    def with_points(self, points: int) -> Nest:
        """About so many elements in a work item, for `for_each_point`."""
        if self.sizes[-1] > points:
            return self.with_items(1, max(1, points))
        return self.with_items(points // max(1, self.sizes[-1]))

    # ---- emission -----------------------------------------------------------------------------------------------
    def for_each_item(
        self,
        e: Emitter,
        begin: Value,
        end: Value,
        body: Callable[[list[Value], Value, Value], None],
        batch: Sequence[Value] | None = None,
    ) -> None:
        """Emits `body(offsets, row block, span)` in a loop over work items.

        `offsets` are the operands' distances in bytes of the item's outer loops: rows and spans are not in them.
        `batch` gives the distances between images in bytes where they are not part of the recipe.
        """
        with e.loop(begin, end, name="item") as item:
            n = e.div(item, self.image_items)
            rest = e.mod(item, self.image_items)
            span = e.mod(rest, self.spans)
            rest = e.div(rest, self.spans)
            block = e.mod(rest, self.row_blocks)
            rest = e.div(rest, self.row_blocks)
            offsets = [e.mul(n, step) for step in batch or [stride * F32_BYTES for stride in self.batch]]
            for axis in range(len(self.sizes) - 3, -1, -1):
                digit = rest if axis == 0 else e.mod(rest, self.sizes[axis])
                rest = e.div(rest, self.sizes[axis])
                offsets = self.moved(e, offsets, digit, axis)
            body(offsets, block, span)

    def for_each_row(
        self,
        e: Emitter,
        begin: Value,
        end: Value,
        body: Callable[[list[Value], Value], None],
        batch: Sequence[Value] | None = None,
    ) -> None:
        """Emits `body(offsets, span)` in a loop over the rows of the work items; spans are not in the offsets."""

        def rows(offsets: list[Value], block: Value, span: Value) -> None:
            first = e.mul(block, self.rows)
            stop = self.sizes[-2] if self.row_blocks == 1 else e.minimum(e.add(first, self.rows), self.sizes[-2])
            with e.loop(0 if self.row_blocks == 1 else first, stop, name="row") as row:
                body(self.moved(e, offsets, row, -2), span)

        self.for_each_item(e, begin, end, rows, batch)

    def for_each_vector(
        self,
        e: Emitter,
        begin: Value,
        end: Value,
        body: Callable[[list[Value], int | None], None],
        batch: Sequence[Value] | None = None,
    ) -> None:
        """Emits `body(offsets in bytes, count)` for vectors along the innermost loop.

        `count` is None for whole vectors, else the number of lanes that are left in the last one.
        """
        lanes = e.lanes
        full, tail = divmod(self.sizes[-1], lanes)

        def along(offsets: list[Value], span: Value) -> None:
            if self.spans == 1 and full <= UNROLLED_VECTORS:
                for vector in range(full):
                    body(self.moved(e, offsets, vector * lanes, -1), None)
            elif self.spans == 1:
                with e.loop(0, full * lanes, lanes, name="vector") as index:
                    body(self.moved(e, offsets, index, -1), None)
            else:
                first = e.mul(span, self.span)
                with e.loop(first, e.minimum(e.add(first, self.span), full * lanes), lanes, name="vector") as index:
                    body(self.moved(e, offsets, index, -1), None)
            if tail and self.spans == 1:
                body(self.moved(e, offsets, full * lanes, -1), tail)
            elif tail:
                with e.when(e.builder.icmp_signed("==", span, e.index(self.spans - 1))):
                    body(self.moved(e, offsets, full * lanes, -1), tail)

        self.for_each_row(e, begin, end, along, batch)

    def for_each_point(self, e: Emitter, begin: Value, end: Value, body: Callable[[list[Value]], None]) -> None:
        """Emits `body(offsets in bytes)` for every element."""

        def along(offsets: list[Value], span: Value) -> None:
            first = e.mul(span, self.span)
            stop = self.sizes[-1] if self.spans == 1 else e.minimum(e.add(first, self.span), self.sizes[-1])
            with e.loop(0 if self.spans == 1 else first, stop, name="point") as index:
                body(self.moved(e, offsets, index, -1))

        self.for_each_row(e, begin, end, along)

    def for_each_group(
        self, e: Emitter, begin: Value, end: Value, body: Callable[[list[Value], list[int | None]], None]
    ) -> None:
        """Emits `body(offsets in bytes, counts)` for groups of vectors along the innermost loop, a span at a time.

        `counts` has an element for each vector: None if it is whole, else the number of lanes that are left. The last
        span of a row may have fewer vectors, so the body may be emitted twice.
        """
        lanes = e.lanes
        group: list[int | None] = [None] * (self.span // lanes)
        full, ragged = divmod(self.sizes[-1], self.span) if group else (0, self.sizes[-1])
        last: list[int | None] = [None] * (ragged // lanes) + ([ragged % lanes] if ragged % lanes else [])

        def along(offsets: list[Value], span: Value) -> None:
            place = self.moved(e, offsets, e.mul(span, self.span), -1)
            if full == 0 or not last:
                body(place, last or group)
                return
            with e.builder.if_else(e.builder.icmp_unsigned("<", span, e.index(full))) as (then, otherwise):
                with then:
                    body(place, group)
                with otherwise:
                    body(place, last)

        self.for_each_row(e, begin, end, along)

    def moved(self, e: Emitter, offsets: Sequence[Value], index: Value | int, axis: int) -> list[Value]:
        """The offsets in bytes after `index` steps on a loop."""
        steps = [strides[axis] * F32_BYTES for strides in self.strides]
        if isinstance(index, int):
            return [e.add(offset, index * step) for offset, step in zip(offsets, steps, strict=True)]
        return [
            offset if step == 0 else e.add(offset, e.mul(index, step))
            for offset, step in zip(offsets, steps, strict=True)
        ]


def is_batched(view: TensorView) -> bool:
    """Axis 0 is the outermost in memory, and there is another one: it is treated as the batch."""
    rank = len(view.shape)
    return rank > 1 and all(view.strides[0] >= view.strides[axis] for axis in range(1, rank) if view.shape[axis] > 1)


def nest(
    shape: Sequence[int], operands: Sequence[Sequence[int]], *, batched: bool, innermost: int | None = None
) -> Nest:
    """The loops over `shape`, as few as possible.

    Args:
        operands: for each operand its strides on every axis of `shape`; the first decides the order of the loops.
        batched: axis 0 is the batch.
        innermost: an axis that becomes the innermost loop whatever its stride, and is not merged with another.
    """
    batch = tuple(strides[0] if batched else 0 for strides in operands)
    axes = [axis for axis in range(int(batched), len(shape)) if shape[axis] != 1 and axis != innermost]
    axes.sort(key=lambda axis: -operands[0][axis])
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in operands]

    def append(axis: int, merge: bool) -> None:
        inner = [strides[axis] for strides in operands]
        if merge and sizes and all(s[-1] == step * shape[axis] for s, step in zip(steps, inner, strict=True)):
            sizes[-1] *= shape[axis]
            for s, step in zip(steps, inner, strict=True):
                s[-1] = step
            return
        sizes.append(shape[axis])
        for s, step in zip(steps, inner, strict=True):
            s.append(step)

    for axis in axes:
        append(axis, True)
    if innermost is not None:
        append(innermost, False)
    while len(sizes) < 2:
        sizes.insert(0, 1)
        for s in steps:
            s.insert(0, 0)
    row_elems = max(1, sizes[-1])
    return Nest(
        tuple(sizes),
        tuple(map(tuple, steps)),
        batch,
        rows=max(1, min(sizes[-2], ITEM_ELEMS // row_elems)),
        span=row_elems if row_elems <= 2 * ITEM_ELEMS else ITEM_ELEMS,
    )


def broadcast_strides(view: TensorView, shape: Sequence[int]) -> tuple[int, ...]:
    """The strides with which `view` is read as `shape`, by NumPy's rule: 0 on axes that it lacks or has once."""
    missing = len(shape) - len(view.shape)
    return (0,) * missing + tuple(
        0 if size == 1 else stride for size, stride in zip(view.shape, view.strides, strict=True)
    )


def broadcast_batch(
    views: Sequence[TensorView], shape: Sequence[int], batched: bool
) -> tuple[list[TensorView], list[Number]]:
    """Operands for a nest over `shape`, whose first axis is the batch, and the bytes between their images.

    An operand that has axis 0 once may be repeated for each image, or belong to the only image of this batch. So that
    the recipe is the same for both, the distances are arguments of the kernel, and no stride of the nest.
    """
    operands = [TensorView(tuple(shape), broadcast_strides(view, shape)) for view in views]
    if not batched:
        return operands, [Number(0) for _ in operands]
    steps = [Number(view.strides[0] * F32_BYTES) for view in operands]
    return [TensorView(view.shape, (0, *view.strides[1:])) for view in operands], steps


def merge_axes(axes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """(size, stride) of loops, sorted with the largest stride outermost and merged where one continues the other."""
    merged: list[tuple[int, int]] = []
    for size, stride in sorted((axis for axis in axes if axis[0] != 1), key=lambda axis: -axis[1]):
        if merged and merged[-1][1] == stride * size:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return tuple(merged)


def chunk(items: int, item_bytes: int) -> int:
    """How many work items, each of which moves `item_bytes`, are handed to a thread at a time."""
    return max(1, min(CHUNK_BYTES // max(item_bytes, 1), items // LEAST_CHUNKS))
