"""Normalisation and softmax."""

from __future__ import annotations

import math

import numpy as np

from waterline.errors import InvalidModel
from waterline.frontends.onnx.call import Call, Converter, Converters
from waterline.frontends.onnx.values import Constant, RefusalError, Tensor, Value
from waterline.graph import ops
from waterline.graph.ops import Shape
from waterline.spec import Activation


def batch_normalization(call: Call) -> Value:
    """Inference. The further outputs of opsets before 14 are statistics that training reads.

    In training mode only constants are normalised: networks that standardise their weights are exported that way.
    """
    attributes = call.attributes
    if call.opset < 9 and not attributes.integer("spatial", 1):
        raise RefusalError("spatial is 0")
    x, *parameters = (call.value(position) for position in range(5))
    if attributes.integer("training_mode", 0) or (call.opset < 7 and not attributes.integer("is_test", 0)):
        if not isinstance(x, Constant):
            raise RefusalError("it is in training mode")
        axes = (0, *range(2, len(x.shape)))
        parameters[2:] = [Constant(x.array.mean(axes, np.float64)), Constant(x.array.var(axes, np.float64))]
    return call.emit(ops.BatchNorm(attributes.number("epsilon", 1e-5)), x, *parameters)


def instance_normalization(call: Call) -> Value:
    x = call.value(0)
    _check_image(x.shape)
    return call.emit(
        ops.GroupNorm(x.shape[1], call.attributes.number("epsilon", 1e-5)), x, call.value(1), call.value(2)
    )


def group_normalization(call: Call) -> Value:
    """Scale and bias are one value a group in opset 18, one a channel from opset 21 on."""
    x = call.value(0)
    _check_image(x.shape)
    groups = call.attributes.integer("num_groups", 0)
    if groups < 1 or x.shape[1] % groups:
        raise InvalidModel(f"num_groups {groups} does not divide the channels of {x.shape}")
    parameters: list[Value] = [call.value(1), call.value(2)]
    if call.opset < 21 and groups != x.shape[1]:
        parameters = [Constant(np.repeat(call.array(i), x.shape[1] // groups)) for i in (1, 2)]
    return call.emit(ops.GroupNorm(groups, call.attributes.number("epsilon", 1e-5)), x, *parameters)


def layer_normalization(call: Call) -> list[Value]:
    """Over the axes from `axis` on; on request also their mean and the inverse of their standard deviation."""
    x = call.value(0)
    axis = call.axis(-1, len(x.shape))
    epsilon = call.attributes.number("epsilon", 1e-5)
    scale = _broadcast(call, call.value(1), x.shape[axis:])
    bias = [_broadcast(call, call.value(2), x.shape[axis:])] if call.has(2) else []
    results: list[Value] = [call.emit(ops.LayerNorm(axis, epsilon, bool(bias)), x, scale, *bias)]
    if any(call.outputs[1:]):
        over = ops.Reduce("mean", tuple(range(axis, len(x.shape))))
        mean = call.emit(over, x)
        squares = call.emit(ops.Unary(Activation("square")), call.emit(ops.Binary("sub"), x, mean))
        variance = call.emit(ops.Binary("add"), call.emit(over, squares), call.builder.constant(epsilon))
        deviation = call.emit(ops.Unary(Activation("sqrt")), variance)
        results += [mean, call.emit(ops.Unary(Activation("reciprocal")), deviation)]
    return results


def _broadcast(call: Call, value: Constant | Tensor, shape: Shape) -> Constant | Tensor:
    return value if value.shape == shape else call.emit(ops.Expand(shape), value)


def lrn(call: Call) -> Value:
    attributes = call.attributes
    return call.emit(
        ops.LocalResponseNorm(
            attributes.integer("size", 0),
            attributes.number("alpha", 1e-4),
            attributes.number("beta", 0.75),
            attributes.number("bias", 1.0),
        ),
        call.value(0),
    )


def softmax(*, log: bool) -> Converter:
    """Before opset 13 all axes from `axis` (default 1) on are one; from then on `axis` (default -1) is one axis."""

    def convert(call: Call) -> Value:
        x = call.value(0)
        rank = len(x.shape)
        if call.opset >= 13:
            return call.emit(ops.Softmax(call.axis(-1, rank), log), x)
        axis = call.axis(1, rank, inclusive=True)
        if axis < rank and math.prod(x.shape[axis + 1 :]) == 1:
            return call.emit(ops.Softmax(axis, log), x)
        flat = call.builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), None if axis else 1)
        return call.builder.reshape(call.emit(ops.Softmax(1, log), flat), x.shape)

    return convert


def _check_image(shape: Shape) -> None:
    if len(shape) < 3:
        raise InvalidModel(f"the input {shape} must have a rank of at least 3")


CONVERTERS: Converters = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "LayerNormalization": layer_normalization,
    "LRN": lrn,
    "Softmax": softmax(log=False),
    "LogSoftmax": softmax(log=True),
}
