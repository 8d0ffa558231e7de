"""Graphs to analyse: small ones whose figures can be computed by hand, and networks of the zoo."""

from __future__ import annotations

from planner.networks import Building, zoo

from waterline.analysis import Analysis, BlockAnalysis, of_plan
from waterline.graph import Graph
from waterline.graph.ops import Binary, Conv, Unary
from waterline.graph.passes import simplify
from waterline.machine import Machine
from waterline.planner import PlanOptions, plan
from waterline.spec import Activation

SILU = Unary(Activation("silu"))
ALONE = PlanOptions(block_fusion=False)  # a step for each layer, as the analysis's own rules of blocks take them


def predicted(graph: Graph, machine: Machine, threads: int | None = None) -> Analysis:
    return of_plan(plan(graph, machine, ALONE), machine, threads)


def of_zoo(name: str, machine: Machine, image_size: int = 64, batch: int = 1) -> Analysis:
    return predicted(zoo(name, image_size, batch), machine)


def bottleneck(c: int, inner: int, size: int) -> Graph:
    """1x1, 3x3, 1x1 and the sum with the input, between two convolutions."""
    b = Building(x=(1, 3, size, size))
    b.conv("stem", "x", 3, c, 3)
    b.conv("body.a", "stem", c, inner)
    b.conv("body.b", "body.a", inner, inner, 3)
    b.conv("body.c", "body.b", inner, c)
    b.add("body.sum", Binary("add"), "body.c", "stem")
    b.conv("head", "body.sum", c, 8, 3)
    return simplify(b.graph("head"))


def conv_first(c: int, expansion: int, size: int, *, has_shortcut: bool) -> Graph:
    """Lavin's ConvFirst block with groups of 8 channels, between two convolutions."""
    b = Building(x=(1, 3, size, size))
    b.conv("stem", "x", 3, c, 3)
    b.constants["block.conv.weight"] = b.random.standard_normal((c, 8, 3, 3)).astype("float32")
    b.add("block.conv", Conv(pad=(1, 1, 1, 1), groups=c // 8), "stem", "block.conv.weight")
    b.conv("block.expand", "block.conv", c, expansion * c)
    b.add("block.silu", SILU, "block.expand")
    last = b.conv("block.project", "block.silu", expansion * c, c)
    if has_shortcut:
        last = b.add("block.sum", Binary("add"), "block.project", "stem")
    b.conv("head", last, c, 8, 3)
    return simplify(b.graph("head"))


def block_of(analysis: Analysis, layer: str) -> BlockAnalysis:
    """The block of the layer with this name."""
    return analysis.blocks[next(each.block for each in analysis.layers if each.name == layer)]


def names_of(analysis: Analysis, block: BlockAnalysis) -> list[str]:
    return [analysis.layers[i].name for i in block.layers]
