import numpy as np
import pytest

from waterline.errors import InvalidModel
from waterline.graph import Node
from waterline.graph.ops import Binary, Unary
from waterline.graph.passes.rewriting import Rewriting
from waterline.spec import Activation

from .building import Builder, op_names

RELU = Unary(Activation("relu"))


def diamond():
    """x -> a -> (b, c) -> y = b + c"""
    b = Builder()
    a = b.unary("exp", b.input(2, 3))
    return b.finish(b.binary("add", b.unary("neg", a), b.unary("abs", a)))


def test_nothing_changed_gives_the_same_graph():
    graph = diamond()
    assert Rewriting(graph).finish() is graph


def test_questions():
    graph = diamond()
    rewriting = Rewriting(graph)
    exp, neg, absolute, add = graph.nodes
    assert rewriting.producer(exp.output) is exp
    assert rewriting.producer("x0") is None
    assert rewriting.readers(exp.output) == [neg, absolute]
    assert not rewriting.is_private(exp.output)  # two readers
    assert rewriting.is_private(neg.output)
    assert not rewriting.is_private(add.output)  # the user reads it
    assert rewriting.is_closed([neg.output, absolute.output, add.output], add.output)
    assert not rewriting.is_closed([exp.output, neg.output], neg.output)


def test_reading_twice_is_not_private():
    b = Builder()
    x = b.unary("exp", b.input(2))
    graph = b.finish(b.binary("mul", x, x))
    assert not Rewriting(graph).is_private(x)


def test_the_order_is_restored():
    """A node that needs something written later moves behind it, and the given graph stays as it was."""
    graph = diamond()
    before = list(graph.nodes)
    rewriting = Rewriting(graph)
    _, neg, absolute, _ = graph.nodes
    rewriting.replace([neg], Node("sum", Binary("sub"), (neg.inputs[0], absolute.output), neg.outputs))
    assert op_names(rewriting.finish()) == ["exp", "abs", "sub", "add"]
    assert graph.nodes == before


def test_fresh_names_are_free():
    rewriting = Rewriting(diamond())
    assert rewriting.fresh("t0") == "t0.2"
    assert rewriting.fresh("t0") == "t0.3"
    assert rewriting.constant(np.ones(2), "w") == "w"
    assert rewriting.constants["w"].dtype == np.float32


def test_replacing_checks_shapes():
    graph = diamond()
    rewriting = Rewriting(graph)
    wrong = rewriting.constant(np.ones(5), "wrong")
    with pytest.raises(InvalidModel):
        rewriting.replace([graph.nodes[0]], Node("bad", Binary("add"), ("x0", wrong), graph.nodes[0].outputs))


def test_bypass_keeps_the_names_that_users_see():
    b = Builder()
    x = b.input(2)
    inner = b.unary("exp", x)
    reader = b.unary("neg", inner)
    outer = b.unary("relu", inner)
    graph = b.finish(outer, reader)
    rewriting = Rewriting(graph)
    rewriting.bypass(graph.nodes[2])
    result = rewriting.finish()
    assert op_names(result) == ["exp", "neg"]
    assert result.nodes[0].outputs == (outer,)
    assert result.nodes[1].inputs == (outer,)


def test_bypass_between_two_visible_names_does_nothing():
    b = Builder()
    x = b.input(2)
    graph = b.finish(x, b.unary("relu", x))
    rewriting = Rewriting(graph)
    rewriting.bypass(graph.nodes[0])
    assert rewriting.finish() is graph
