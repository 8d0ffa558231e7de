"""Small networks as programs, made without the API."""

from __future__ import annotations

import numpy as np

from waterline.graph import Graph, Node
from waterline.graph.ops import AdaptivePool, Binary, Concat, Conv, Linear, Pool, Reshape, Unary
from waterline.machine import detect
from waterline.planner import PlanOptions, plan
from waterline.runtime.cache import ObjectCache
from waterline.runtime.program import Program
from waterline.runtime.weights import PackedWeights
from waterline.spec import Activation, Epilogue

LOCAL = detect()
NO_CACHE = ObjectCache(None, "test")
RELU = Activation("relu")
LAYERS = ("first", "wide", "deep", "narrow", "each", "groups", "last")


def network(batch: int = 1, k: int = 24, size: int = 20, seed: int = 0) -> Graph:
    """Every algorithm's kind of layer, a residual, a concatenation, pooling and a fully connected layer."""
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int) -> str:
        constants[name] = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        return name

    def bias(name: str, size: int) -> str:
        constants[name] = rng.standard_normal(size).astype(np.float32)
        return name

    same = {"pad": (1, 1, 1, 1)}
    full = Epilogue(bias=True, after=RELU)
    nodes = [
        Node("first", Conv((2, 2), **same, epilogue=full), ("x", weight("w0", k, 3, 3, 3), bias("b0", k)), ("a",)),
        Node("wide", Conv(epilogue=full), ("a", weight("w1", 2 * k, k, 1, 1), bias("b1", 2 * k)), ("b",)),
        Node("deep", Conv(**same), ("b", weight("w2", k, 2 * k, 3, 3)), ("c",)),
        Node("narrow", Conv(epilogue=Epilogue(residual=True)), ("c", weight("w3", k, k, 1, 1), "a"), ("d",)),
        Node("each", Conv(**same, groups=k), ("d", weight("w4", k, 1, 3, 3)), ("e",)),
        Node("groups", Conv(**same, groups=k // 8), ("d", weight("w5", k, 8, 3, 3)), ("f",)),
        Node("pool", Pool("max", (3, 3), (1, 1), (1, 1, 1, 1)), ("d",), ("g",)),
        Node("all", Concat(1), ("e", "f", "g"), ("h",)),
        Node("relu", Unary(RELU), ("h",), ("i",)),
        Node("mean", AdaptivePool("average"), ("i",), ("j",)),
        Node("scale", Binary("mul"), ("i", "j"), ("l",)),
        Node("mean2", AdaptivePool("average"), ("l",), ("m",)),
        Node("rows", Reshape((0, -1)), ("m",), ("n",)),
        Node("last", Linear(Epilogue(bias=True)), ("n", weight("w6", 10, 3 * k), bias("b6", 10)), ("y",)),
    ]
    return Graph("network", ["x"], ["y", "l"], nodes, {"x": (batch, 3, size, size)}, constants).infer()


def program(graph: Graph, weights: PackedWeights | None = None, algorithms: tuple[str, ...] = ()) -> Program:
    weights = weights or PackedWeights(graph.constants, LOCAL)
    return Program(plan(graph, LOCAL, PlanOptions(algorithms)), weights, LOCAL, NO_CACHE)


def image(graph: Graph, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(graph.shapes["x"]).astype(np.float32)


def bytes_of(outputs: list[np.ndarray]) -> bytes:
    return b"".join(array.tobytes() for array in outputs)
