import itertools

import pytest

from waterline.graph.ops import LayerNorm, Transpose
from waterline.graph.passes import drop_identities, simplify, sink_transposes

from .building import Builder, check_same, op_names

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def settle(graph):
    """To the fixed point, as `simplify` does."""
    while (result := drop_identities(sink_transposes(graph))) is not graph:
        graph = result
    return graph


@pytest.mark.parametrize("perms", list(itertools.product([LAST, FIRST, (3, 2, 1, 0), (1, 0, 2, 3)], repeat=2)))
def test_two_transposes_are_one(perms):
    b = Builder()
    y = b.unary("exp", b.input(2, 3, 4, 5))
    for perm in perms:
        y = b.add(Transpose(perm), y)
    graph = b.finish(b.add(Transpose((0, 1, 2, 3)), y))
    result = settle(graph)
    assert len(result.nodes) <= 2
    check_same(graph, result)


def test_a_transpose_that_others_read_stays_for_them():
    b = Builder()
    y = b.add(Transpose(LAST), b.input(1, 2, 3, 4))
    graph = b.finish(
        b.unary("exp", b.add(Transpose(FIRST), y)), b.add(LayerNorm(3, bias=False), y, b.random_constant(2))
    )
    result = settle(graph)
    assert sorted(op_names(result)) == ["LayerNorm", "Transpose", "exp"]
    check_same(graph, result)


def test_past_an_activation():
    b = Builder()
    y = b.unary("tanh", b.add(Transpose(FIRST), b.linear(b.input(1, 3, 4, 5), 6)))
    graph = b.finish(y)
    result = simplify(graph)
    assert op_names(result) == ["Linear", "Transpose"]
    assert result.nodes[0].op.epilogue.after is not None
    check_same(graph, result)


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1, 1, 5), (), (1, 1, 1, 1), (1, 6, 4, 5)])
@pytest.mark.parametrize("kind", ["mul", "sub", "div", "max"])
@pytest.mark.parametrize("is_first", [True, False])
def test_past_a_constant(shape, kind, is_first):
    b = Builder()
    y = b.add(Transpose(FIRST), b.unary("exp", b.input(2, 4, 5, 6)))
    value = b.random_constant(*shape)
    graph = b.finish(b.binary(kind, value, y) if is_first else b.binary(kind, y, value))
    result = settle(graph)
    assert op_names(result) == ["exp", kind, "Transpose"]
    check_same(graph, result)


def test_a_constant_of_higher_rank_stops_it():
    b = Builder()
    y = b.add(Transpose(FIRST), b.input(2, 4, 5, 6))
    graph = b.finish(b.binary("mul", y, b.random_constant(3, 1, 1, 1, 1)))
    assert sink_transposes(graph) is graph


def test_past_the_sum_of_two_transposes():
    b = Builder()
    y, z = (b.add(Transpose(FIRST), b.unary("exp", b.input(2, 4, 5, 6))) for _ in range(2))
    graph = b.finish(b.binary("mul", y, z))
    result = settle(graph)
    assert op_names(result) == ["exp", "exp", "mul", "Transpose"]
    check_same(graph, result)


def test_broadcasting_between_transposes():
    b = Builder()
    y = b.add(Transpose(FIRST), b.unary("exp", b.input(2, 4, 5, 6)))
    z = b.add(Transpose(FIRST), b.unary("exp", b.input(2, 1, 1, 6)))
    graph = b.finish(b.binary("mul", y, z))
    result = settle(graph)
    assert op_names(result)[-1] == "Transpose"
    check_same(graph, result)


def test_different_transposes_stop():
    b = Builder()
    y = b.add(Transpose(FIRST), b.unary("exp", b.input(2, 5, 5, 5)))
    z = b.add(Transpose(LAST), b.unary("exp", b.input(2, 5, 5, 5)))
    graph = b.finish(b.binary("mul", y, z))
    assert sink_transposes(graph) is graph


def test_visible_transposes_stop():
    b = Builder()
    y = b.add(Transpose(FIRST), b.input(2, 4, 5, 6))
    graph = b.finish(b.unary("exp", y), y)
    assert sink_transposes(graph) is graph


def test_the_sum_goes_into_the_linear_layer():
    b = Builder()
    x = b.input(1, 6, 4, 5)
    y = b.linear(b.add(Transpose(LAST), b.unary("exp", x)), 6)
    graph = b.finish(b.binary("add", x, b.add(Transpose(FIRST), y)))
    result = simplify(graph)
    assert op_names(result) == ["exp", "Transpose", "Transpose", "Linear", "Transpose"]
    assert result.nodes[3].op.epilogue.residual
    check_same(graph, result)


def test_the_sum_stays_with_a_convolution():
    b = Builder()
    x = b.input(1, 6, 4, 5)
    y = b.linear(b.add(Transpose(LAST), x), 6)
    graph = b.finish(b.binary("add", b.conv(x, 6, 1), b.add(Transpose(FIRST), y)))
    result = simplify(graph)
    assert op_names(result) == ["Transpose", "Linear", "Transpose", "Conv"]
    assert result.nodes[3].op.epilogue.residual
    check_same(graph, result)


@pytest.mark.parametrize("seed", range(3))
def test_no_ping_pong(seed):
    """Sums of tensors in both layouts: whatever happens, it ends."""
    b = Builder(seed)
    tensors = [b.input(1, 4, 4, 4)]
    for _ in range(25):
        pick = tensors[b.random.integers(len(tensors))], tensors[b.random.integers(len(tensors))]
        choice = b.random.integers(4)
        if choice == 0:
            tensors.append(b.add(Transpose(FIRST if b.random.random() < 0.5 else LAST), pick[0]))
        elif choice == 1:
            tensors.append(b.linear(pick[0], 4))
        elif choice == 2:
            tensors.append(b.unary("tanh", pick[0]))
        else:
            tensors.append(b.binary("add", *pick))
    graph = b.finish(tensors[-1], tensors[-2])
    result = simplify(graph)
    assert simplify(result) is result
    check_same(graph, result)
