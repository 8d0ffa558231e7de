"""Computing, once and for all, what depends on constants only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import Op

Evaluate = Callable[[Op, list[np.ndarray]], np.ndarray]


def fold_constants(graph: Graph, evaluate: Evaluate) -> Graph:
    """Replace every node that reads constants only by its value.

    Args:
        evaluate: computes one op on float64 arrays (`waterline.reference.evaluate`: a room above this one).

    A chain of such nodes is computed in float64 and rounded to float32 once, at its end. Graph outputs stay nodes.
    """
    known: dict[str, np.ndarray] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        is_known = all(name in known or name in graph.constants for name in node.inputs)
        if is_known and node.inputs and len(node.outputs) == 1 and node.output not in graph.outputs:
            values = [known[n] if n in known else graph.constants[n].astype(np.float64) for n in node.inputs]
            known[node.output] = evaluate(node.op, values)
        else:
            kept.append(node)
    if not known:
        return graph
    read = {name for node in kept for name in node.inputs}
    folded = {name: np.ascontiguousarray(value, np.float32) for name, value in known.items() if name in read}
    return graph.with_nodes(kept, {**graph.constants, **folded})
