import math

import numpy as np
import pytest

from waterline.graph.ops import MatMul
from waterline.graph.passes import recognise_activations, simplify

from .building import Builder, check_same, op_names

ROOT2, C = math.sqrt(2), math.sqrt(2 / math.pi)


def phi(b, x):
    return b.binary("add", b.unary("erf", b.binary("div", x, ROOT2)), 1.0)


def tanh_argument(b, x):
    cube = b.binary("pow", x, 3.0)
    return b.binary("mul", b.binary("add", x, b.binary("mul", cube, 0.044715)), C)


def tanh_argument_by_products(b, x):
    """sqrt(2/pi) x (1 + 0.044715 x x), as some exporters write it."""
    inner = b.binary("add", 1.0, b.binary("mul", b.binary("mul", 0.044715, x), x))
    return b.binary("mul", b.binary("mul", x, C), inner)


SPELLINGS = {
    "silu": [
        ("silu", lambda b, x: b.binary("mul", x, b.unary("sigmoid", x))),
        ("silu", lambda b, x: b.binary("mul", b.unary("sigmoid", x), x)),
    ],
    "hard_swish": [
        ("hard_swish", lambda b, x: b.binary("mul", x, b.unary("hard_sigmoid", x, 1 / 6, 0.5))),
        ("hard_swish", lambda b, x: b.binary("div", b.binary("mul", x, clip6(b, x)), 6.0)),
        ("hard_swish", lambda b, x: b.binary("mul", x, b.binary("div", clip6(b, x), 6.0))),
        ("hard_swish", lambda b, x: b.binary("mul", b.binary("mul", clip6(b, x), 1 / 6), x)),
        ("hard_swish", lambda b, x: b.binary("mul", b.binary("div", x, 6.0), minmax6(b, x))),
        ("hard_swish", lambda b, x: b.binary("mul", x, b.unary("clip", affine(b, x), 0.0, 1.0))),
    ],
    "hard_sigmoid": [
        ("hard_sigmoid", lambda b, x: b.binary("div", clip6(b, x), 6.0)),
        ("hard_sigmoid", lambda b, x: b.binary("mul", 1 / 6, clip6(b, x))),
    ],
    "gelu": [
        ("gelu", lambda b, x: b.binary("mul", b.binary("mul", x, 0.5), phi(b, x))),
        ("gelu", lambda b, x: b.binary("mul", b.binary("mul", x, phi(b, x)), 0.5)),
        ("gelu", lambda b, x: b.binary("mul", x, b.binary("mul", 0.5, phi(b, x)))),
        ("gelu", lambda b, x: b.binary("div", b.binary("mul", phi(b, x), x), 2.0)),
        ("gelu", lambda b, x: b.binary("mul", x, b.binary("add", b.binary("mul", erf(b, x), 0.5), 0.5))),
        ("gelu", lambda b, x: b.binary("add", half(b, x), b.binary("mul", half(b, x), erf(b, x)))),
    ],
    "gelu_tanh": [
        ("gelu_tanh", lambda b, x: gelu_tanh(b, x, tanh_argument)),
        ("gelu_tanh", lambda b, x: gelu_tanh(b, x, tanh_argument_by_products)),
        (
            "gelu_tanh",
            lambda b, x: b.binary("mul", x, b.unary("sigmoid", b.binary("mul", 2.0, tanh_argument(b, x)))),
        ),
    ],
    "mish": [("mish", lambda b, x: b.binary("mul", x, b.unary("tanh", b.unary("softplus", x))))],
}


def clip6(b, x):
    return b.unary("clip", b.binary("add", x, 3.0), 0.0, 6.0)


def minmax6(b, x):
    return b.binary("min", b.binary("max", b.binary("add", 3.0, x), 0.0), 6.0)


def affine(b, x):
    return b.binary("add", b.binary("div", x, 6.0), 0.5)


def erf(b, x):
    return b.unary("erf", b.binary("mul", x, 1 / ROOT2))


def half(b, x):
    return b.binary("mul", 0.5, x)


def gelu_tanh(b, x, argument):
    return b.binary("mul", half(b, x), b.binary("add", 1.0, b.unary("tanh", argument(b, x))))


@pytest.mark.parametrize(("kind", "spelling"), [pair for pairs in SPELLINGS.values() for pair in pairs])
def test_decomposed_activation(kind, spelling):
    b = Builder()
    x = b.unary("square", b.input(2, 3, 4))
    graph = b.finish(b.unary("neg", spelling(b, x)))
    result = graph
    for _ in range(3):
        result = recognise_activations(result)
    assert op_names(result) == ["square", kind, "neg"]
    check_same(graph, result, 1e-6)


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "mish", "hard_swish"])
def test_the_variable_may_be_a_scaled_tensor(kind):
    """x = 2 y + 1: the search must stop at x, although the nodes above are elementary too."""
    b = Builder()
    x = b.binary("add", b.binary("mul", b.input(2, 3), 2.0), 1.0)
    graph = b.finish(SPELLINGS[kind][0][1](b, x))
    result = recognise_activations(graph)
    assert op_names(result) == ["mul", "add", kind]
    check_same(graph, result, 1e-6)


def test_the_variable_may_be_a_graph_input():
    b = Builder()
    x = b.input(5)
    graph = b.finish(b.binary("mul", x, b.unary("sigmoid", x)))
    assert op_names(recognise_activations(graph)) == ["silu"]


@pytest.mark.parametrize("visible", [1, 2, 3])
def test_what_is_read_elsewhere_stays(visible):
    b = Builder()
    x = b.input(2, 3)
    graph = b.finish(b.binary("mul", half(b, x), phi(b, x)), f"t{visible}")
    assert recognise_activations(graph) is graph


def test_other_numbers_stay():
    b = Builder()
    x = b.input(2, 3)
    quick = b.binary("mul", x, b.unary("sigmoid", b.binary("mul", x, 1.702)))
    nearly = b.binary("mul", half(b, x), b.binary("add", b.unary("erf", b.binary("mul", x, 0.7)), 1.0))
    graph = b.finish(quick, nearly)
    assert recognise_activations(graph) is graph


@pytest.mark.parametrize("other", ["two functions", "power", "quotient", "degree"])
def test_what_is_no_formula_stays(other):
    b = Builder()
    x = b.input(2, 3)
    t = b.unary("sigmoid", x)
    match other:
        case "two functions":
            y = b.binary("mul", b.binary("mul", b.unary("tanh", x), t), x)
        case "power":
            y = b.binary("mul", b.binary("pow", x, 0.5), t)
        case "quotient":
            y = b.binary("div", t, x)
        case "degree":
            y = b.binary("mul", b.binary("pow", x, 3.0), b.binary("mul", t, b.binary("mul", x, x)))
    graph = b.finish(y)
    assert recognise_activations(graph) is graph


def test_minus_and_square_are_part_of_formulas():
    """gelu_tanh with x * square(x), and silu as -x * -sigmoid(x)."""
    b = Builder()
    x = b.input(2, 3)
    cube = b.binary("mul", x, b.unary("square", x))
    argument = b.binary("mul", b.binary("add", x, b.binary("mul", cube, 0.044715)), C)
    first = b.binary("mul", half(b, x), b.binary("add", 1.0, b.unary("tanh", argument)))
    second = b.binary("mul", b.unary("neg", x), b.unary("neg", b.unary("sigmoid", x)))
    graph = b.finish(first, second)
    result = recognise_activations(graph)
    assert op_names(result) == ["gelu_tanh", "silu"]
    check_same(graph, result, 1e-6)


def test_two_variables_stay():
    b = Builder()
    x, y = b.input(2, 3), b.input(2, 3)
    graph = b.finish(b.binary("mul", x, b.unary("sigmoid", y)))
    assert recognise_activations(graph) is graph


def test_squeeze_and_excitation_stays():
    """The gate has another shape than what it multiplies, even if it comes from the same tensor."""
    b = Builder()
    x = b.input(1, 3, 1, 1)
    graph = b.finish(b.binary("mul", x, b.unary("sigmoid", b.binary("mul", x, b.constant(np.ones((1, 3, 4, 4)))))))
    assert recognise_activations(graph) is graph


def test_long_chains_of_sums_are_left_in_peace():
    b = Builder()
    x = b.input(2)
    for _ in range(60):
        x = b.binary("add", x, x)
    graph = b.finish(b.binary("mul", x, b.unary("tanh", x)))
    assert recognise_activations(graph) is graph


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([("max", 0.0)], "relu"),
        ([("max", 0.0), ("min", 6.0)], "clip(0,6)"),
        ([("min", 6.0), ("max", 0.0)], "clip(0,6)"),
        ([("max", -1.0), ("max", 2.0), ("min", 1.0)], "clip(1,1)"),
    ],
)
def test_clip_from_pieces(limits, expected):
    b = Builder()
    x = y = b.input(2, 3)
    for kind, limit in limits:
        y = b.binary(kind, y, limit)
    graph = b.finish(y)
    result = recognise_activations(graph)
    assert [str(node.op.function) for node in result.nodes] == [expected]
    assert result.nodes[0].inputs == (x,)
    check_same(graph, result)


def test_relu_after_clip_is_one_clip():
    b = Builder()
    graph = b.finish(b.unary("relu", b.unary("clip", b.input(2, 3), -1.0, 0.5)))
    result = recognise_activations(graph)
    assert [str(node.op.function) for node in result.nodes] == ["clip(0,0.5)"]
    check_same(graph, result)


def test_max_with_a_wider_constant_stays():
    b = Builder()
    graph = b.finish(b.binary("max", b.input(3), b.constant([[0.0]])))
    assert recognise_activations(graph) is graph


def test_layers_in_between_are_not_swallowed():
    b = Builder()
    x = b.input(2, 3)
    y = b.add(MatMul(), x, b.constant(np.eye(3)))
    graph = b.finish(b.binary("mul", y, b.unary("sigmoid", y)))
    assert op_names(simplify(graph)) == ["Linear"]
    check_same(graph, simplify(graph), 1e-6)
