"""`Rewriting`: a graph while a pass changes it. Passes stay short because order, names and readers are kept here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import Op, Shape


class Rewriting:
    """The nodes, constants and readers of a graph under change. The graph itself is never touched.

    A new node stands where the node that it replaces stood; `finish` restores the order where that is not enough.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[str, Shape] = dict(graph.shapes)
        self.constants: dict[str, np.ndarray] = dict(graph.constants)
        self._nodes: dict[str, Node] = {}  # by first output
        self._positions: dict[str, int] = {}
        self._producers: dict[str, str] = {}  # tensor -> first output of the node that writes it
        self._readers: dict[
            str, list[str]
        ] = {}  # tensor -> first outputs of its readers, once for every time it is read
        self._outputs = set(graph.outputs)
        self._is_changed = False
        for position, node in enumerate(graph.nodes):
            self._insert(node, position)

    # ---- questions ----------------------------------------------------------------------------------------------
    def nodes(self) -> Iterator[Node]:
        """The nodes that are there now, in execution order, each as it is when its turn comes.

        The graph may change meanwhile: nodes that vanish are left out, new ones are visited only if they write what a
        node that is still to come wrote.
        """
        for output in sorted(self._nodes, key=self._positions.__getitem__):
            if output in self._nodes:
                yield self._nodes[output]

    def producer(self, tensor: str) -> Node | None:
        """The node that writes `tensor`; None for inputs and constants."""
        key = self._producers.get(tensor)
        return None if key is None else self._nodes[key]

    def readers(self, tensor: str) -> list[Node]:
        """The nodes that read `tensor`, once for every time they read it."""
        return [self._nodes[key] for key in self._readers.get(tensor, ())]

    def is_private(self, tensor: str) -> bool:
        """Whether exactly one read of `tensor` exists and the user of the network does not see it."""
        return tensor not in self._outputs and len(self._readers.get(tensor, ())) == 1

    def is_output(self, tensor: str) -> bool:
        return tensor in self._outputs

    def is_closed(self, tensors: Iterable[str], last: str) -> bool:
        """Whether nobody but the writers of `tensors` reads any of them, `last` excepted."""
        inside = set(tensors)
        return all(
            tensor not in self._outputs and inside.issuperset(self._readers.get(tensor, ()))
            for tensor in inside
            if tensor != last
        )

    def position(self, tensor: str) -> int:
        """Where in the execution order `tensor` is written; -1 for inputs and constants."""
        key = self._producers.get(tensor)
        return -1 if key is None else self._positions[key]

    def scalar(self, tensor: str) -> float | None:
        """The value of a constant that has one element."""
        value = self.constants.get(tensor)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    # ---- changes ------------------------------------------------------------------------------------------------
    def replace(self, old: Iterable[Node], *new: Node) -> None:
        """Put `new` (in execution order) where the last of `old` stood."""
        old = list(old)
        position = max(self._positions[node.output] for node in old)
        for node in old:
            self._remove(node)
        for node in new:
            self._insert(node, position)
            inferred = node.op.infer([self.shapes[name] for name in node.inputs])
            self.shapes.update(zip(node.outputs, inferred, strict=True))
        self._is_changed = True

    def remove(self, node: Node) -> None:
        """Take out a node that nothing reads."""
        self._remove(node)
        self._is_changed = True

    def redirect(self, tensor: str, to: str) -> None:
        """Let every reader of `tensor` read `to`."""
        for node in {reader.output: reader for reader in self.readers(tensor)}.values():
            position = self._positions[node.output]
            self._remove(node)
            self._insert(node.with_inputs(to if name == tensor else name for name in node.inputs), position)
        self._is_changed = True

    def bypass(self, node: Node) -> None:
        """Take out a node whose output equals its first input. Stays where both ends carry names that the user sees."""
        source, output = node.inputs[0], node.output
        if output not in self._outputs:
            self.redirect(output, source)
            self.remove(node)
            return
        writer = self.producer(source)
        if writer is not None and source not in self._outputs:
            position = self._positions[writer.output]
            self._remove(node)
            self._remove(writer)
            self._insert(replace(writer, outputs=tuple(output if o == source else o for o in writer.outputs)), position)
            self.redirect(source, output)

    def constant(self, value: np.ndarray, base: str) -> str:
        """Add a constant in float32 under a new name that begins with `base`."""
        name = self.fresh(base)
        self.constants[name] = np.ascontiguousarray(value, np.float32)
        self.shapes[name] = tuple(value.shape)
        return name

    def fresh(self, base: str) -> str:
        """A tensor name that is not taken."""
        name, count = base, 1
        while name in self.shapes:
            count += 1
            name = f"{base}.{count}"
        self.shapes[name] = ()
        return name

    def insert_before(self, node: Node, op: Op, inputs: Iterable[str], suffix: str) -> str:
        """Add `op` in front of `node` and return its output."""
        output = self.fresh(f"{node.output}.{suffix}")
        added = Node(f"{node.name}.{suffix}", op, tuple(inputs), (output,))
        self._insert(added, self._positions[node.output])
        self.shapes[output] = op.infer([self.shapes[name] for name in added.inputs])[0]
        self._is_changed = True
        return output

    def finish(self) -> Graph:
        """The changed graph, every shape checked; the original itself if nothing changed."""
        return self.graph.with_nodes(self._ordered(), self.constants) if self._is_changed else self.graph

    # ---- inside -------------------------------------------------------------------------------------------------
    def _insert(self, node: Node, position: int) -> None:
        self._nodes[node.output] = node
        self._positions[node.output] = position
        for name in node.outputs:
            self._producers[name] = node.output
        for name in node.inputs:
            self._readers.setdefault(name, []).append(node.output)

    def _remove(self, node: Node) -> None:
        del self._nodes[node.output], self._positions[node.output]
        for name in node.outputs:
            del self._producers[name]
        for name in node.inputs:
            self._readers[name].remove(node.output)

    def _ordered(self) -> list[Node]:
        """By position, but never before what is read: depth first through the producers that are still to come."""
        ordered: list[Node] = []
        done: set[str] = set()
        for root in self.nodes():
            stack = [root]
            while stack:
                node = stack[-1]
                if node.output in done:
                    stack.pop()
                    continue
                waiting = [p for p in map(self.producer, node.inputs) if p is not None and p.output not in done]
                if waiting:
                    stack.extend(waiting)
                else:
                    stack.pop()
                    done.add(node.output)
                    ordered.append(node)
        return ordered
