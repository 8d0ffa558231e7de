import numpy as np
import pytest

from waterline.graph.ops import END, Concat, Expand, Pad, Pool, Reshape, Resize, Slice, Transpose
from waterline.graph.passes import drop_dead_nodes, drop_identities, fold_constants
from waterline.reference import evaluate

from .building import Builder, check_same, op_names

IDENTITIES = {
    "reshape": Reshape((0, 8, -1, 5)),
    "transpose": Transpose((0, 1, 2, 3)),
    "pad": Pad((0,) * 4, (0,) * 4, "reflect"),
    "slice": Slice((2, 0), (0, 0), (END, END), (1, 1)),
    "channels": Slice((1,), (0,), (8,), (1,)),
    "concat": Concat(1),
    "expand": Expand((1, 5)),
    "pool": Pool("average", (1, 1)),
    "resize": Resize("linear", scale=(1.0, 1.0)),
}
OTHERS = {
    "rows": Slice((2,), (0,), (4,), (1,)),  # cuts a larger image
    "batch": Slice((0,), (0,), (2,), (1,)),
    "tail": Slice((2,), (1,), (END,), (1,)),
    "reversed": Slice((2,), (END,), (-END - 1,), (-1,)),
    "flatten": Reshape((0, -1)),
    "swap": Transpose((0, 1, 3, 2)),
    "crop": Pad((0, 0, 0, 0), (0, 0, -1, 0)),
    "strided": Pool("max", (1, 1), (2, 2)),
    "wider": Expand((3, 2, 8, 4, 5)),
    "to_size": Resize("nearest", size=(4, 5)),
}


def around(op):
    b = Builder()
    x = b.unary("exp", b.input(2, 8, 4, 5))
    return b.finish(b.unary("neg", b.add(op, x)))


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_goes(name):
    graph = around(IDENTITIES[name])
    result = drop_identities(graph)
    assert op_names(result) == ["exp", "neg"]
    check_same(graph, result)


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_stays(name):
    graph = around(OTHERS[name])
    assert drop_identities(graph) is graph


@pytest.mark.parametrize(
    ("kind", "value", "is_dropped"),
    [
        ("add", 0.0, True),
        ("sub", 0.0, True),
        ("mul", 1.0, True),
        ("div", 1.0, True),
        ("pow", 1.0, True),
        ("add", 1.0, False),
        ("mul", 0.0, False),
        ("max", 0.0, False),
    ],
)
def test_neutral_constants(kind, value, is_dropped):
    b = Builder()
    x = b.unary("exp", b.input(2, 3))
    graph = b.finish(b.unary("neg", b.binary(kind, x, value)))
    assert (op_names(drop_identities(graph)) == ["exp", "neg"]) == is_dropped


def test_a_neutral_constant_that_widens_the_result_stays():
    b = Builder()
    graph = b.finish(b.binary("mul", b.unary("exp", b.input(3)), b.constant(np.ones((1, 1)))))
    assert drop_identities(graph) is graph


def test_everything_clip_goes():
    b = Builder()
    x = b.unary("exp", b.input(2))
    graph = b.finish(b.unary("neg", b.unary("clip", x, float("-inf"), float("inf"))))
    assert op_names(drop_identities(graph)) == ["exp", "neg"]


def test_chains_of_identities_go_at_once():
    b = Builder()
    x = b.unary("exp", b.input(2, 3))
    for op in (Reshape((0, 3)), Transpose((0, 1)), Concat(0), Reshape((-1, 3))):
        x = b.add(op, x)
    graph = b.finish(x)
    result = drop_identities(graph)
    assert op_names(result) == ["exp"]
    check_same(graph, result)


def test_identity_between_input_and_output_stays():
    b = Builder()
    graph = b.finish(b.add(Reshape((0, 3)), b.input(2, 3)))
    assert drop_identities(graph) is graph


def test_dead_nodes_go_and_take_their_constants_along():
    b = Builder()
    x = b.input(1, 2, 4, 4)
    b.conv(b.conv(x, 3), 4, 1)
    graph = b.finish(b.unary("relu", x))
    result = drop_dead_nodes(graph)
    assert op_names(result) == ["relu"]
    assert result.constants == {}
    assert result.inputs == graph.inputs
    assert drop_dead_nodes(result) is result


def test_inputs_that_nothing_reads_stay():
    b = Builder()
    x, _ = b.input(2), b.input(3)
    assert drop_dead_nodes(b.finish(b.unary("relu", x))).inputs == ["x0", "x1"]


# ---- constants ------------------------------------------------------------------------------------------------------
def test_constants_are_folded_and_rounded_once():
    b = Builder()
    x = b.input(4)
    tiny = b.binary("div", b.binary("mul", b.constant([1 / 3] * 4), 3.0), 7.0)
    graph = b.finish(b.binary("add", x, tiny))
    result = fold_constants(graph, evaluate)
    assert op_names(result) == ["add"]
    exact = np.float64(np.float32(1 / 3)) * 3 / 7
    np.testing.assert_array_equal(result.constants[tiny], np.full(4, np.float32(exact)))
    assert fold_constants(result, evaluate) is result


def test_a_constant_output_stays_a_node():
    b = Builder()
    b.input(1)
    graph = b.finish(b.unary("neg", b.constant([1.0, 2.0])))
    assert op_names(fold_constants(graph, evaluate)) == ["neg"]
