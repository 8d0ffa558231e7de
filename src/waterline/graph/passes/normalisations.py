"""Recognising layer normalisation that an exporter has written out in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import Binary, GroupNorm, LayerNorm, Op, Reduce, Transpose, Unary
from waterline.graph.passes.rewriting import Rewriting

TO_CHANNELS_LAST = (0, 2, 3, 1)
TO_CHANNELS_FIRST = (0, 3, 1, 2)


@dataclass
class Standardised:
    """`(x - mean) / sqrt(variance + epsilon)` over `axes`, and the nodes that compute it."""

    x: str = ""
    axes: tuple[int, ...] = ()
    epsilon: float = 0.0
    nodes: dict[str, Node] = field(default_factory=dict)


def recognise_layer_norm(graph: Graph) -> Graph:
    """Replace mean, difference, variance, root and quotient by one node, without scale and bias.

    What follows per channel is folded in by `fold_scales`. Over the channels of (N, C, H, W) the result is a LayerNorm
    between two transposes, over all of an image or a plane a GroupNorm; other axes stay as they are.
    """
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        found = match_standardised(rewriting, node) if isinstance(node.op, Binary) else None
        if found is None or not rewriting.is_closed(found.nodes, node.output):
            continue
        new = replacement(rewriting, found, node)
        if new:
            rewriting.replace(found.nodes.values(), *new)
    return rewriting.finish()


def replacement(rewriting: Rewriting, found: Standardised, root: Node) -> list[Node]:
    shape = rewriting.shapes[found.x]
    rank = len(shape)
    if found.axes == (rank - 1,):
        scale = rewriting.constant(np.ones(shape[-1:]), f"{root.name}.scale")
        return [Node(root.name, LayerNorm(rank - 1, found.epsilon, bias=False), (found.x, scale), root.outputs)]
    if rank == 4 and found.axes == (1,):
        scale = rewriting.constant(np.ones(shape[1:2]), f"{root.name}.scale")
        last, normal = rewriting.fresh(f"{root.output}.nhwc"), rewriting.fresh(f"{root.output}.normal")
        return [
            Node(f"{root.name}.nhwc", Transpose(TO_CHANNELS_LAST), (found.x,), (last,)),
            Node(root.name, LayerNorm(3, found.epsilon, bias=False), (last, scale), (normal,)),
            Node(f"{root.name}.nchw", Transpose(TO_CHANNELS_FIRST), (normal,), root.outputs),
        ]
    if rank == 4 and found.axes in ((1, 2, 3), (2, 3)):
        op = GroupNorm(1 if 1 in found.axes else shape[1], found.epsilon)
        scale = rewriting.constant(np.ones(shape[1:2]), f"{root.name}.scale")
        bias = rewriting.constant(np.zeros(shape[1:2]), f"{root.name}.bias")
        return [Node(root.name, op, (found.x, scale, bias), root.outputs)]
    return []


# ---- the pattern ----------------------------------------------------------------------------------------------------
def match_standardised(rewriting: Rewriting, root: Node) -> Standardised | None:
    """difference / deviation, or difference * (1 / deviation)."""
    found = Standardised(nodes={root.output: root})
    orders = [root.inputs] if is_binary(root.op, "div") else [root.inputs, root.inputs[::-1]]
    if not is_binary(root.op, "div") and not is_binary(root.op, "mul"):
        return None
    for difference, deviation in orders:
        found.nodes = {root.output: root}
        variance = match_deviation(rewriting, deviation, found, is_inverse=is_binary(root.op, "mul"))
        if variance is None or not match_difference(rewriting, difference, found):
            continue
        if match_variance(rewriting, variance, found):
            return found
    return None


def is_binary(op: Op, kind: str) -> bool:
    return isinstance(op, Binary) and op.kind == kind and op.after is None


def is_unary(op: Op, kind: str) -> bool:
    return isinstance(op, Unary) and op.function.kind == kind


def match_deviation(rewriting: Rewriting, tensor: str, found: Standardised, is_inverse: bool) -> str | None:
    """sqrt(variance + epsilon) or its inverse: notes epsilon and returns the variance's tensor."""
    node = rewriting.producer(tensor)
    if node is None:
        return None
    if is_inverse and (is_unary(node.op, "reciprocal") or is_inverse_of(rewriting, node)):
        found.nodes[node.output] = node
        return match_deviation(rewriting, node.inputs[-1], found, is_inverse=False)
    power = -0.5 if is_inverse else 0.5
    is_root = is_binary(node.op, "pow") and rewriting.scalar(node.inputs[1]) == power
    if not is_root and (is_inverse or not is_unary(node.op, "sqrt")):
        return None
    total = rewriting.producer(node.inputs[0])
    if total is None or not is_binary(total.op, "add"):
        return None
    for variance, constant in (total.inputs, total.inputs[::-1]):
        epsilon = rewriting.scalar(constant)
        if epsilon is not None and rewriting.shapes[variance] == rewriting.shapes[total.output]:
            found.epsilon = epsilon
            found.nodes |= {node.output: node, total.output: total}
            return variance
    return None


def is_inverse_of(rewriting: Rewriting, node: Node) -> bool:
    return is_binary(node.op, "div") and rewriting.scalar(node.inputs[0]) == 1.0


def match_difference(rewriting: Rewriting, tensor: str, found: Standardised) -> bool:
    """x - mean(x): notes x and the axes, or checks that they are those already noted."""
    node = rewriting.producer(tensor)
    if node is None or not is_binary(node.op, "sub"):
        return False
    x, mean = node.inputs[0], rewriting.producer(node.inputs[1])
    if mean is None or mean.inputs[0] != x:
        return False
    axes = mean_axes(mean.op)
    if not axes or (found.x and (x, axes) != (found.x, found.axes)):
        return False
    found.x, found.axes = x, axes
    found.nodes |= {node.output: node, mean.output: mean}
    return True


def match_variance(rewriting: Rewriting, tensor: str, found: Standardised) -> bool:
    """mean of the squared difference, which may have been computed a second time."""
    mean = rewriting.producer(tensor)
    square = rewriting.producer(mean.inputs[0]) if mean is not None else None
    if mean is None or square is None or mean_axes(mean.op) != found.axes:
        return False
    is_square = (
        is_unary(square.op, "square")
        or (is_binary(square.op, "pow") and rewriting.scalar(square.inputs[1]) == 2.0)
        or (is_binary(square.op, "mul") and square.inputs[0] == square.inputs[1])
    )
    if not is_square or not match_difference(rewriting, square.inputs[0], found):
        return False
    found.nodes |= {mean.output: mean, square.output: square}
    return True


def mean_axes(op: Op) -> tuple[int, ...]:
    return tuple(sorted(op.axes)) if isinstance(op, Reduce) and op.kind == "mean" and op.keepdims else ()
