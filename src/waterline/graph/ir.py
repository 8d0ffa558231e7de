"""`Graph`: a network as a list of nodes in execution order, in the model's own layout (NCHW).

Tensors are names. Shapes are whole numbers: a graph stands for one input shape, and `with_shapes` derives the graph
of another one (another batch, another image) without touching the constants, so packed weights can be shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from waterline.errors import Error, InvalidModel
from waterline.graph.ops import Op, Shape


@dataclass(frozen=True)
class Node:
    """One operation. An absent optional input is not listed: the op says which inputs it has."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def output(self) -> str:
        return self.outputs[0]

    def with_inputs(self, inputs: Iterable[str]) -> Node:
        return replace(self, inputs=tuple(inputs))


@dataclass
class Graph:
    """A network.

    Attributes:
        inputs, outputs: names of tensors, in the model's order.
        nodes: in execution order (every tensor is written before it is read, by one node only).
        shapes: tensor name -> shape, for inputs, constants and every node's outputs. Filled by `infer`.
        constants: tensor name -> float32 array.
        dtype: element type of every tensor.
    """

    name: str
    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    shapes: dict[str, Shape]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    dtype: str = "f32"

    def infer(self) -> Graph:
        """Recompute every shape from the inputs'; checks the order of nodes and every op's arity on the way.

        Raises:
            InvalidModel: a tensor is read before it is written, written twice, or shapes contradict each other.
        """
        shapes: dict[str, Shape] = {name: self.shapes[name] for name in self.inputs}
        for name, value in self.constants.items():
            shapes[name] = tuple(value.shape)
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in shapes]
            if missing:
                raise InvalidModel(f"node {node.name!r} reads {missing[0]!r}, which nothing before it writes")
            try:
                results = node.op.infer([shapes[name] for name in node.inputs])
            except Error as error:
                raise InvalidModel(f"node {node.name!r} ({node.op.name}): {error.message}", error.hint) from error
            if len(results) != len(node.outputs):
                raise InvalidModel(
                    f"node {node.name!r} has {len(node.outputs)} outputs, {node.op.name} makes {len(results)}"
                )
            for name, shape in zip(node.outputs, results, strict=True):
                if name in shapes:
                    raise InvalidModel(f"node {node.name!r} writes {name!r}, which is already there")
                shapes[name] = shape
        for name in self.outputs:
            if name not in shapes:
                raise InvalidModel(f"the output {name!r} is written by no node")
        self.shapes = shapes
        return self

    def with_shapes(self, input_shapes: Mapping[str, Shape]) -> Graph:
        """The same network for other input shapes. Nodes and constants are shared, not copied."""
        shapes = {name: tuple(input_shapes.get(name, self.shapes[name])) for name in self.inputs}
        return Graph(
            self.name, list(self.inputs), list(self.outputs), list(self.nodes), shapes, self.constants, self.dtype
        ).infer()

    def with_nodes(self, nodes: Iterable[Node], constants: Mapping[str, np.ndarray] | None = None) -> Graph:
        """The same inputs and outputs with other nodes; constants that nothing reads any more are dropped."""
        nodes = list(nodes)
        constants = self.constants if constants is None else constants
        used = {name for node in nodes for name in node.inputs} | set(self.outputs)
        kept = {name: value for name, value in constants.items() if name in used}
        shapes = {name: self.shapes[name] for name in self.inputs}
        return Graph(self.name, list(self.inputs), list(self.outputs), nodes, shapes, kept, self.dtype).infer()

    def producers(self) -> dict[str, Node]:
        """Tensor name -> the node that writes it."""
        return {name: node for node in self.nodes for name in node.outputs}

    def is_constant(self, name: str) -> bool:
        return name in self.constants
