"""Passes: pure functions from Graph to Graph, named by what they do. `simplify` runs them all."""

from waterline.graph.passes.activations import recognise_activations
from waterline.graph.passes.constants import fold_constants
from waterline.graph.passes.epilogues import fuse_activation, fuse_residual
from waterline.graph.passes.identities import drop_dead_nodes, drop_identities
from waterline.graph.passes.linears import recognise_linear
from waterline.graph.passes.normalisations import recognise_layer_norm
from waterline.graph.passes.pads import merge_pads
from waterline.graph.passes.scales import fold_batchnorm, fold_scales
from waterline.graph.passes.simplification import simplify
from waterline.graph.passes.transposes import sink_transposes

__all__ = [
    "drop_dead_nodes",
    "drop_identities",
    "fold_batchnorm",
    "fold_constants",
    "fold_scales",
    "fuse_activation",
    "fuse_residual",
    "merge_pads",
    "recognise_activations",
    "recognise_layer_norm",
    "recognise_linear",
    "simplify",
    "sink_transposes",
]
