"""Which axis counts the images of a batch.

A program is traced with one batch size; its shapes say nothing about another. While it is read, every tensor
therefore remembers where the batch is, so that a Reshape can be written for any batch (0 and -1 in its shape). Where
that is not known it is written with plain numbers: `Graph.with_shapes` then refuses another batch instead of computing
nonsense.
"""

from __future__ import annotations

from collections.abc import Sequence

from waterline.graph import ops
from waterline.graph.ops import Op, Shape


def follow(op: Op, inputs: Sequence[tuple[Shape, int | None]], out: Shape) -> int | None:
    """The batch axis of a node's output.

    Args:
        inputs: shape and batch axis of every input that is computed at run time.

    Returns:
        None where the batch is mixed with other axes, or unknown.
    """
    from_end = {axis - len(shape) for shape, axis in inputs if axis is not None}  # as broadcasting aligns them
    if len(from_end) != 1 or any(axis is None for _, axis in inputs):
        return None
    shape, axis = inputs[0]
    assert axis is not None
    last = len(out) + from_end.pop()
    match op:
        case ops.Transpose(perm=perm):
            return perm.index(axis)
        case ops.Reshape(shape=target):
            is_copied = len(target) > axis and not any(target[: axis + 1])
            return axis if is_copied or (axis == 0 and target[:1] == (-1,)) else None
        case ops.Reduce(axes=reduced, keepdims=keepdims):
            return None if axis in reduced else axis if keepdims else axis - sum(a < axis for a in reduced)
        case ops.Concat(axis=joined):
            return None if joined == axis else axis
        case ops.Slice(axes=cut):
            return None if axis in cut else axis
        case ops.MatMul():
            return last if 0 <= last < len(out) - 2 else None
        case ops.Linear():
            return None if axis == len(shape) - 1 else axis
    return last if last >= 0 else None


def relative(source: Shape, axis: int | None, target: Shape, written: Sequence[int] = ()) -> tuple[int, ...]:
    """`target` as `ops.Reshape` takes it, good for any batch where that can be said.

    Args:
        axis: the batch axis of `source`.
        written: the shape in the program's own words: it may hold a -1.
    """
    same = 0
    while same < min(len(source), len(target)) and source[same] == target[same]:
        same += 1
    if axis is None or axis > max(same - 1, 0):
        return target
    rest = list(target[same:])
    if same == 0 and rest:
        return (-1, *rest[1:])  # the batch, outermost, is joined with the next axes or parted from them
    if len(rest) == 1:
        return (*[0] * same, -1)
    for position in range(same, min(len(target), len(written))):
        if written[position] == -1:
            rest[position - same] = -1
    return (*[0] * same, *rest)
