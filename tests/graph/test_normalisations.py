import pytest

from waterline.graph.ops import Reduce, Transpose
from waterline.graph.passes import recognise_layer_norm, simplify

from .building import Builder, check_same, op_names


def mean(b, x, axes):
    return b.add(Reduce("mean", axes), x)


def square_by(kind, b, x):
    if kind == "pow":
        return b.binary("pow", x, 2.0)
    return b.binary("mul", x, x) if kind == "mul" else b.unary("square", x)


def quotient(kind, b, difference, total):
    match kind:
        case "div":
            return b.binary("div", difference, b.unary("sqrt", total))
        case "pow":
            return b.binary("div", difference, b.binary("pow", total, 0.5))
        case "reciprocal":
            return b.binary("mul", b.unary("reciprocal", b.unary("sqrt", total)), difference)
        case "one_over":
            return b.binary("mul", difference, b.binary("div", 1.0, b.unary("sqrt", total)))
        case "power":
            return b.binary("mul", difference, b.binary("pow", total, -0.5))


def standardise(b, x, axes, square="pow", division="div", is_twice=False):
    difference = b.binary("sub", x, mean(b, x, axes))
    again = b.binary("sub", x, mean(b, x, axes)) if is_twice else difference
    variance = mean(b, square_by(square, b, again), axes)
    return quotient(division, b, difference, b.binary("add", variance, 1e-5))


@pytest.mark.parametrize("square", ["pow", "mul", "square"])
@pytest.mark.parametrize("division", ["div", "pow", "reciprocal", "one_over", "power"])
@pytest.mark.parametrize("is_twice", [False, True])
def test_last_axis(square, division, is_twice):
    b = Builder()
    x = b.unary("exp", b.input(2, 5, 6))
    y = standardise(b, x, (2,), square, division, is_twice)
    graph = b.finish(b.binary("add", b.binary("mul", y, b.random_constant(6)), b.random_constant(6)))
    result = recognise_layer_norm(graph)
    assert op_names(result) == ["exp", "LayerNorm", "mul", "add"]
    check_same(graph, result, 1e-12)
    result = simplify(graph)
    assert op_names(result) == ["exp", "LayerNorm"]
    assert result.nodes[1].op.bias
    check_same(graph, result, 1e-6)


def test_channels_of_an_image():
    b = Builder()
    x = b.conv(b.input(2, 3, 4, 5), 6)
    y = standardise(b, x, (1,))
    y = b.binary("add", b.binary("mul", b.random_constant(6, 1, 1), y), b.random_constant(1, 6, 1, 1))
    graph = b.finish(b.conv(y, 4, 1))
    result = simplify(graph)
    assert op_names(result) == ["Conv", "Transpose", "LayerNorm", "Transpose", "Conv"]
    check_same(graph, result, 1e-6)


@pytest.mark.parametrize(("axes", "groups"), [((1, 2, 3), 1), ((2, 3), 6)])
def test_groups_of_an_image(axes, groups):
    b = Builder()
    y = standardise(b, b.input(2, 6, 4, 5), axes)
    y = b.binary("add", b.binary("mul", y, b.random_constant(6, 1, 1)), b.random_constant(6, 1, 1))
    graph = b.finish(y)
    result = simplify(graph)
    assert op_names(result) == ["GroupNorm"]
    assert result.nodes[0].op.groups == groups
    check_same(graph, result, 1e-6)
    larger = {"x0": (3, 6, 7, 7)}
    check_same(graph.with_shapes(larger), result.with_shapes(larger), 1e-6)


@pytest.mark.parametrize("axes", [(1,), (0,), (1, 2)])
def test_other_axes_stay(axes):
    b = Builder()
    graph = b.finish(standardise(b, b.input(2, 5, 6), axes))
    assert recognise_layer_norm(graph) is graph


def test_different_axes_stay():
    b = Builder()
    x = b.input(2, 5, 6)
    difference = b.binary("sub", x, mean(b, x, (2,)))
    variance = mean(b, b.unary("square", difference), (1,))
    graph = b.finish(b.binary("div", difference, b.unary("sqrt", b.binary("add", variance, 1e-5))))
    assert recognise_layer_norm(graph) is graph


def test_the_mean_of_another_tensor_stays():
    b = Builder()
    x, z = b.input(2, 6), b.input(2, 6)
    difference = b.binary("sub", x, mean(b, z, (1,)))
    variance = mean(b, b.unary("square", difference), (1,))
    graph = b.finish(b.binary("div", difference, b.unary("sqrt", b.binary("add", variance, 1e-5))))
    assert recognise_layer_norm(graph) is graph


@pytest.mark.parametrize("visible", range(5))
def test_what_is_read_elsewhere_stays(visible):
    b = Builder()
    y = standardise(b, b.input(2, 6), (1,))
    graph = b.finish(y, f"t{visible}")
    assert recognise_layer_norm(graph) is graph


def test_between_transposes():
    b = Builder()
    x = b.add(Transpose((0, 2, 3, 1)), b.input(1, 6, 4, 5))
    y = b.binary("mul", standardise(b, x, (3,)), b.random_constant(6))
    graph = b.finish(b.add(Transpose((0, 3, 1, 2)), y))
    result = simplify(graph)
    assert op_names(result) == ["Transpose", "LayerNorm", "Transpose"]
    check_same(graph, result, 1e-6)
