"""`torch.compile(module, backend="waterline")`, from one end to the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import waterline

from .networks import image, module

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def compiled_graphs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs that Waterline was asked to compile."""
    from waterline import api

    real, seen = api.compile, []

    def compile_(model: waterline.Graph, *arguments: object, **keywords: object) -> waterline.CompiledNetwork:
        seen.append(model.name)
        return real(model, *arguments, **keywords)

    monkeypatch.setattr(api, "compile", compile_)
    return seen


def test_the_backend_is_found_by_its_name() -> None:
    assert "waterline" in torch.compiler.list_backends()


def test_a_module_runs_in_the_engine(compiled_graphs: list[str]) -> None:
    network = module()
    fast = torch.compile(network, backend="waterline")
    images = [torch.from_numpy(image(seed=seed)) for seed in (0, 1)]
    with torch.inference_mode():
        for x in images:
            torch.testing.assert_close(fast(x), network(x), **TOLERANCE)
    assert len(compiled_graphs) == 1


def test_options_reach_the_engine() -> None:
    fast = torch.compile(module(), backend="waterline", options={"num_threads": 1, "accuracy": "strict"})
    with torch.inference_mode():
        fast(torch.from_numpy(image()))
    wrong = torch.compile(module(), backend="waterline", options={"acuracy": "strict"})
    with torch.inference_mode(), pytest.raises(Exception, match="did you mean 'accuracy'"):
        wrong(torch.from_numpy(image()))


def test_what_is_not_supported_runs_in_pytorch(compiled_graphs: list[str]) -> None:
    class Sorting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.sort(self.inner(x), dim=1)

    network, x = Sorting().eval(), torch.from_numpy(image())
    fast = torch.compile(network, backend="waterline")
    with torch.inference_mode():
        values, order = fast(x)
        expected, expected_order = network(x)
    torch.testing.assert_close(values, expected, **TOLERANCE)
    assert torch.equal(order, expected_order)
    assert len(compiled_graphs) == 1  # the convolutions before the sorting


def test_training_runs_in_pytorch(compiled_graphs: list[str]) -> None:
    network, x = module(), torch.from_numpy(image())
    loss = torch.compile(network, backend="waterline")(x).sum()
    loss.backward()
    assert network.head.weight.grad is not None
    assert compiled_graphs == []
