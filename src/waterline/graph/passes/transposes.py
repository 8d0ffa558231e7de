"""Moving transposes out of the way of fusion.

Inside the engine a transpose between NCHW and NHWC only relabels the axes of the same memory, but in the graph it
stands between a linear layer and the scale, activation or sum that could be fused into it. These rewrites push it down
past such nodes, where it meets the transpose of the next block and both vanish.
"""

from __future__ import annotations

import numpy as np

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import Binary, Conv, ConvTranspose, Linear, Transpose, Unary
from waterline.graph.passes.normalisations import TO_CHANNELS_FIRST
from waterline.graph.passes.rewriting import Rewriting


def sink_transposes(graph: Graph) -> Graph:
    """Merge transposes of transposes, and exchange transposes with the element-by-element nodes that read them."""
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        match node.op:
            case Transpose():
                merge_transposes(rewriting, node)
            case Unary():
                sink_past_unary(rewriting, node)
            case Binary():
                sink_past_binary(rewriting, node)
    return rewriting.finish()


def merge_transposes(rewriting: Rewriting, node: Node) -> None:
    inner = rewriting.producer(node.inputs[0])
    if inner is None or not isinstance(inner.op, Transpose):
        return
    assert isinstance(node.op, Transpose)
    perm = tuple(inner.op.perm[axis] for axis in node.op.perm)
    rewriting.replace([node], Node(node.name, Transpose(perm), inner.inputs, node.outputs))
    if not rewriting.readers(inner.output) and not rewriting.is_output(inner.output):
        rewriting.remove(inner)


def private_transpose(rewriting: Rewriting, tensor: str, rank: int) -> Node | None:
    """The transpose of `rank` axes that writes `tensor`, if nothing but the asking node reads it."""
    node = rewriting.producer(tensor)
    is_fit = node is not None and isinstance(node.op, Transpose) and len(node.op.perm) == rank
    return node if is_fit and rewriting.is_private(tensor) else None


def sink_past_unary(rewriting: Rewriting, node: Node) -> None:
    transpose = private_transpose(rewriting, node.inputs[0], len(rewriting.shapes[node.output]))
    if transpose is not None:
        put_transpose_last(rewriting, node, [transpose], transpose.inputs)


def sink_past_binary(rewriting: Rewriting, node: Node) -> None:
    rank = len(rewriting.shapes[node.output])
    a, b = (private_transpose(rewriting, tensor, rank) for tensor in node.inputs)
    if a is not None and b is not None and a.op == b.op:
        put_transpose_last(rewriting, node, [a, b], (a.inputs[0], b.inputs[0]))
        return
    for position, transpose in ((0, a), (1, b)):
        if transpose is None:
            continue
        assert isinstance(transpose.op, Transpose)
        other = node.inputs[1 - position]
        inverse = tuple(int(axis) for axis in np.argsort(transpose.op.perm))
        if other in rewriting.constants:
            value = rewriting.constants[other]
            aligned = value.reshape((1,) * (rank - value.ndim) + value.shape)
            moved = other if value.size == 1 else rewriting.constant(aligned.transpose(inverse), f"{other}.transposed")
        elif is_sum_for_linear(rewriting, node, transpose, other):
            moved = rewriting.insert_before(node, Transpose(inverse), [other], "nhwc")
        else:
            continue
        inputs = (transpose.inputs[0], moved) if position == 0 else (moved, transpose.inputs[0])
        put_transpose_last(rewriting, node, [transpose], inputs)
        return


def is_sum_for_linear(rewriting: Rewriting, node: Node, transpose: Node, other: str) -> bool:
    """Whether `node` adds `other` to the transposed output of a linear layer that could do it itself.

    Only in the direction NHWC to NCHW, so that no two of these rewrites undo each other; and not where `other` comes
    from a convolution, which can take the sum as it stands.
    """
    assert isinstance(node.op, Binary)
    assert isinstance(transpose.op, Transpose)
    if node.op.kind != "add" or transpose.op.perm != TO_CHANNELS_FIRST:
        return False
    if rewriting.shapes[other] != rewriting.shapes[node.output]:
        return False
    source, writer = rewriting.producer(transpose.inputs[0]), rewriting.producer(other)
    is_linear = source is not None and isinstance(source.op, Linear) and rewriting.is_private(transpose.inputs[0])
    is_from_conv = writer is not None and isinstance(writer.op, (Conv, ConvTranspose)) and rewriting.is_private(other)
    return is_linear and not is_from_conv


def put_transpose_last(rewriting: Rewriting, node: Node, transposes: list[Node], inputs: tuple[str, ...]) -> None:
    """Let `node` read what the transposes read, and transpose its output instead."""
    inner = rewriting.fresh(f"{node.output}.inner")
    rewriting.replace(
        [*transposes, node],
        Node(node.name, node.op, inputs, (inner,)),
        Node(f"{node.name}.transpose", transposes[0].op, (inner,), node.outputs),
    )
