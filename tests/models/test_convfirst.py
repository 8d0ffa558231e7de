"""ConvFirst: the PyTorch module and the zoo's model are one network, and it goes through `compile` as it is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import waterline
from waterline import models
from waterline.errors import InvalidArgument
from waterline.models.convfirst_family import FAMILY, ConvFirstConfig

torch = pytest.importorskip("torch")
from waterline.models import convfirst  # noqa: E402  needs torch

SMALL = ConvFirstConfig((1, 2), (16, 32), expansion=3, head_width=48)
VARIANTS = {
    "patches": SMALL,
    "stem of stride 2": ConvFirstConfig((2, 1), (16, 32), stem_stride=2, head_width=48),
    "5x5, groups of 16": ConvFirstConfig((2, 2, 1), (32, 32, 64), group_width=16, kernel=5, head_width=48),
}


def with_weights_of(model: ModelProto, module: torch.nn.Module) -> torch.nn.Module:
    """The module with the model's weights, every name and shape of which must be the module's."""
    tensors = [tensor for tensor in model.graph.initializer if not tensor.name.startswith("constant.")]
    state = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in tensors}
    counters = {key: torch.tensor(0) for key in module.state_dict() if key.endswith("num_batches_tracked")}
    module.load_state_dict(state | counters, strict=True)
    return module.eval()


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_module_and_zoo_are_one_network(config: ConvFirstConfig) -> None:
    model = models.build_convfirst(config, image_size=56, seed=1)
    module = with_weights_of(model, convfirst.ConvFirst(config))
    x = np.random.default_rng(0).standard_normal((2, 3, 56, 56), np.float32)
    with torch.inference_mode():
        theirs = module(torch.from_numpy(x)).numpy()
    assert relative_error(waterline.compile(model)(x), theirs) < 1e-5
    assert relative_error(waterline.compile(module, torch.from_numpy(x))(x), theirs) < 1e-5


@pytest.mark.parametrize("name", FAMILY)
def test_the_family_has_the_zoo_s_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        module = getattr(convfirst, name)()
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items() if "num_batches" not in key}
    found = {tensor.name: tuple(tensor.dims) for tensor in models.build(name, seed=None).graph.initializer}
    assert found == expected


def test_every_batch_norm_is_folded() -> None:
    """What is left are convolutions, with activations and sums inside them, the mean, the classifier and edges."""
    model = models.build_convfirst(SMALL, image_size=32)
    steps = waterline.compile(model, options={"block_fusion": False}).plan.steps
    assert {type(step.op).__name__ for step in steps} == {"Conv", "AdaptivePool", "Linear", "Pad"}


def test_channels_last_changes_nothing() -> None:
    torch.manual_seed(0)
    module = convfirst.ConvFirst(SMALL, num_classes=10, in_channels=1).eval()
    x = torch.randn(2, 1, 40, 40)
    with torch.inference_mode():
        expected = module(x).numpy()
        module = module.to(memory_format=torch.channels_last)
        y = module.stages(module.stem(x.to(memory_format=torch.channels_last)))
        found = module(x.to(memory_format=torch.channels_last)).numpy()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert found.shape == (2, 10)
    assert relative_error(found, expected) < 1e-5


def test_a_block_with_a_shortcut_begins_as_the_identity() -> None:
    torch.manual_seed(0)
    module = convfirst.ConvFirst(SMALL)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(module.stages[0][0](x), x)
    assert not torch.equal(module.stages[1][0](x), torch.zeros(2, 32, 4, 4))


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    drop = convfirst.DropPath(0.25)
    y = drop(torch.ones(4000, 2, 3)).flatten(1)
    assert torch.equal(y.amin(1), y.amax(1))
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(torch.ones(8, 2)), torch.ones(8, 2))


def test_drop_path_rises_with_depth_where_there_is_a_shortcut() -> None:
    config = ConvFirstConfig((2, 3), (16, 32), head_width=48)
    module = convfirst.ConvFirst(config, drop_path_rate=0.4)
    rates = [block.drop_path.rate for stage in module.stages for block in stage]
    assert rates == pytest.approx([0.0, 0.1, 0.0, 0.3, 0.4])


def test_it_learns_and_goes_through_compile() -> None:
    """A few steps on eight images halve the loss; compiled, the trained network gives the same logits."""
    torch.manual_seed(0)
    module = convfirst.ConvFirst(SMALL, num_classes=4, drop_path_rate=0.1)
    optimiser = torch.optim.AdamW(module.parameters(), 1e-2)
    x, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(module(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    module.eval()
    with torch.inference_mode():
        expected = module(x).numpy()
    assert relative_error(waterline.compile(module, x)(x.numpy()), expected) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"depths": (1, 2), "widths": (16,)}, "2 depths and 1 widths"),
        ({"depths": (0,), "widths": (16,)}, "size of 0"),
        ({"depths": (1,), "widths": (20,)}, "multiple of its group width 8"),
        ({"depths": (1,), "widths": (16,), "kernel": 4}, "kernel is 4"),
        ({"depths": (1,), "widths": (16,), "stem_stride": 3}, "stem_stride is 3"),
    ],
)
def test_a_configuration_that_makes_no_network(arguments: dict, what: str) -> None:
    with pytest.raises(InvalidArgument, match=what) as raised:
        ConvFirstConfig(**arguments)
    assert raised.value.hint


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"in_channels": 0}, {"drop_path_rate": 1.0}])
def test_a_module_that_can_not_be(arguments: dict) -> None:
    with pytest.raises(InvalidArgument) as raised:
        convfirst.convfirst_tiny(**arguments)
    assert raised.value.hint


def test_without_torch_the_zoo_works_and_the_module_says_what_is_missing() -> None:
    script = """
import sys
sys.modules["torch"] = None
import waterline.models
assert len(waterline.models.build("convfirst_tiny", seed=None).graph.node) > 50
try:
    import waterline.models.convfirst
except waterline.Error as error:
    print(error.message, "|", error.hint)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    message, hint = done.stdout.split("|")
    assert "torch is not installed" in message
    assert "waterline[torch]" in hint
