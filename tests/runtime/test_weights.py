"""Packed weights: made once, shared by all batch sizes, let go of where they can be read again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from programs import LOCAL, bytes_of, image, network, program

from waterline.graph import Graph, Node
from waterline.graph.ops import Binary, Conv, ConvTranspose
from waterline.planner import Plan, plan
from waterline.reference import conv2d, run
from waterline.runtime.weights import PackedWeights, convolution_weight


def addresses(weights: PackedWeights, made: Plan) -> dict[tuple[str, str], int]:
    steps = [step for step in made.steps if step.spec is not None]
    return {(step.name, name): a.ctypes.data for step in steps for name, a in weights.of(step).items()}


def test_batch_sizes_share_one_packing():
    graph = network()
    weights = PackedWeights(graph.constants, LOCAL)
    one = program(graph, weights)
    held, lying = weights.bytes, addresses(weights, one.plan)
    for batch in (2, 7, 3):
        larger = graph.with_shapes({"x": (batch, 3, 20, 20)})
        other = program(larger, weights)
        assert weights.bytes == held
        assert addresses(weights, other.plan) == lying
        assert other.run([image(larger)], 1)[0].shape == (batch, 10)


def test_other_image_sizes_share_what_is_packed_alike():
    graph = network()
    weights = PackedWeights(graph.constants, LOCAL)
    program(graph, weights, ("indirect", "depthwise", "grouped", "naive"))
    held = weights.bytes
    larger = graph.with_shapes({"x": (1, 3, 28, 20)})
    made = program(larger, weights, ("naive",))
    assert weights.bytes > held, "another algorithm packs for itself"
    expected = run(larger, {"x": image(larger)})["y"]
    np.testing.assert_allclose(made.run([image(larger)], 1)[0], expected, rtol=1e-4, atol=1e-5)


def test_layers_that_read_a_constant_in_different_ways():
    """The same array as the weight of one group, of two, and of a transposed convolution."""
    w = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32)
    same = (1, 1, 1, 1)
    nodes = [
        Node("one", Conv(pad=same), ("x", "w"), ("a",)),
        Node("turned", ConvTranspose(pad=same), ("a", "w"), ("b",)),
        Node("two", Conv(pad=same, groups=2), ("z", "w"), ("c",)),
    ]
    shapes = {"x": (1, 8, 5, 5), "z": (1, 16, 5, 5)}
    graph = Graph("shared", ["x", "z"], ["b", "c"], nodes, shapes, {"w": w}).infer()
    rng = np.random.default_rng(1)
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    expected = run(graph, inputs)
    for algorithms in ((), ("naive",)):
        results = program(graph, algorithms=algorithms).run(list(inputs.values()), 1)
        for name, result in zip(graph.outputs, results, strict=True):
            np.testing.assert_allclose(result, expected[name], rtol=1e-4, atol=1e-3)


def test_constants_that_operators_read_are_kept_once():
    value = np.arange(12, dtype=np.float32).reshape(3, 4)
    nodes = [Node("a", Binary("add"), ("x", "k"), ("y",)), Node("b", Binary("mul"), ("y", "k"), ("z",))]
    graph = Graph("constant", ["x"], ["z"], nodes, {"x": (3, 4)}, {"k": value}).infer()
    weights = PackedWeights(graph.constants, LOCAL)
    made = program(graph, weights)
    assert weights.bytes == value.nbytes
    assert weights.constant("k") is weights.constant("k")
    x = image(graph)
    np.testing.assert_array_equal(made.run([x], 1)[0], (x + value) * value)


def test_released_constants_are_packed_before_they_go():
    graph = network()
    expected = bytes_of(program(graph).run([image(graph)], 1))
    total = sum(a.nbytes for a in graph.constants.values())
    weights = PackedWeights(graph.constants, LOCAL, releases=True)
    made = program(graph, weights)
    assert weights.has_released
    assert bytes_of(made.run([image(graph)], 1)) == expected
    assert sum(a.size * a.itemsize for a in graph.constants.values()) == total, "shapes stay"
    assert all(a.strides == (0,) * a.ndim for n, a in graph.constants.items() if n.startswith("w"))
    larger = graph.with_shapes({"x": (4, 3, 20, 20)})
    assert weights.serves(plan(larger, LOCAL).steps)
    program(larger, weights).run([image(larger)], 1)
    step = next(s for s in made.plan.steps if s.name == "deep")
    assert not weights.serves([replace(step, algorithm="naive", config=None)]), "its constant is gone"


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_one_with_filters_turned_round(groups: int):
    rng = np.random.default_rng(groups)
    w = rng.integers(-3, 4, (4, 3, 2, 3)).astype(np.float32)
    op = ConvTranspose(stride=(2, 1), pad=(1, 0, 0, 1), output_pad=(1, 0), dilation=(1, 2), groups=groups)
    graph = Graph("up", ["x"], ["y"], [Node("up", op, ("x", "w"), ("y",))], {"x": (2, 4, 5, 4)}, {"w": w}).infer()
    (step,) = [s for s in plan(graph, LOCAL).steps if s.spec is not None]
    assert step.spec is not None
    x = rng.integers(-3, 4, (2, 4, 5, 4)).astype(np.float32)
    turned = convolution_weight(step, w)
    assert turned.shape == (step.spec.k, step.spec.group_c, 2, 3)
    np.testing.assert_array_equal(conv2d(x, turned, None, step.spec), run(graph, {"x": x})["y"])
