"""Passes that move what follows a layer into the layer's only store."""

from __future__ import annotations

from dataclasses import replace

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import Binary, Conv, Linear, Unary, with_epilogue
from waterline.graph.passes.rewriting import Rewriting
from waterline.spec import Activation, Epilogue


def fuse_activation(graph: Graph) -> Graph:
    """Move an activation into the Conv, Linear or Binary whose output nothing else reads.

    A lone activation becomes `Epilogue.after`; a second one without a residual makes the first `before`.
    """
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        if not isinstance(node.op, Unary) or not rewriting.is_private(node.inputs[0]):
            continue
        layer = rewriting.producer(node.inputs[0])
        if layer is None:
            continue
        if isinstance(layer.op, Binary) and layer.op.after is None:
            rewriting.replace(
                [layer, node], replace(layer, op=replace(layer.op, after=node.op.function), outputs=node.outputs)
            )
        elif isinstance(layer.op, (Conv, Linear)):
            epilogue = append_activation(layer.op.epilogue, node.op.function)
            if epilogue is not None:
                fused = replace(layer, op=with_epilogue(layer.op, epilogue), outputs=node.outputs)
                rewriting.replace([layer, node], fused)
    return rewriting.finish()


def append_activation(epilogue: Epilogue, function: Activation) -> Epilogue | None:
    """The epilogue followed by one more activation; None if it has no room."""
    if epilogue.after is None:
        return replace(epilogue, after=function)
    if epilogue.before is None and not epilogue.residual:
        return replace(epilogue, before=epilogue.after, after=function)
    return None


def append_residual(epilogue: Epilogue) -> Epilogue | None:
    """The epilogue followed by the addition of a residual; None if it has no room."""
    if epilogue.residual or (epilogue.before and epilogue.after):
        return None
    return replace(epilogue, before=epilogue.before or epilogue.after, residual=True, after=None)


def fuse_residual(graph: Graph) -> Graph:
    """Move the sum of a Conv's or Linear's output and a tensor of the same shape into the layer.

    The layer moves down to where the sum stood, so the other operand is there in time, wherever it is computed. Where
    both operands come from such layers (a block with a projection), the one whose own input is written last takes the
    sum: that is the end of the longer branch, and block fusion wants to find the sum there. A constant is not a
    residual: its batch does not follow the input's.
    """
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        if not isinstance(node.op, Binary) or node.op.kind != "add":
            continue
        a, b = node.inputs
        if rewriting.shapes[a] != rewriting.shapes[b] or a in rewriting.constants or b in rewriting.constants:
            continue
        candidates = [
            (rewriting.position(layer.inputs[0]), layer, residual)
            for tensor, residual in ((a, b), (b, a))
            if (layer := residual_layer(rewriting, tensor)) is not None
        ]
        if candidates:
            _, layer, residual = max(candidates, key=lambda candidate: candidate[0])
            rewriting.replace([layer, node], with_residual(layer, node, residual))
    return rewriting.finish()


def residual_layer(rewriting: Rewriting, tensor: str) -> Node | None:
    """The layer that writes `tensor` and can add a residual to it."""
    layer = rewriting.producer(tensor)
    if layer is None or not isinstance(layer.op, (Conv, Linear)) or not rewriting.is_private(tensor):
        return None
    return layer if append_residual(layer.op.epilogue) is not None else None


def with_residual(layer: Node, add: Node, residual: str) -> Node:
    assert isinstance(layer.op, (Conv, Linear))
    assert isinstance(add.op, Binary)
    epilogue = append_residual(layer.op.epilogue)
    assert epilogue is not None
    op = with_epilogue(layer.op, replace(epilogue, after=add.op.after))
    return replace(layer, op=op, inputs=(*layer.inputs, residual), outputs=add.outputs)
