"""All passes, in the order in which they help each other."""

from __future__ import annotations

from collections.abc import Callable

from waterline.graph.ir import Graph
from waterline.graph.passes.activations import recognise_activations
from waterline.graph.passes.constants import Evaluate, fold_constants
from waterline.graph.passes.epilogues import fuse_activation, fuse_residual
from waterline.graph.passes.identities import drop_dead_nodes, drop_identities
from waterline.graph.passes.linears import recognise_linear
from waterline.graph.passes.normalisations import recognise_layer_norm
from waterline.graph.passes.pads import merge_pads
from waterline.graph.passes.scales import fold_batchnorm, fold_scales
from waterline.graph.passes.transposes import sink_transposes

Pass = Callable[[Graph], Graph]

# Recognition comes before folding: once a convolution has swallowed the + 3 of a decomposed hard_sigmoid, it is lost.
CLEANING: tuple[Pass, ...] = (
    drop_identities,
    recognise_linear,
    recognise_activations,
    recognise_layer_norm,
    sink_transposes,
    fold_batchnorm,
    fold_scales,
    merge_pads,
)
# Fusion comes last: a layer with an epilogue has no room for scales.
FUSION: tuple[Pass, ...] = (fuse_activation, fuse_residual)


def simplify(graph: Graph, evaluate: Evaluate | None = None) -> Graph:
    """The same network in fewer nodes: every pass, to a fixed point. Outputs keep their names and values.

    Args:
        evaluate: computes one op on float64 arrays, for `fold_constants` (`waterline.reference.evaluate`). Without it
            nodes that depend on constants only stay.

    Returns:
        A new graph, or the given one if there was nothing to do. Constants that did not change are shared.
    """
    graph = drop_dead_nodes(graph)
    if evaluate is not None:
        graph = fold_constants(graph, evaluate)
    return repeat(FUSION, drop_dead_nodes(repeat(CLEANING, graph)))


def repeat(passes: tuple[Pass, ...], graph: Graph) -> Graph:
    """Run the passes over and over until none changes anything."""
    while True:
        before = graph
        for simplifying in passes:
            graph = simplifying(graph)
        if graph is before:
            return graph
