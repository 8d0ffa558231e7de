"""Graphs to plan: networks of the zoo, read once, and small ones built by hand."""

from __future__ import annotations

import functools

import numpy as np

from waterline import models
from waterline.frontends import onnx
from waterline.graph import Graph, Node
from waterline.graph.ops import Concat, Conv, Op, Pool, Unary
from waterline.graph.passes import simplify
from waterline.planner import Plan, Step
from waterline.planner.lower import Copy
from waterline.spec import Activation

RELU = Unary(Activation("relu"))
MAX_POOL = Pool("max", (3, 3), (1, 1), (1, 1, 1, 1))


@functools.cache
def zoo(name: str, image_size: int = 224, batch: int = 1) -> Graph:
    model = models.build(name, image_size=image_size)
    return simplify(onnx.load(model, {"input": (batch, 3, image_size, image_size)}))


def copies(plan: Plan) -> list[Step]:
    return [step for step in plan.steps if isinstance(step.op, Copy)]


class Building:
    """Nodes one after the other; names are given by the caller, weights are random."""

    def __init__(self, **inputs: tuple[int, ...]) -> None:
        self.shapes = dict(inputs)
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(0)

    def add(self, name: str, op: Op, *inputs: str) -> str:
        self.nodes.append(Node(name, op, inputs, (name,)))
        return name

    def conv(self, name: str, x: str, c: int, k: int, size: int = 1, **attributes: object) -> str:
        pad = size // 2
        weight = self.random.standard_normal((k, c, size, size)).astype(np.float32) / np.float32(size * c**0.5)
        self.constants[f"{name}.weight"] = weight
        return self.add(name, Conv(pad=(pad,) * 4, **attributes), x, f"{name}.weight")

    def concat(self, name: str, *inputs: str, axis: int = 1) -> str:
        return self.add(name, Concat(axis), *inputs)

    def graph(self, *outputs: str) -> Graph:
        inputs = list(self.shapes)
        return Graph("built", inputs, list(outputs), self.nodes, dict(self.shapes), self.constants).infer()


def random_inputs(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(graph.shapes[name]).astype(np.float32) for name in graph.inputs]
