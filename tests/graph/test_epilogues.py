import pytest

from waterline.graph.ops import Expand, Pool
from waterline.graph.passes import fuse_activation, fuse_residual, simplify
from waterline.spec import Activation, Epilogue

from .building import Builder, check_same, op_names

RELU, TANH = Activation("relu"), Activation("tanh")


def layer(b, x, kind="conv"):
    return b.conv(x, 4, bias=True, pad=(1, 1, 1, 1)) if kind == "conv" else b.linear(x, 4, bias=True)


SHAPES = {"conv": (1, 4, 5, 5), "linear": (2, 3, 4)}
KINDS = list(SHAPES)


@pytest.mark.parametrize("kind", KINDS)
def test_activation(kind):
    b = Builder()
    graph = b.finish(b.unary("relu", layer(b, b.input(*SHAPES[kind]), kind)))
    result = fuse_activation(graph)
    (node,) = result.nodes
    assert node.op.epilogue == Epilogue(bias=True, after=RELU)
    assert node.name == graph.nodes[0].name
    assert node.outputs == graph.nodes[1].outputs
    check_same(graph, result)


def test_two_activations():
    b = Builder()
    graph = b.finish(b.unary("square", b.unary("tanh", b.unary("relu", layer(b, b.input(1, 4, 5, 5))))))
    result = fuse_activation(graph)
    assert op_names(result) == ["Conv", "square"]
    assert result.nodes[0].op.epilogue == Epilogue(bias=True, before=RELU, after=TANH)
    check_same(graph, result)


def test_activation_of_a_sum():
    b = Builder()
    graph = b.finish(b.unary("tanh", b.unary("relu", b.binary("add", b.input(2, 3), b.input(2, 3)))))
    result = fuse_activation(graph)
    assert op_names(result) == ["add", "tanh"]
    assert result.nodes[0].op.after == RELU
    check_same(graph, result)


@pytest.mark.parametrize("reader", ["output", "node"])
def test_what_others_see_is_not_fused(reader):
    b = Builder()
    x = b.input(1, 4, 5, 5)
    y = layer(b, x)
    z = b.unary("relu", y)
    total = b.binary("add", y, x)
    graph = b.finish(z, y if reader == "output" else b.unary("neg", y), total)
    assert fuse_residual(graph) is graph
    assert "relu" in op_names(fuse_activation(graph))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_first", [True, False])
def test_residual(kind, is_first):
    b = Builder()
    x = b.input(*SHAPES[kind])
    y = layer(b, x, kind)
    graph = b.finish(b.unary("relu", b.binary("add", y, x) if is_first else b.binary("add", x, y)))
    result = fuse_activation(fuse_residual(graph))
    (node,) = result.nodes
    assert node.op.epilogue == Epilogue(bias=True, residual=True, after=RELU)
    assert node.inputs[-1] == x
    check_same(graph, result)
    result = fuse_residual(fuse_activation(graph))  # the sum's own activation goes along
    assert result.nodes[0].op.epilogue == Epilogue(bias=True, residual=True, after=RELU)
    check_same(graph, result)


def test_activation_before_the_residual():
    b = Builder()
    x = b.input(1, 4, 5, 5)
    graph = b.finish(b.unary("tanh", b.binary("add", b.unary("relu", layer(b, x)), x)))
    result = simplify(graph)
    assert [node.op.epilogue for node in result.nodes] == [Epilogue(True, RELU, True, TANH)]
    check_same(graph, result)


def test_two_activations_leave_no_room_for_a_residual():
    b = Builder()
    x = b.input(1, 4, 5, 5)
    graph = b.finish(b.binary("add", b.unary("tanh", b.unary("relu", layer(b, x))), x))
    result = simplify(graph)
    assert op_names(result) == ["Conv", "add"]
    check_same(graph, result)


def test_one_residual_only():
    b = Builder()
    x, z = b.input(1, 4, 5, 5), b.input(1, 4, 5, 5)
    graph = b.finish(b.binary("add", b.binary("add", layer(b, x), x), z))
    result = simplify(graph)
    assert op_names(result) == ["Conv", "add"]
    check_same(graph, result)


def test_a_residual_that_is_computed_later():
    """The convolution comes first in the file; fused, it waits for the other branch."""
    b = Builder()
    x = b.input(1, 4, 6, 6)
    y = layer(b, x)
    pooled = b.add(Pool("max", (3, 3), (1, 1), (1, 1, 1, 1)), x)
    graph = b.finish(b.binary("add", y, pooled))
    result = fuse_residual(graph)
    assert op_names(result) == ["Pool", "Conv"]
    check_same(graph, result)


@pytest.mark.parametrize("is_projection_first", [True, False])
@pytest.mark.parametrize("is_swapped", [True, False])
def test_the_longer_branch_takes_the_sum(is_projection_first, is_swapped):
    b = Builder()
    x = b.input(1, 4, 5, 5)
    projection = b.conv(x, 4, 1) if is_projection_first else ""
    main = layer(b, b.unary("relu", layer(b, x)))
    projection = projection or b.conv(x, 4, 1)
    graph = b.finish(b.binary("add", *((projection, main) if is_swapped else (main, projection))))
    result = simplify(graph)
    assert len(result.nodes) == 3
    last = result.nodes[-1]
    assert last.op.epilogue.residual
    assert last.inputs[-1] == projection
    check_same(graph, result)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 5, 5)])
def test_constants_are_no_residuals(shape):
    b = Builder()
    graph = b.finish(b.binary("add", layer(b, b.input(1, 4, 5, 5)), b.random_constant(*shape)))
    assert fuse_residual(graph) is graph


def test_broadcast_sums_are_no_residuals():
    b = Builder()
    x = b.input(1, 4, 5, 5)
    graph = b.finish(b.binary("add", layer(b, x), b.input(1, 4, 1, 1)))
    assert fuse_residual(graph) is graph
    b = Builder()
    y = b.conv(b.input(1, 4, 1, 1), 4, 1)
    graph = b.finish(b.binary("add", y, b.add(Expand((1, 4, 5, 5)), b.input(1, 4, 1, 1))))
    assert fuse_residual(graph) is graph


def test_the_same_tensor_twice_is_no_residual():
    b = Builder()
    y = layer(b, b.input(1, 4, 5, 5))
    graph = b.finish(b.binary("add", y, y))
    assert fuse_residual(graph) is graph


@pytest.mark.parametrize("kind", ["sub", "mul", "max"])
def test_only_sums_are_residuals(kind):
    b = Builder()
    x = b.input(1, 4, 5, 5)
    graph = b.finish(b.binary(kind, layer(b, x), x))
    assert fuse_residual(graph) is graph
