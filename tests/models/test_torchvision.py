"""The zoo against torchvision's modules, with the same weights: the same names, the same shapes, the same results."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from waterline import models
from waterline.models.convfirst_family import FAMILY

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

# Networks that torchvision does not have, and large ones that are another's definition with other numbers.
LEFT_OUT = ("overfeat", *FAMILY, "vgg11", "vgg19", "resnet34", "resnet101")


@pytest.fixture(scope="module")
def zoo():
    """torchvision.models. Its Python files look for operators of its binary part, which these networks never call."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError)).models


@pytest.mark.parametrize("name", [name for name in models.names() if name not in LEFT_OUT])
def test_same_as_torchvision(zoo, name: str) -> None:
    arguments = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module = getattr(zoo, name)(**arguments).eval()
    model = models.build(name)
    state = {}
    for tensor in model.graph.initializer:
        if not tensor.name.startswith("constant."):
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            # a fully connected layer of a 4-D tensor is exported as MatMul, whose weight is the transposed one
            is_matmul = name == "convnext_tiny" and ".block." in tensor.name and value.ndim == 2
            state[tensor.name] = value.T if is_matmul else value
    counters = {key: torch.tensor(0) for key in module.state_dict() if key.endswith("num_batches_tracked")}
    module.load_state_dict(state | counters, strict=True, assign=True)

    size = models.default_image_size(name)
    x = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    (ours,) = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"input": x})
    with torch.inference_mode():
        theirs = module(torch.from_numpy(x)).numpy()
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
