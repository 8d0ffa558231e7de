"""Which names the nodes of a graph read and write: the check that they fit together, and what an output needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from waterline.errors import InvalidModel
from waterline.frontends.onnx.attributes import AttributeProto

DEEPEST_NESTING = 64
UNORDERED = "the graph has a cycle, or its nodes are not in the order of execution"


@dataclass
class Names:
    """Which names nodes read and write."""

    known: set[str]
    nodes: Sequence[tuple[set[str], Sequence[str]]]  # for each node what it reads and what it writes

    def live(self, needed: set[str]) -> set[int]:
        """Positions of the nodes that the names in `needed` depend on."""
        live: set[int] = set()
        needed = set(needed)
        for position in range(len(self.nodes) - 1, -1, -1):
            reads, writes = self.nodes[position]
            if not needed.isdisjoint(writes):
                live.add(position)
                needed |= reads
        return live


def check_names(nodes: Iterable[onnx.NodeProto], known: set[str]) -> Names:
    """Every name is written before it is read, and once. Raises InvalidModel for cycles, loose ends and duplicates."""
    known = set(known)
    written: set[str] = set()
    found: list[tuple[set[str], Sequence[str]]] = []
    nodes = list(nodes)
    everything = {name for node in nodes for name in node.output}
    for node in nodes:
        reads = {name for name in node.input if name}
        unknown = sorted(reads - known)
        if unknown:
            if unknown[0] in everything:
                what, hint = (
                    "a later node or itself writes",
                    UNORDERED,
                )
            else:
                what, hint = "nothing writes", "an initializer, an input or a node is missing"
            raise InvalidModel(f"node {node.name!r} ({node.op_type}) reads {unknown[0]!r}, which {what}", hint)
        captured: set[str] = set()
        for graph in _branches(node):
            _captured(graph, captured, 0)
        found.append((reads | captured, list(node.output)))
        for name in node.output:
            if name and (name in written or name in known):
                raise InvalidModel(f"node {node.name!r} ({node.op_type}) writes {name!r}, which is already there")
            if name:
                written.add(name)
                known.add(name)
    return Names(known, found)


def _captured(graph: onnx.GraphProto, names: set[str], depth: int) -> None:
    """All names that a branch reads: some of them are the outer graph's."""
    if depth > DEEPEST_NESTING:
        raise InvalidModel(f"branches are nested more than {DEEPEST_NESTING} deep")
    for node in graph.node:
        names.update(node.input)
        for inner in _branches(node):
            _captured(inner, names, depth + 1)
    names.update(info.name for info in graph.output)


def _branches(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    return [proto.g for proto in node.attribute if proto.type == AttributeProto.GRAPH]
