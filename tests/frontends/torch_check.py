"""How the tests of the PyTorch front end compare: the graph in float64 with the module in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from waterline import reference
from waterline.frontends.torch import Imported, load


class Call(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Any, **parameters: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args, **dict(self.named_parameters()))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(imported: Imported, *args: Any, graph: Any = None) -> Any:
    """The reference's results in the structure that the module returns."""
    graph = graph or imported.graph
    arrays = [x.numpy() for x in imported.arrange(*args)]
    values = reference.run(graph, dict(zip(graph.inputs, arrays, strict=True)))
    return imported.restore([values[name] for name in graph.outputs])


def check(module: torch.nn.Module, *args: torch.Tensor, batch: int | None = 3, tolerance: float = 1e-6) -> Imported:
    """Convert, compare, and compare again with another batch size (None: the network has only the one)."""
    module = module.eval()
    imported = load(module, args)
    double = copy.deepcopy(module).double()
    compare(run(imported, *args), double(*(x.double() for x in args)), tolerance)
    if batch is not None:
        wide = [torch.randn(batch, *x.shape[1:], generator=torch.Generator().manual_seed(5)) for x in args]
        shapes = dict(zip(imported.graph.inputs, (tuple(x.shape) for x in wide), strict=True))
        graph = imported.graph.with_shapes(shapes)
        compare(run(imported, *wide, graph=graph), double(*(x.double() for x in wide)), tolerance)
    return imported


def compare(ours: Any, theirs: Any, tolerance: float = 1e-6) -> None:
    """The same structure, and values within `tolerance` of the largest one."""
    (got, got_structure), (want, want_structure) = pytree.tree_flatten(ours), pytree.tree_flatten(theirs)
    assert got_structure == want_structure
    for a, b in zip(got, want, strict=True):
        expected = b.detach().numpy()
        assert a.shape == expected.shape
        scale = max(np.abs(expected[np.isfinite(expected)]).max(initial=0), 1e-30)
        np.testing.assert_allclose(a, expected, rtol=0, atol=tolerance * scale)
