"""torch.compile(backend="waterline"): the same results as eager PyTorch, and what is left to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from waterline import api  # noqa: E402
from waterline.errors import InvalidArgument  # noqa: E402
from waterline.graph import Graph  # noqa: E402

from .torch_check import data  # noqa: E402


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs that were compiled, in order."""
    graphs: list[Graph] = []
    original = api.compile

    def recording(model: Graph, *args: Any, **kwargs: Any) -> Any:
        graphs.append(model)
        return original(model, *args, num_threads=1, **{k: v for k, v in kwargs.items() if k != "num_threads"})

    monkeypatch.setattr(api, "compile", recording)
    return graphs


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 5),
    ).eval()


def same(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_whole_network(compiled: list[Graph], caplog: pytest.LogCaptureFixture) -> None:
    module, x = network(), data(2, 3, 8, 8)
    fast = torch.compile(module, backend="waterline")
    y = data(2, 3, 8, 8, seed=1)
    with torch.inference_mode():
        same(fast(x), module(x))
        same(fast(y), module(y))
    assert [len(graph.nodes) for graph in compiled] == [6]
    assert [node.name for node in compiled[0].nodes] == ["0", "1", "2", "3", "4", "5"]
    assert not [record for record in caplog.records if record.name == "waterline.dynamo"]


def test_no_grad_and_listing(compiled: list[Graph]) -> None:
    assert "waterline" in torch._dynamo.list_backends()
    module, x = network(), data(1, 3, 8, 8)
    fast = torch.compile(module, backend="waterline")
    with torch.no_grad():
        same(fast(x), module(x))
    assert len(compiled) == 1


def test_another_batch_compiles_nothing(compiled: list[Graph]) -> None:
    module = network()
    fast = torch.compile(module, backend="waterline", dynamic=True)
    with torch.no_grad():
        for batch in (2, 3, 5, 2):
            x = data(batch, 3, 8, 8, seed=batch)
            same(fast(x), module(x))
    assert len(compiled) == 1


class Sized(nn.Module):
    """Uses its sizes as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y.view(x.size(0), -1) * x.size(0)


def test_sizes_as_numbers(compiled: list[Graph]) -> None:
    module = Sized().eval()
    fast = torch.compile(module, backend="waterline", dynamic=True)
    with torch.no_grad():
        for batch in (2, 3, 4, 3):
            x = data(batch, 3, 4, 4)
            same(fast(x), module(x))
    assert len(compiled) == 3


def test_changed_parameters_are_seen(compiled: list[Graph]) -> None:
    module, x = network(), data(2, 3, 8, 8)
    fast = torch.compile(module, backend="waterline")
    with torch.no_grad():
        same(fast(x), module(x))
        module[0].weight.mul_(2)
        same(fast(x), module(x))
        module[1].running_mean.add_(1)
        same(fast(x), module(x))
        module.load_state_dict({name: value * 0.5 for name, value in module.state_dict().items()})
        same(fast(x), module(x))
        module[5].weight = nn.Parameter(data(5, 128))
        same(fast(x), module(x))
    assert len(compiled) == 5


def test_parts(compiled: list[Graph], caplog: pytest.LogCaptureFixture) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.a(x).relu_()
            z = torch.cumsum(y, 1)
            best = z.argmax(1, keepdim=True)
            y = self.b(z) + self.c(y)
            return {"mean": y.mean((2, 3)), "best": best, "gathered": torch.gather(z, 1, best), "y": y}

    module, x = Parts().eval(), data(2, 3, 9, 9)
    fast = torch.compile(module, backend="waterline")
    with torch.no_grad(), caplog.at_level(logging.WARNING, "waterline.dynamo"):
        got, want = fast(x), module(x)
    assert list(got) == list(want)
    for name, value in want.items():
        same(got[name], value)
    assert sorted(sum(node.op.name == "Conv" for node in graph.nodes) for graph in compiled) == [1, 2]
    (record,) = [record for record in caplog.records if record.name == "waterline.dynamo"]
    assert "in parts" in record.getMessage()
    assert "aten.cumsum.default at cumsum" in record.getMessage()


def test_graph_breaks(compiled: list[Graph]) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            if y.sum() > 0:
                y = -y
            return self.b(y)

    module, x = Broken().eval(), data(1, 3, 8, 8)
    fast = torch.compile(module, backend="waterline")
    with torch.no_grad():
        same(fast(x), module(x))
        same(fast(-x), module(-x))
    assert len(compiled) >= 2


def test_gradients_run_in_pytorch(compiled: list[Graph], caplog: pytest.LogCaptureFixture) -> None:
    module, x = network(), data(2, 3, 8, 8)
    fast = torch.compile(module, backend="waterline")
    fast(x).sum().backward()
    assert module[0].weight.grad is not None
    assert compiled == []
    assert "gradients are needed" in caplog.text
    with torch.no_grad():
        same(fast(x), module(x))
    assert len(compiled) == 1


LEFT_TO_PYTORCH = {
    "float64": (lambda: network().double(), lambda: data(2, 3, 8, 8).double(), "a tensor is float64"),
    "training": (lambda: network().train(), lambda: data(2, 3, 8, 8), "training mode"),
    "changed input": (
        lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3)).eval(),
        lambda: data(2, 3, 8, 8),
        "writes to its inputs",
    ),
    "nothing to do": (lambda: nn.Sigmoid(), lambda: data(2, 3), "no layer that is worth a call"),
    "integers": (lambda: nn.Embedding(5, 4), lambda: torch.tensor([1, 3]), "int64"),
}


@pytest.mark.parametrize("name", LEFT_TO_PYTORCH)
def test_left_to_pytorch(name: str, compiled: list[Graph], caplog: pytest.LogCaptureFixture) -> None:
    make_module, make_input, reason = LEFT_TO_PYTORCH[name]
    torch.manual_seed(0)
    module, x, y = make_module(), make_input(), make_input()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    fast = torch.compile(module, backend="waterline")
    with torch.no_grad():
        got = fast(x)
        module.load_state_dict(state)
        torch.testing.assert_close(got, module(y))
    torch.testing.assert_close(x, y)  # an input is changed exactly where PyTorch changes it
    assert compiled == []
    assert reason in caplog.text


def test_autocast_runs_in_pytorch(compiled: list[Graph], caplog: pytest.LogCaptureFixture) -> None:
    module, x = network(), data(2, 3, 8, 8)
    fast = torch.compile(module, backend="waterline")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype == module(x).dtype == torch.bfloat16
    assert compiled == []
    assert "bfloat16" in caplog.text


def test_functions(compiled: list[Graph]) -> None:
    weight = data(4, 3, 3, 3)

    @torch.compile(backend="waterline")
    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, w).relu()

    x = data(1, 3, 8, 8)
    same(function(x, weight), F.conv2d(x, weight).relu())


def test_options(compiled: list[Graph]) -> None:
    module, x = network(), data(1, 3, 8, 8)
    fast = torch.compile(module, backend="waterline", options={"num_threads": 1, "accuracy": "strict"})
    with torch.no_grad():
        same(fast(x), module(x))
    wrong = torch.compile(network(), backend="waterline", options={"acuracy": "strict"})
    with torch.no_grad(), pytest.raises(Exception, match="acuracy") as caught:
        wrong(x)
    assert isinstance(caught.value, InvalidArgument) or "InvalidArgument" in repr(caught.value)
    with torch.no_grad(), pytest.raises(Exception, match="is not one of Waterline's"):
        torch.compile(network(), backend="waterline", mode="max-autotune")(x)
