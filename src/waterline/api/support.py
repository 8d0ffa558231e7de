"""What a graph may hold that no kernel computes: refused here, all of it in one message."""

from __future__ import annotations

from waterline.errors import UnsupportedOperator
from waterline.graph import Graph, Node
from waterline.graph.ops import BatchNorm, Conv, ConvTranspose, Linear


def require_support(graph: Graph) -> Graph:
    """The simplified graph itself.

    Raises:
        UnsupportedOperator: layers whose weights are no constants: kernels read them packed, and packing happens once.
    """
    refused = [
        f"{node.op.name} (node {node.name!r}: {reason})" for node in graph.nodes if (reason := _refusal(graph, node))
    ]
    if refused:
        raise UnsupportedOperator(
            f"the network uses what is not computed: {'; '.join(refused)}",
            "make the weights constants (initializers) of the model",
        )
    return graph


def _refusal(graph: Graph, node: Node) -> str:
    """Why nothing computes a node, or an empty text."""
    op = node.op
    if isinstance(op, BatchNorm):  # with constants it is part of a convolution or a scale by now
        parameters = node.inputs[1:]
    elif isinstance(op, Conv | Linear):
        parameters = node.inputs[1 : 2 + op.epilogue.bias]
    elif isinstance(op, ConvTranspose):
        parameters = node.inputs[1:]
    else:
        return ""
    computed = [repr(name) for name in parameters if not graph.is_constant(name)]
    if computed:
        return f"{' and '.join(computed)} {'is' if len(computed) == 1 else 'are'} known at run time only"
    return ""
