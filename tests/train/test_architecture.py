"""Networks by name, and the files of trained ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import waterline
from waterline import train
from waterline.errors import InvalidArgument, InvalidModel
from waterline.models.convfirst import convfirst_tiny
from waterline.train import saving


def test_the_family_has_its_own_sizes() -> None:
    with torch.device("meta"):
        own = convfirst_tiny().state_dict()
        named = train.architecture("convfirst").build(1000).state_dict()
    assert {key: value.shape for key, value in named.items()} == {key: value.shape for key, value in own.items()}


def test_convnext_is_torchvision_s() -> None:
    from waterline.train import vision

    with torch.device("meta"):
        own = vision.module("torchvision.models").convnext_tiny().state_dict()
        named = train.build_model("convnext", 1000).state_dict()
    assert {key: value.shape for key, value in named.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.parametrize("name", ["convfirst_small", "convnext_tiny"])
def test_weights_follow_from_the_seed(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        model = train.build_model(name, 3, depths=(1, 1), widths=(8, 16), stem_stride=2, seed=seed)
        return next(model.parameters())

    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(weights(4), weights(4))
    assert not torch.equal(weights(4), weights(5))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("convfrist", {}, "convfrist"),
        ("resnet50", {}, "resnet50"),
        ("convfirst", {"depths": (1,)}, "1 depths and 4 widths"),
        ("convfirst", {"widths": (12, 24, 48, 96)}, "group width"),
        ("convfirst", {"stem_stride": 3}, "stem_stride"),
        ("convnext", {"depths": (1, 2)}, "2 depths and 4 widths"),
        ("convnext", {"group_width": 8}, "no group_width"),
    ],
)
def test_networks_that_cannot_be(name: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as raised:
        train.build_model(name, 10, **changes)
    assert raised.value.hint


@pytest.mark.parametrize("stem_stride", [2, 4])
@pytest.mark.parametrize("name", ["convfirst", "convnext"])
def test_the_least_image(name: str, stem_stride: int) -> None:
    architecture = train.architecture(name, depths=(1, 1, 1), widths=(8, 16, 24), stem_stride=stem_stride)
    least = architecture.least_image_size
    sizes = []
    model = architecture.build(2).eval()
    last = [module for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d)][-1]
    last.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[-1]))
    model(torch.zeros(1, 3, least, least))
    assert sizes == [1]
    with pytest.raises(InvalidArgument, match="too small"):
        architecture.check_image_size(least - 1)
    architecture.check_image_size(least)


def test_a_file_of_a_trained_network(build: Callable[..., nn.Module], digits: train.Data, tmp_path: Path) -> None:
    architecture = train.architecture("convfirst", depths=(1, 1), widths=(8, 16), head_width=32)
    model = build().eval()
    saving.save_model(tmp_path / "model.pt", model, architecture, digits)
    found, facts = saving.load_model(tmp_path / "model.pt")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(found(x), model(x))
    assert (facts["classes"], facts["image_size"]) == (list("0123456789"), 16)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    (tmp_path / "other.pt").write_bytes(b"something else")
    with pytest.raises(InvalidModel, match=r"other\.pt"):
        saving.load_model(tmp_path / "other.pt")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(InvalidModel, match=r"other\.pt"):
        saving.load_model(tmp_path / "other.pt")
    with pytest.raises(InvalidArgument, match=r"nothing\.pt"):
        saving.load_model(tmp_path / "nothing.pt")


def test_an_onnx_model_of_a_trained_network(build: Callable[..., nn.Module], tmp_path: Path) -> None:
    model = build().eval()
    saving.write_onnx(tmp_path / "model.onnx", model, 16)
    session = waterline.Session(tmp_path / "model.onnx")
    for batch in (1, 3):
        x = np.random.default_rng(0).standard_normal((batch, 3, 16, 16), np.float32)
        (found,) = session.run(None, {"input": x})
        with torch.inference_mode():
            expected = model(torch.from_numpy(x)).numpy()
        assert found == pytest.approx(expected, abs=1e-5)
