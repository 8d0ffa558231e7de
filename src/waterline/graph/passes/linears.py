"""Recognising linear layers."""

from __future__ import annotations

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import Linear, MatMul
from waterline.graph.passes.rewriting import Rewriting


def recognise_linear(graph: Graph) -> Graph:
    """Replace the product of an activation (..., C) and a constant matrix (C, K) by a Linear layer."""
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        if not isinstance(node.op, MatMul):
            continue
        x, matrix = node.inputs[0], graph.constants.get(node.inputs[1])
        if matrix is not None and matrix.ndim == 2 and x not in graph.constants:
            weight = rewriting.constant(matrix.T, f"{node.inputs[1]}.transposed")
            rewriting.replace([node], Node(node.name, Linear(), (x, weight), node.outputs))
    return rewriting.finish()
