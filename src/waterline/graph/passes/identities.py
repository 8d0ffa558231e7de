"""Passes that take out what does nothing."""

from __future__ import annotations

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import Binary, Concat, Expand, Pad, Pool, Reshape, Resize, Slice, Transpose, Unary
from waterline.graph.passes.rewriting import Rewriting
from waterline.spec import Activation

EVERYTHING = Activation("clip", (float("-inf"), float("inf")))
NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "pow": 1.0}


def drop_identities(graph: Graph) -> Graph:
    """Take out every node whose output equals its first input.

    What equals it only by the sizes of this graph's inputs stays: a slice `[:56]` of 56 rows cuts a larger image.
    """
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        if is_identity(rewriting, node):
            rewriting.bypass(node)
    return rewriting.finish()


def is_identity(rewriting: Rewriting, node: Node) -> bool:
    shape = rewriting.shapes[node.inputs[0]] if node.inputs else ()
    match node.op:
        case Reshape() | Expand():
            return rewriting.shapes[node.output] == shape
        case Transpose(perm=perm):
            return perm == tuple(range(len(perm)))
        case Pad(before=before, after=after):
            return not any(before) and not any(after)
        case Slice() as op:
            return all(
                start == 0
                and step == 1
                and (stop >= shape[axis] if is_channel_axis(axis, shape) else stop >= 2**31 - 1)
                for axis, start, stop, step in zip(op.axes, op.starts, op.stops, op.steps, strict=True)
            )
        case Concat():
            return len(node.inputs) == 1
        case Unary(function=function):
            return function == EVERYTHING
        case Binary(kind=kind, after=None):
            scalar = rewriting.scalar(node.inputs[1])
            return scalar is not None and scalar == NEUTRAL.get(kind) and rewriting.shapes[node.output] == shape
        case Pool(kind="max" | "average", kernel=(1, 1), stride=(1, 1), pad=(0, 0, 0, 0)):
            return True
        case Resize(scale=scale):
            return scale == (1.0, 1.0)
    return False


def is_channel_axis(axis: int, shape: tuple[int, ...]) -> bool:
    """Whether the axis holds channels, whose number no input size changes: axis 1 of (N, C) and of (N, C, H, W)."""
    return axis == 1 and len(shape) in (2, 4)


def drop_dead_nodes(graph: Graph) -> Graph:
    """Take out the nodes that no output depends on."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    if len(kept) == len(graph.nodes) and needed.issuperset(graph.constants):
        return graph
    return graph.with_nodes(reversed(kept))
