"""A single convolution as a model, for measurements of one layer."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from waterline.models.network import IR_VERSION, OPSET
from waterline.spec import ConvSpec


def build_layer(spec: ConvSpec, seed: int = 0) -> ModelProto:
    """A network of one convolution: input `input` (N, c, h, w), output `output`; weights have deviation fan-in^-0.5."""
    random = np.random.default_rng(seed)
    deviation = np.float32((spec.group_c * spec.taps) ** -0.5)
    weight = random.standard_normal((spec.k, spec.group_c, spec.r, spec.s), np.float32) * deviation
    conv = helper.make_node(
        "Conv",
        ["input", "weight"],
        ["output"],
        name="conv",
        kernel_shape=[spec.r, spec.s],
        strides=list(spec.stride),
        pads=list(spec.pad),
        dilations=list(spec.dilation),
        group=spec.groups,
    )
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", spec.c, spec.h, spec.w])
    y = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", spec.k, spec.p, spec.q])
    graph = helper.make_graph([conv], spec.id, [x], [y], initializer=[numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
