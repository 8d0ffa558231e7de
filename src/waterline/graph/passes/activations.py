"""Recognising activations that an exporter has written out in pieces."""

from __future__ import annotations

import math

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import Binary, Unary
from waterline.graph.passes.formulas import (
    OPAQUE_KINDS,
    Formula,
    X,
    add,
    apply,
    derive,
    is_elementary,
    multiply,
    polynomial,
)
from waterline.graph.passes.rewriting import Rewriting
from waterline.spec import Activation

MAX_CONE = 16  # tensors; the tanh form of gelu has nine
INF = float("inf")


def times(a: Formula, b: Formula) -> Formula:
    product = multiply(a, b)
    assert product is not None, "the known formulas are of low degree"
    return product


def one_plus(t: Formula) -> Formula:
    total = add(polynomial(1.0), t)
    assert total is not None
    return total


def known_formulas() -> list[tuple[Formula, Activation]]:
    root = math.sqrt(2 / math.pi)
    gelu_argument = (0.0, root, 0.0, 0.044715 * root)
    twice = tuple(2 * c for c in gelu_argument)
    half_x, sixth_x = polynomial(0, 0.5), polynomial(0, 1 / 6)
    hard_sigmoid, hard_swish = Activation("hard_sigmoid", (1 / 6, 0.5)), Activation("hard_swish")
    return [
        (times(X, apply("sigmoid", (), X)), Activation("silu")),
        (times(X, apply("hard_sigmoid", (1 / 6, 0.5), X)), hard_swish),
        (times(sixth_x, apply("clip", (0, 6), polynomial(3, 1))), hard_swish),
        (times(X, apply("clip", (0, 1), polynomial(0.5, 1 / 6))), hard_swish),
        (times(polynomial(1 / 6), apply("clip", (0, 6), polynomial(3, 1))), hard_sigmoid),
        (times(half_x, one_plus(apply("erf", (), polynomial(0, math.sqrt(0.5))))), Activation("gelu")),
        (times(half_x, one_plus(apply("tanh", (), polynomial(*gelu_argument)))), Activation("gelu_tanh")),
        (times(X, apply("sigmoid", (), polynomial(*twice))), Activation("gelu_tanh")),
        (times(X, apply("tanh", (), apply("softplus", (), X))), Activation("mish")),
    ]


KNOWN = known_formulas()


def recognise_activations(graph: Graph) -> Graph:
    """Replace decomposed activations (silu, hard_swish, hard_sigmoid, gelu, gelu_tanh, mish, clip, relu) by one node.

    Constants are compared to six digits: an exporter's 0.70710678 becomes the exact 1/sqrt(2).
    """
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        if isinstance(node.op, Binary) and node.op.after is None:
            if node.op.kind in ("max", "min"):
                make_clip(rewriting, node)
            else:
                recognise(rewriting, node)
    for node in rewriting.nodes():
        merge_clips(rewriting, node)
    return rewriting.finish()


def recognise(rewriting: Rewriting, root: Node) -> None:
    cone = elementary_cone(rewriting, root)
    if not any(is_opaque(rewriting.producer(tensor)) for tensor in cone):
        return
    for variable in cone[1:]:
        derived = derive(rewriting, root.output, variable)
        if derived is None or rewriting.shapes[variable] != rewriting.shapes[root.output]:
            continue
        formula, computed = derived
        function = next((function for known, function in KNOWN if formula.is_close(known)), None)
        if function is not None and rewriting.is_closed(computed, root.output):
            old = [node for tensor in computed if (node := rewriting.producer(tensor)) is not None]
            rewriting.replace(old, Node(root.name, Unary(function), (variable,), root.outputs))
            return


def elementary_cone(rewriting: Rewriting, root: Node) -> list[str]:
    """The tensors above `root` that element-by-element nodes connect to it, nearest first, constants left out."""
    cone = [root.output]
    for tensor in cone:
        node = rewriting.producer(tensor)
        if node is not None and is_elementary(node.op) and len(cone) < MAX_CONE:
            cone += [
                name for name in dict.fromkeys(node.inputs) if name not in cone and name not in rewriting.constants
            ]
    return cone


def is_opaque(node: Node | None) -> bool:
    return node is not None and isinstance(node.op, Unary) and node.op.function.kind in OPAQUE_KINDS


# ---- clip -----------------------------------------------------------------------------------------------------------
def make_clip(rewriting: Rewriting, node: Node) -> None:
    """max(x, c) and min(x, c) as clip."""
    assert isinstance(node.op, Binary)
    for x, constant in (node.inputs, node.inputs[::-1]):
        c = rewriting.scalar(constant)
        if c is not None and not math.isnan(c) and rewriting.shapes[x] == rewriting.shapes[node.output]:
            limits = (c, INF) if node.op.kind == "max" else (-INF, c)
            rewriting.replace([node], Node(node.name, Unary(Activation("clip", limits)), (x,), node.outputs))
            return


def merge_clips(rewriting: Rewriting, node: Node) -> None:
    """clip after clip or relu as one; clip(0, infinity) as relu."""
    limits = clip_limits(node)
    if limits is None:
        return
    before = rewriting.producer(node.inputs[0])
    inner = clip_limits(before) if before is not None and rewriting.is_private(node.inputs[0]) else None
    low, high = limits
    if before is not None and inner is not None:
        low, high = (min(max(limit, limits[0]), limits[1]) for limit in inner)
    function = Activation("relu") if (low, high) == (0, INF) else Activation("clip", (low, high))
    if before is not None and inner is not None:
        rewriting.replace([before, node], Node(node.name, Unary(function), before.inputs, node.outputs))
    elif node.op != Unary(function):
        rewriting.replace([node], Node(node.name, Unary(function), node.inputs, node.outputs))


def clip_limits(node: Node) -> tuple[float, float] | None:
    """The limits of clip or relu, if they are in order."""
    if not isinstance(node.op, Unary):
        return None
    function = node.op.function
    limits = (0.0, INF) if function.kind == "relu" else function.params if function.kind == "clip" else None
    return (limits[0], limits[1]) if limits is not None and limits[0] <= limits[1] else None
