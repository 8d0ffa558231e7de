from dataclasses import replace

import numpy as np
import pytest

from waterline.graph.ops import BatchNorm, Conv, GroupNorm, LayerNorm, MatMul, Pool
from waterline.graph.passes import fold_batchnorm, fold_scales, recognise_linear
from waterline.spec import Activation, Epilogue

from .building import Builder, check_same, op_names

ROUNDING = 1e-6  # new constants are float32


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_batchnorm_goes_into_a_convolution(bias, groups):
    b = Builder()
    y = b.conv(b.input(2, 6, 5, 5), 12, bias=bias, groups=groups, pad=(1, 1, 1, 1))
    graph = b.finish(b.batch_norm(y))
    result = fold_batchnorm(graph)
    assert op_names(result) == ["Conv"]
    assert result.nodes[0].op.epilogue == Epilogue(bias=True)
    assert result.nodes[0].op.pad == (1, 1, 1, 1)
    check_same(graph, result, ROUNDING)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_batchnorm_goes_into_a_transposed_convolution(bias, groups):
    b = Builder()
    graph = b.finish(b.batch_norm(b.conv_transpose(b.input(2, 4, 3, 3), 6, bias=bias, groups=groups, stride=(2, 2))))
    result = fold_batchnorm(graph)
    assert op_names(result) == ["ConvTranspose"]
    check_same(graph, result, ROUNDING)


def test_batchnorm_goes_into_a_linear_layer():
    b = Builder()
    graph = b.finish(b.batch_norm(b.linear(b.input(4, 5), 6)))
    result = fold_batchnorm(graph)
    assert op_names(result) == ["Linear"]
    check_same(graph, result, ROUNDING)


def test_batchnorm_over_rows_of_a_linear_layer_does_not():
    """(N, L, K) normalised over L, where the layer's weights belong to K."""
    b = Builder()
    graph = b.finish(b.batch_norm(b.linear(b.input(2, 6, 5), 6)))
    result = fold_batchnorm(graph)
    assert op_names(result) == ["Linear", "mul", "add"]
    check_same(graph, result, ROUNDING)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 4, 3)])
def test_batchnorm_alone_becomes_scale_and_shift(shape):
    b = Builder()
    graph = b.finish(b.batch_norm(b.input(*shape)))
    result = fold_batchnorm(graph)
    assert op_names(result) == ["mul", "add"]
    assert result.nodes[1].outputs == graph.nodes[0].outputs
    check_same(graph, result, ROUNDING)


def test_batchnorm_before_a_convolution_stays_in_front():
    b = Builder()
    y = b.unary("relu", b.batch_norm(b.add(Pool("max", (2, 2)), b.input(1, 4, 6, 6))))
    graph = b.finish(b.conv(y, 8))
    result = fold_batchnorm(graph)
    assert op_names(result) == ["Pool", "mul", "add", "relu", "Conv"]
    check_same(graph, result, ROUNDING)


def test_batchnorm_of_computed_parameters_stays():
    b = Builder()
    y = b.batch_norm(b.input(2, 6))
    graph = b.finish(y)
    computed = Builder()
    x, scale = computed.input(2, 6), computed.input(6)
    names = [computed.constant(np.ones(6)) for _ in range(3)]
    graph = computed.finish(computed.add(graph.nodes[0].op, x, scale, *names))
    assert fold_batchnorm(graph) is graph


@pytest.mark.parametrize("place", ["output", "second reader"])
def test_nothing_is_folded_over_a_tensor_that_others_see(place):
    b = Builder()
    y = b.conv(b.input(1, 3, 5, 5), 4)
    z = b.batch_norm(y)
    other = y if place == "output" else b.unary("relu", y)
    graph = b.finish(z, other)
    result = fold_scales(fold_batchnorm(graph))
    assert "mul" in op_names(result)
    check_same(graph, result, ROUNDING)


def test_a_layer_with_an_epilogue_is_not_scaled():
    for epilogue in (Epilogue(after=Activation("relu")), Epilogue(before=Activation("tanh")), Epilogue(residual=True)):
        b = Builder()
        x = b.input(1, 4, 5, 5)
        y = b.conv(x, 4, 1)
        node = b.graph.nodes[0]
        inputs = (*node.inputs, x) if epilogue.residual else node.inputs
        b.graph.nodes[0] = replace(node, op=replace(node.op, epilogue=epilogue), inputs=inputs)
        graph = b.finish(b.binary("mul", y, 2.0), b.graph.inputs[0])
        assert fold_scales(graph) is graph


def test_bad_statistics_keep_their_nan():
    b = Builder()
    y = b.conv(b.input(1, 3, 5, 5), 2)
    names = [b.constant(v) for v in ([1, 1], [0, 0], [0, 0], [-1, 1])]
    graph = b.finish(b.add(BatchNorm(1e-5), y, *names))
    check_same(graph, fold_batchnorm(graph), ROUNDING)


def test_folding_rounds_once():
    """float32(w * factor) with the product and the factor in float64, not a product of two rounded numbers."""
    b = Builder()
    graph = b.finish(b.batch_norm(b.conv(b.input(1, 3, 5, 5), 4)))
    conv, norm = graph.nodes
    scale, _, _, variance = (graph.constants[name].astype(np.float64) for name in norm.inputs[1:])
    factor = scale / np.sqrt(variance + 1e-5)
    expected = (graph.constants[conv.inputs[1]].astype(np.float64) * factor[:, None, None, None]).astype(np.float32)
    result = fold_batchnorm(graph)
    np.testing.assert_array_equal(result.constants[result.nodes[0].inputs[1]], expected)


def test_the_given_constants_are_not_touched():
    b = Builder()
    graph = b.finish(b.binary("mul", b.batch_norm(b.conv(b.input(1, 3, 5, 5), 4)), 3.0))
    before = {name: value.copy() for name, value in graph.constants.items()}
    fold_scales(fold_batchnorm(graph))
    assert all((graph.constants[name] == value).all() for name, value in before.items())


def test_shared_weights_are_scaled_apart():
    b = Builder()
    x = b.input(1, 3, 6, 6)
    first = b.conv(x, 4)
    weight = b.graph.nodes[0].inputs[1]
    second = b.add(b.graph.nodes[0].op, b.unary("relu", x), weight)
    graph = b.finish(b.batch_norm(first), b.batch_norm(second), b.add(b.graph.nodes[0].op, b.unary("neg", x), weight))
    result = fold_batchnorm(graph)
    assert "BatchNorm" not in op_names(result)
    check_same(graph, result, ROUNDING)


# ---- scales ---------------------------------------------------------------------------------------------------------
LAYERS = {
    "conv": (lambda b: b.conv(b.input(2, 3, 5, 5), 6, bias=True), (6, 1, 1)),
    "bare conv": (lambda b: b.conv(b.input(2, 3, 5, 5), 6), (1, 6, 1, 1)),
    "conv transpose": (lambda b: b.conv_transpose(b.input(2, 4, 5, 5), 6, groups=2), (6, 1, 1)),
    "linear": (lambda b: b.linear(b.input(2, 7, 3), 6), (6,)),
    "linear with bias": (lambda b: b.linear(b.input(2, 3), 6, bias=True), (1, 6)),
    "layer norm": (lambda b: b.add(LayerNorm(2, bias=False), b.input(2, 3, 6), b.random_constant(6)), (6,)),
    "group norm": (
        lambda b: b.add(GroupNorm(2), b.input(2, 6, 4, 4), b.random_constant(6), b.random_constant(6)),
        (6, 1, 1),
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("is_scalar", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_scale(layer, kind, is_scalar, is_first):
    make, shape = LAYERS[layer]
    b = Builder()
    y = make(b)
    value = b.random_constant(*(() if is_scalar else shape))
    graph = b.finish(b.binary(kind, value, y) if is_first else b.binary(kind, y, value))
    result = fold_scales(graph)
    assert (len(result.nodes) == 1) == (not (kind == "div" and is_first))
    check_same(graph, result, ROUNDING)


def test_a_chain_of_scales_is_folded_at_once():
    b = Builder()
    y = b.conv(b.input(1, 3, 5, 5), 4)
    for kind in ("mul", "add", "div", "sub", "mul"):
        y = b.binary(kind, y, b.random_constant(4, 1, 1))
    graph = b.finish(y)
    result = fold_scales(graph)
    assert op_names(result) == ["Conv"]
    check_same(graph, result, ROUNDING)


@pytest.mark.parametrize("shape", [(5,), (5, 5), (2, 1, 1, 1), (2, 4, 1, 1), (1, 1, 4, 1, 1)])
def test_other_constants_stay(shape):
    b = Builder()
    graph = b.finish(b.binary("mul", b.conv(b.input(2, 3, 7, 7), 4), b.random_constant(*shape)))
    assert fold_scales(graph) is graph


def test_division_by_zero_stays():
    b = Builder()
    graph = b.finish(b.binary("div", b.conv(b.input(1, 3, 5, 5), 2), b.constant([[[0.0]], [[1.0]]])))
    assert fold_scales(graph) is graph


@pytest.mark.parametrize("kind", ["max", "min", "pow"])
def test_other_kinds_stay(kind):
    b = Builder()
    graph = b.finish(b.binary(kind, b.conv(b.input(1, 3, 5, 5), 2), 2.0))
    assert fold_scales(graph) is graph


def test_computed_weights_stay():
    b = Builder()
    y = b.add(Conv(), b.input(1, 3, 5, 5), b.input(4, 3, 3, 3))
    graph = b.finish(b.binary("mul", y, 2.0))
    assert fold_scales(graph) is graph


# ---- linear layers --------------------------------------------------------------------------------------------------
def test_product_with_a_constant_matrix_is_a_linear_layer():
    b = Builder()
    y = b.add(MatMul(), b.input(2, 3, 5), b.random_constant(5, 7))
    graph = b.finish(b.binary("add", b.random_constant(7), y))
    result = recognise_linear(graph)
    assert op_names(result) == ["Linear", "add"]
    check_same(graph, result)
    result = fold_scales(result)
    assert op_names(result) == ["Linear"]
    assert result.constants[result.nodes[0].inputs[1]].flags.c_contiguous
    check_same(graph, result, ROUNDING)


def test_other_products_stay():
    b = Builder()
    x, y = b.input(2, 3, 5), b.input(5, 4)
    constant_left = b.add(MatMul(), b.random_constant(4, 5), y)
    stack = b.add(MatMul(), x, b.random_constant(2, 5, 4))
    graph = b.finish(b.add(MatMul(), x, y), constant_left, stack)
    assert recognise_linear(graph) is graph
