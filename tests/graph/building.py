"""A short way to write graphs down in tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from waterline.graph import Graph, Node
from waterline.graph.ops import (
    BatchNorm,
    Binary,
    Conv,
    ConvTranspose,
    Linear,
    Op,
    Unary,
)
from waterline.reference import compare, run
from waterline.spec import ACTIVATIONS, Activation, Epilogue


class Builder:
    """Collects nodes; every method returns the name of the tensor that it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = Graph("test", [], [], [], {})

    def input(self, *shape: int) -> str:
        name = f"x{len(self.graph.inputs)}"
        self.graph.inputs.append(name)
        self.graph.shapes[name] = shape
        return name

    def constant(self, value: object) -> str:
        name = f"c{len(self.graph.constants)}"
        self.graph.constants[name] = np.asarray(value, np.float32)
        self.graph.shapes[name] = self.graph.constants[name].shape
        return name

    def random_constant(self, *shape: int) -> str:
        return self.constant(self.random.uniform(0.5, 1.5, shape) * self.random.choice([-1, 1], shape))

    def add(self, op: Op, *inputs: str | float) -> str:
        names = tuple(name if isinstance(name, str) else self.constant(name) for name in inputs)
        name = f"t{len(self.graph.nodes)}"
        self.graph.shapes[name] = op.infer([self.graph.shapes[n] for n in names])[0]
        self.graph.nodes.append(Node(f"n{len(self.graph.nodes)}", op, names, (name,)))
        return name

    def conv(self, x: str, k: int, size: int = 3, bias: bool = False, **attributes: object) -> str:
        op = replace(Conv(epilogue=Epilogue(bias=bias)), **attributes)
        c = self.graph.shapes[x][1] // op.groups
        weight = self.constant(self.random.standard_normal((k, c, size, size)) / np.sqrt(c * size * size))
        return self.add(op, x, weight, *([self.random_constant(k)] if bias else []))

    def conv_transpose(self, x: str, k: int, size: int = 2, bias: bool = False, **attributes: object) -> str:
        op = replace(ConvTranspose(bias=bias), **attributes)
        weight = self.constant(self.random.standard_normal((self.graph.shapes[x][1], k // op.groups, size, size)))
        return self.add(op, x, weight, *([self.random_constant(k)] if bias else []))

    def linear(self, x: str, k: int, bias: bool = False) -> str:
        c = self.graph.shapes[x][-1]
        weight = self.constant(self.random.standard_normal((k, c)) / np.sqrt(c))
        return self.add(Linear(Epilogue(bias=bias)), x, weight, *([self.random_constant(k)] if bias else []))

    def batch_norm(self, x: str) -> str:
        c = self.graph.shapes[x][1]
        scale, bias, mean = (self.random_constant(c) for _ in range(3))
        return self.add(BatchNorm(1e-5), x, scale, bias, mean, self.constant(self.random.uniform(0.5, 2, c)))

    def unary(self, kind: str, x: str, *params: float) -> str:
        assert len(ACTIVATIONS[kind]) == len(params)
        return self.add(Unary(Activation(kind, params)), x)

    def binary(self, kind: str, a: str | float, b: str | float) -> str:
        return self.add(Binary(kind), a, b)

    def finish(self, *outputs: str) -> Graph:
        self.graph.outputs = list(outputs)
        return self.graph.with_nodes(self.graph.nodes)


def op_names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def check_same(before: Graph, after: Graph, tolerance: float = 1e-12, seed: int = 1) -> None:
    """Both graphs give the same outputs under the same names, relative to the largest value of each output.

    Args:
        tolerance: 1e-12 for passes that keep every constant; about 1e-6 where new constants are rounded to float32.
    """
    assert after.outputs == before.outputs
    assert after.inputs == before.inputs
    random = np.random.default_rng(seed)
    inputs = {name: random.standard_normal(before.shapes[name]) for name in before.inputs}
    expected, actual = run(before, inputs), run(after, inputs)
    for name in before.outputs:
        bound = tolerance * max(1.0, np.abs(expected[name]).max(initial=0))
        comparison = compare(actual[name], expected[name], bound)
        assert comparison.is_within, f"{name}: {comparison}"
