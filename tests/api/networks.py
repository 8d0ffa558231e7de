"""Small networks of every kind that `waterline.compile` takes, and what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from waterline.graph import Graph, Node, ops

SHAPE = (1, 3, 12, 10)


class Branches(nn.Module):
    """Convolutions with every kind of group, a residual sum, pooling and scores."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.pointwise(torch.relu(self.depthwise(x))))
        x = torch.cat([x, self.grouped(x)], dim=1)[:, 8:24]
        return self.head(x.mean((2, 3)))


def module(seed: int = 0) -> nn.Module:
    """`Branches` with weights that follow from the seed, ready for inference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Branches()
        for tensor in made.state_dict().values():  # running statistics other than 0 and 1
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.5 + 0.1)
    return made.eval()


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or SHAPE, np.float32)


def model_proto(height: int | str = "h", width: int | str = "w") -> onnx.ModelProto:
    """Convolution, ReLU and two outputs: the image and the mean of each channel."""
    random = np.random.default_rng(1)
    weight = random.standard_normal((8, 3, 3, 3), np.float32) / 5
    bias = random.standard_normal(8, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "weight", "bias"], ["a"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["features"], name="relu"),
            helper.make_node("GlobalAveragePool", ["features"], ["means"], name="pool"),
        ],
        "two_outputs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, height, width])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 8, height, width]),
            helper.make_tensor_value_info("means", TensorProto.FLOAT, ["n", 8, 1, 1]),
        ],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def graph(shape: tuple[int, ...] = SHAPE, k: int = 8) -> Graph:
    """One 3x3 convolution with padding."""
    weight = np.random.default_rng(2).standard_normal((k, shape[1], 3, 3), np.float32)
    node = Node("conv", ops.Conv((1, 1), (1, 1, 1, 1)), ("x", "weight"), ("y",))
    return Graph("one_layer", ["x"], ["y"], [node], {"x": shape}, {"weight": weight}).infer()
