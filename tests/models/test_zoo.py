"""The zoo: structure, counts, determinism, values that stay near one, and the layer lists that are derived from it."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from waterline import models
from waterline.errors import InvalidArgument

# Learnable parameters. All but the last four are torchvision's (without auxiliary classifiers); OverFeat's is the sum
# over the paper's table 1, which says "145 M".
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext50_32x4d": 25_028_904,
    "regnet_y_400mf": 4_344_144,
    "vgg11": 132_863_336,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "alexnet": 61_100_840,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "efficientnet_b0": 5_288_548,
    "shufflenet_v2_x1_0": 2_278_604,
    "convnext_tiny": 28_589_128,
    "densenet121": 7_978_856,
    "googlenet": 6_624_904,
    "inception_v3": 23_834_568,
    "overfeat": 145_920_872,
    "convfirst_tiny": 9_814_504,
    "convfirst_small": 17_692_904,
    "convfirst_base": 29_912_296,
}
# Multiply-adds of the convolutions at the network's own size, in millions, as commonly published.
CONVOLUTION_MMACS = {"resnet18": 1814, "resnet50": 4087, "vgg16": 15347, "mobilenet_v2": 300, "squeezenet1_0": 819}
LIGHT = ("resnet18", "squeezenet1_0", "mobilenet_v2", "shufflenet_v2_x1_0", "convfirst_tiny")


def parameters(model: onnx.ModelProto) -> int:
    buffers = ("running_mean", "running_var")
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if not tensor.name.startswith("constant.") and not tensor.name.endswith(buffers)
    )


def test_every_network_has_an_expected_count() -> None:
    assert set(models.names()) == set(PARAMETERS)


@pytest.mark.parametrize("name", models.names())
def test_structure(name: str) -> None:
    """ONNX's own shape inference agrees on the output, and the parameters are the known ones."""
    model = models.build(name, seed=None)
    assert parameters(model) == PARAMETERS[name]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    (output,) = inferred.graph.output
    assert [d.dim_value or d.dim_param for d in output.type.tensor_type.shape.dim] == ["N", 1000]
    assert inferred.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", LIGHT)
def test_the_checker_accepts_it(name: str) -> None:
    onnx.checker.check_model(models.build(name), full_check=True)


@pytest.mark.parametrize(("name", "mmacs"), CONVOLUTION_MMACS.items())
def test_arithmetic(name: str, mmacs: int) -> None:
    total = sum(spec.macs for _, spec in models.convolutions(name))
    assert total / 1e6 == pytest.approx(mmacs, rel=0.01)


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second, other = (models.build("squeezenet1_1", seed=seed).SerializeToString() for seed in (3, 3, 4))
    assert first == second != other


@pytest.mark.parametrize("name", [n for n in models.names() if not n.startswith(("vgg", "overfeat", "resnet101"))])
def test_activations_stay_near_one(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(models.build(name).SerializeToString(), options)
    size = models.default_image_size(name)
    x = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    (y,) = session.run(None, {"input": x})
    assert y.shape == (1, 1000)
    assert 0.1 < y.std() < 100


@pytest.mark.parametrize("size", [64, 96, 256])
def test_another_image_size(size: int) -> None:
    specs = models.convolutions("resnet18", image_size=size)
    assert specs[0][1].h == specs[0][1].w == size
    assert specs[-1][1].p == -(-size // 32)


def test_an_unknown_name_names_the_closest() -> None:
    with pytest.raises(InvalidArgument, match="resnet5") as raised:
        models.build("resnet5")
    assert "resnet50" in raised.value.hint


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 0), ("resnet18", -224), ("overfeat", 224), ("vgg16", 256 + 32)]
)
def test_an_image_size_that_does_not_fit(name: str, size: int) -> None:
    with pytest.raises(InvalidArgument):
        models.build(name, image_size=size)
