"""What the PyTorch front end accepts, gives back and refuses."""

from __future__ import annotations

import collections
import copy
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from waterline import reference  # noqa: E402
from waterline.errors import InvalidArgument, InvalidModel, UnsupportedOperator  # noqa: E402
from waterline.frontends.torch import load  # noqa: E402

from .torch_check import Call, check, compare, data, run  # noqa: E402


class Residual(nn.Module):
    """Convolutions with in-place activations and an in-place sum, as torchvision writes them."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.relu = nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        y += x
        return self.relu(y)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 5)
    ).eval()


# ---- what is accepted -----------------------------------------------------------------------------------------------
def test_names_are_those_of_the_module() -> None:
    graph = check(network(), data(2, 3, 8, 8)).graph
    names = [node.name for node in graph.nodes]
    assert names == ["0", "1.conv1", "1.bn1", "1.relu", "1.conv2", "1.add", "1.relu_1", "2", "3", "5"]
    assert {"0.weight", "1.bn1.running_mean", "5.bias"} <= set(graph.constants)
    assert not any("num_batches_tracked" in name for name in graph.constants)
    assert (graph.inputs, graph.outputs, graph.name) == (["input"], ["5"], "Sequential")


def test_constants_share_the_memory_of_the_parameters() -> None:
    module = network()
    graph = load(module, data(1, 3, 8, 8)).graph
    for name, parameter in module.named_parameters():
        assert np.shares_memory(graph.constants[name], parameter.detach().numpy()), name


def test_channels_last_module() -> None:
    check(network().to(memory_format=torch.channels_last), data(2, 3, 8, 8).to(memory_format=torch.channels_last))


def test_shared_parameters_are_one_constant() -> None:
    layer = nn.Linear(4, 4)
    graph = check(nn.Sequential(layer, nn.ReLU(), layer), data(2, 4)).graph
    assert len(graph.constants) == 2


@pytest.mark.parametrize("decomposed", [False, True])
def test_exported_program(decomposed: bool) -> None:
    module, x = network(), data(2, 3, 8, 8)
    program = torch.export.export(module, (x,))
    imported = load(program.run_decompositions() if decomposed else program)
    compare(run(imported, x), copy.deepcopy(module).double()(x.double()))


def test_exported_program_with_a_dynamic_batch() -> None:
    module, x = network(), data(2, 3, 8, 8)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    assert load(program).graph.shapes["input"] == (2, 3, 8, 8)
    wide = data(7, 3, 8, 8)
    compare(run(load(program, wide), wide), copy.deepcopy(module).double()(wide.double()))


def test_exported_program_has_its_shapes() -> None:
    program = torch.export.export(network(), (data(2, 3, 8, 8),))
    with pytest.raises(InvalidModel, match=r"torch\.export cannot follow"):
        load(program, data(3, 3, 9, 9))


def test_graph_module() -> None:
    module, x = network(), data(2, 3, 8, 8)
    check(torch.fx.symbolic_trace(module), x)


def test_arrays_and_named_arguments() -> None:
    class Two(nn.Module):
        def forward(self, x, y, *, scale=None):
            return x * scale - y

    x, y, s = (data(2, 3, seed=seed) for seed in range(3))
    imported = load(Two(), {"scale": s.numpy(), "x": x.numpy(), "y": y.numpy()})
    assert sorted(imported.graph.inputs) == ["scale", "x", "y"]
    arranged = imported.arrange(x=x, y=y, scale=s)
    values = dict(zip(imported.graph.inputs, (a.numpy() for a in arranged), strict=True))
    (result,) = reference.run(imported.graph, values).values()
    np.testing.assert_allclose(result, (x * s - y).numpy(), rtol=1e-6)
    with pytest.raises(InvalidArgument, match="the arguments are"):
        imported.arrange(x, y)


def test_nested_arguments_and_results() -> None:
    Pair = collections.namedtuple("Pair", "sum difference")

    class Nested(nn.Module):
        def forward(self, pair, more):
            return Pair(pair[0] + pair[1], more["z"]), collections.OrderedDict(out=pair[0] * 2, same=pair[0], n=3)

    a, b, z = (data(2, 3, seed=seed) for seed in range(3))
    imported = load(Nested(), ([a, b], {"z": z}))
    total, named = run(imported, [a, b], {"z": z})
    np.testing.assert_allclose(total.sum, (a + b).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(total.difference, z.numpy())
    assert type(named) is collections.OrderedDict
    assert named["n"] == 3
    np.testing.assert_array_equal(named["same"], a.numpy())


def test_other_arguments_are_fixed() -> None:
    class Options(nn.Module):
        def forward(self, x, factor, mode=None):
            return x * factor if mode == "times" else x + factor

    x = data(2, 3)
    imported = load(Options(), (x, 3, "times"))
    np.testing.assert_allclose(run(imported, x, 3, "times"), (x * 3).numpy(), rtol=1e-6)
    with pytest.raises(InvalidArgument, match="an argument is 4, the network was compiled for 3"):
        imported.arrange(x, 4, "times")
    with pytest.raises(InvalidArgument, match="the arguments are"):
        imported.arrange(x, 3)


def test_unused_input_stays_an_argument() -> None:
    imported = load(Call(lambda x, y: x + 1), (data(2, 3), data(4)))
    assert len(imported.graph.inputs) == 2


# ---- in-place operators ---------------------------------------------------------------------------------------------
IN_PLACE = {
    "read_before": lambda x: (lambda y: (y * 2) + y.relu_())(x + 0.5),
    "read_after": lambda x: (lambda y: (y.relu_() * 0) + y)(x + 0.5),
    "through_a_view": lambda x: (lambda y: (y[:, 1:].mul_(3).sum(1, True) * 0) + y)(x + 0.5),
    "view_reads_after": lambda x: (lambda y, v: (y.mul_(3) * 0)[:, :1] + v)(*(lambda y: (y, y[:, :1]))(x + 0.5)),
    "through_dropout": lambda x: F.dropout(x + 0.5, training=False).relu_() * 2,
    "assignment": lambda x: (lambda y: (y[:, 0].copy_(x[:, 1]), y)[1])(x + 0.5),
    "columns": lambda x: (lambda y: (y[:, 1:, ..., :-1].add_(x[:, :1, :, :1]), y)[1])(x + 0.5),
    "first_layer": lambda x: x.clone().relu_() + x,
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name: str) -> None:
    check(Call(IN_PLACE[name]), data(2, 3, 4, 4))


def test_writing_through_dropout_is_refused() -> None:
    with pytest.raises(InvalidModel, match="writes in place to what dropout returned"):
        load(Call(lambda x: (lambda y: F.dropout(y, training=False).relu_() + y)(x + 0.5)), data(2, 3))


def test_a_changed_input_is_not_written_back() -> None:
    x = data(2, 3)
    imported = load(nn.ReLU(inplace=True), x)
    before = x.clone()
    compare(run(imported, x), before.double().relu())
    assert torch.equal(x, before)


# ---- other modes ----------------------------------------------------------------------------------------------------
def test_regions_under_other_modes() -> None:
    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            with torch.no_grad():
                y = self.layer(x).relu()
            with torch.autocast("cpu", enabled=False):
                return self.layer(y) + x

    check(Regions(), data(2, 3))


def test_autocast_is_refused() -> None:
    def function(x, w):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ w

    with pytest.raises(UnsupportedOperator, match="bfloat16"):
        load(Call(function, w=data(3, 3)), data(2, 3))


def test_training_is_refused_where_it_matters() -> None:
    for module in (
        network().train(),
        nn.Sequential(nn.Dropout(0.5)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
    ):
        with pytest.raises(InvalidArgument, match=r"training mode: .* at '[\d.bn]+'.*model.eval\(\)"):
            load(module.train(), data(1, 3, 8, 8))
    compare(
        run(load(nn.Sequential(nn.ReLU(), nn.Dropout(0.0)).train(), data(1, 3)), data(1, 3)), data(1, 3).double().relu()
    )


def test_the_module_is_left_as_it_was() -> None:
    module = network()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    load(module, data(1, 3, 8, 8))
    assert not module.training
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


# ---- what is refused ------------------------------------------------------------------------------------------------
def test_every_unsupported_operator_is_named() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Call(lambda x: torch.cumsum(x, 1).sin())

        def forward(self, x):
            y = self.block(x).relu() + torch.cumsum(x, 2)
            return F.avg_pool2d(y, 2, divisor_override=3) + F.max_pool2d(y, 2, return_indices=True)[1]

    with pytest.raises(UnsupportedOperator) as caught:
        load(Several(), data(1, 2, 4, 4))
    message = caught.value.message
    assert message.startswith("4 operators are not supported: ")
    assert "aten.cumsum.default at block.cumsum, cumsum;" in message
    assert "aten.sin.default at block.sin;" in message
    assert "aten.avg_pool2d.default [divisor_override 3] at avg_pool2d" in message
    assert "[its result 1 is used]" in message
    assert "\n" not in str(caught.value)


REFUSED = {
    "3-D": (nn.Conv3d(1, 2, 3), data(1, 1, 4, 4, 4)),
    "depends on values": (Call(lambda x: x[:, torch.tensor([True, False, True])] * 2), data(2, 3)),
    "computed by the network": (
        Call(lambda x, w: F.conv2d(x, w * x.mean(), None), w=data(2, 3, 1, 1)),
        data(1, 3, 4, 4),
    ),
    "statistics of the batch": (nn.BatchNorm2d(3, track_running_stats=False), data(2, 3, 4, 4)),
    "random numbers": (Call(lambda x: x + torch.rand(3)), data(2, 3)),
    "aten.where.self at where": (Call(lambda x: torch.where(x > 0, x, x * 2)), data(2, 3)),
    "its result is int64": (Call(lambda x: x.long().float()), data(2, 3)),
    "_upsample_bilinear2d_aa": (
        Call(lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True)),
        data(1, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    module, x = REFUSED[name]
    with pytest.raises(UnsupportedOperator, match=re.escape(name)):
        load(module.eval(), x)


def test_dead_code_is_not_refused() -> None:
    check(Call(lambda x: (torch.cumsum(x, 0), x * 2)[1]), data(2, 3))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (nn.ReLU(), None, "needs example_inputs"),
        ("resnet18", data(1, 3), "str is neither"),
        (nn.ReLU(), (), "without a tensor"),
        (nn.ReLU(), data(1, 3).double(), "example input 0 is float64"),
        (nn.ReLU(), torch.ones(2, 3, dtype=torch.int64), "example input 0 is int64"),
        (nn.ReLU(), data(1, 3).to_sparse(), "sparse"),
        (nn.ReLU(), torch.empty(1, 3, device="meta"), "on meta"),
        (nn.Linear(3, 4).half(), data(1, 3), "'weight' of the module is float16"),
        (nn.Linear(3, 4).to("meta"), data(1, 3), "'weight' of the module is on meta"),
    ],
)
def test_wrong_arguments(model: object, inputs: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        load(model, inputs)


def test_what_torch_cannot_export() -> None:
    with pytest.raises(InvalidModel, match=r"torch\.export cannot follow Call: .*"):
        load(Call(lambda x: x if x.sum() > 0 else -x), data(2, 3))
    with pytest.raises(InvalidModel, match=r"torch\.export cannot follow Conv2d"):
        load(nn.Conv2d(3, 4, 3), data(1, 5, 8, 8))


def test_state_between_calls_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return x * self.count

    with pytest.raises(InvalidModel, match="changes its own 'count'"):
        load(Counter(), data(2, 3))


def test_a_batch_that_one_trace_does_not_tell_is_refused() -> None:
    mixed = load(Call(lambda x: x.permute(1, 2, 0).reshape(6, 1)), data(1, 2, 3))
    with pytest.raises(InvalidModel):
        mixed.graph.with_shapes({mixed.graph.inputs[0]: (2, 2, 3)})


def test_empty_batch() -> None:
    imported = load(network(), data(1, 3, 8, 8))
    graph = imported.graph.with_shapes({"input": (0, 3, 8, 8)})
    assert graph.shapes[graph.outputs[0]] == (0, 5)
    flat = load(nn.Flatten(), data(1, 3, 8, 8)).graph
    assert flat.with_shapes({"input": (0, 3, 4, 4)}).shapes[flat.outputs[0]] == (0, 48)
