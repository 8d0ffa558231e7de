"""Networks of torchvision and timm without their weights, filled with numbers that keep every layer alive.

The tests that convert whole libraries are marked `slow`: `pytest -m slow tests/networks`.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils import _pytree as pytree  # noqa: E402

from waterline import reference  # noqa: E402
from waterline.frontends.torch import Imported, load  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: converts whole libraries of networks; runs with -m slow only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slow" not in config.getoption("markexpr"):
        skip = pytest.mark.skip(reason="whole libraries of networks, which take long: `make networks`")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def torchvision() -> Iterator[Any]:
    """The package. Its Python files look for two operators of its binary part, which these networks never call."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    del library


@pytest.fixture(scope="session")
def timm(torchvision: Any) -> Any:
    return pytest.importorskip("timm")


@pytest.fixture
def uninitialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are made without the time that their random weights take."""
    for name, _ in inspect.getmembers(torch.nn.init, inspect.isfunction):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


def fill(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights of a size that keeps activations near one, and statistics that are not the defaults."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in [*module.named_parameters(), *module.named_buffers()]:
        if not x.is_floating_point():
            continue
        if x.ndim > 1:
            values = torch.randn(x.shape, generator=generator) * math.sqrt(2 / x[0].numel())
        elif name.endswith(("weight", "var", "gamma")):
            values = torch.rand(x.shape, generator=generator) * 0.5 + 0.75
        else:
            values = torch.randn(x.shape, generator=generator) * 0.1
        x.data.copy_(values)
    return module.eval()


def check_values(
    module: torch.nn.Module, shape: tuple[int, ...], tolerance: float = 1e-5, is_for_any_batch: bool = True
) -> Imported:
    """The graph in float64 against the module in float64; then the graph of another batch has the right shapes.

    The two differ by what constants lose in float32 (a module's Python numbers are float64 there).
    """
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    imported = load(module, x)
    values = reference.run(imported.graph, {imported.graph.inputs[0]: x.numpy()})
    ours = imported.restore([values[name] for name in imported.graph.outputs])
    with torch.no_grad():
        theirs = copy.deepcopy(module).double()(x.double())
    (got, structure), (want, expected) = pytree.tree_flatten(ours), pytree.tree_flatten(theirs)
    assert structure == expected
    for a, b in zip(got, want, strict=True):
        largest = float(b.abs().max())
        assert 1e-6 < largest < math.inf, "the comparison would say nothing"
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=tolerance * largest)
    if is_for_any_batch:
        check_batch(imported)
    return imported


def check_batch(imported: Imported, batch: int = 3) -> None:
    """Another batch changes the first size of every output, and nothing else."""
    graph = imported.graph
    wide = graph.with_shapes({name: (batch, *graph.shapes[name][1:]) for name in graph.inputs})
    for name in graph.outputs:
        assert wide.shapes[name] == (batch, *graph.shapes[name][1:])
