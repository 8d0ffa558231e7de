import gc
import weakref

import numpy as np
import pytest

from waterline.errors import InvalidArgument
from waterline.graph import Graph, Node, ops
from waterline.reference import run
from waterline.reference.evaluation import FUNCTIONS, evaluate, walk
from waterline.spec import Activation

RELU = ops.Unary(Activation("relu"))
NEG = ops.Unary(Activation("neg"))


def chain() -> Graph:
    """x -> a = relu x -> b = -a -> y = b + c, and d = relu x that nothing reads."""
    nodes = [
        Node("first", RELU, ("x",), ("a",)),
        Node("dead", RELU, ("x",), ("d",)),
        Node("second", NEG, ("a",), ("b",)),
        Node("third", ops.Binary("add"), ("b", "c"), ("y",)),
    ]
    constants = {"c": np.full(3, 0.1, np.float32)}
    return Graph("chain", ["x"], ["y"], nodes, {"x": (2, 3)}, constants).infer()


def test_every_operation_has_a_function():
    assert set(FUNCTIONS) == {op for op in ops.Op.__subclasses__() if op.__module__ == ops.__name__}


def test_run_computes_in_float64():
    x = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
    outputs = run(chain(), {"x": x})
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float64
    np.testing.assert_array_equal(outputs["y"], -np.maximum(x, 0).astype(float) + np.float64(np.float32(0.1)))


def test_keep():
    graph = chain()
    x = np.ones((2, 3))
    assert set(run(graph, {"x": x}, keep=["a"])) == {"a", "y"}
    everything = run(graph, {"x": x}, keep=None)
    assert set(everything) == set(graph.shapes)
    assert all(value.shape == graph.shapes[name] for name, value in everything.items())


def test_intermediates_are_freed():
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def compute(node: Node, values: list[np.ndarray]) -> np.ndarray:
        result = evaluate(node.op, values)
        made.append(weakref.ref(result))
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        return result

    walk(chain(), {"x": np.ones((2, 3))}, (), compute)
    assert max(alive) == 2  # a node's input and its output, never more


def test_outputs_may_be_inputs_or_constants():
    graph = Graph("trivial", ["x"], ["x", "c"], [], {"x": (2,)}, {"c": np.ones(1, np.float32)}).infer()
    outputs = run(graph, {"x": np.array([1.0, 2.0])})
    assert set(outputs) == {"x", "c"}
    assert outputs["c"].dtype == np.float64


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing x"),
        ({"x": np.ones((2, 3)), "z": np.ones(1)}, "unknown z"),
        ({"x": np.ones((1, 3))}, r"\(1, 3\)"),
    ],
)
def test_wrong_inputs_are_refused(inputs, message):
    with pytest.raises(InvalidArgument, match=message):
        run(chain(), inputs)


def test_unknown_tensor_is_refused():
    with pytest.raises(InvalidArgument, match="'nothing'"):
        run(chain(), {"x": np.ones((2, 3))}, keep=["nothing"])
