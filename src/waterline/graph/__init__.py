"""A network as data: operations, shapes, and the passes that simplify it."""

from waterline.graph.ir import Graph, Node

__all__ = ["Graph", "Node"]
