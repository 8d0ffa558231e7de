"""The kernels that a recipe asks for."""

from __future__ import annotations

import pytest
import torch

from waterline import InvalidArgument
from waterline.codegen.gpu import kernel
from waterline.models.convfirst import convfirst_tiny
from waterline.train import optimisation
from waterline.train.gpu_operators import Conv2d, GroupedConv2d
from waterline.train.optimisation import use_recipes_kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kernels", "kinds"), [("torch", set()), ("grouped", {GroupedConv2d}), ("all", None)])
def test_modules_become_those_that_are_asked_for(kernels: str, kinds: set[type] | None) -> None:
    model = convfirst_tiny()
    before = {name: id(value) for name, value in model.named_parameters()}
    use_recipes_kernels(model, kernels, CPU)
    found = {type(module) for module in model.modules()} & {Conv2d, GroupedConv2d}
    assert found == ({Conv2d, GroupedConv2d} if kinds is None else kinds)
    assert {name: id(value) for name, value in model.named_parameters()} == before


def test_kernels_without_a_gpu_or_triton_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "is_interpreted", lambda: False)
    with pytest.raises(InvalidArgument, match="for GPUs, the device is cpu"):
        use_recipes_kernels(convfirst_tiny(), "grouped", CPU)
    monkeypatch.setattr(optimisation, "find_spec", lambda name: None)
    with pytest.raises(InvalidArgument, match="need Triton"):
        use_recipes_kernels(convfirst_tiny(), "all", CPU)
    use_recipes_kernels(convfirst_tiny(), "torch", CPU)
