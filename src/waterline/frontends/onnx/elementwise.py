"""Operators that treat every element alike: activations and arithmetic with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from waterline.errors import InvalidModel
from waterline.frontends.onnx.attributes import Attributes
from waterline.frontends.onnx.call import Call, Converter, Converters, positive_axis
from waterline.frontends.onnx.values import Constant, RefusalError, Tensor, Value
from waterline.graph import ops
from waterline.spec import Activation

# What an operator's attributes make of it. Defaults are the ONNX specification's.
ACTIVATIONS: dict[str, Callable[[Attributes], Activation]] = {
    "LeakyRelu": lambda a: Activation("leaky_relu", (a.number("alpha", 0.01),)),
    "HardSigmoid": lambda a: Activation("hard_sigmoid", (a.number("alpha", 0.2), a.number("beta", 0.5))),
    "Elu": lambda a: Activation("elu", (a.number("alpha", 1.0),)),
    "Selu": lambda a: Activation(
        "selu", (a.number("alpha", 1.67326319217681884765625), a.number("gamma", 1.05070102214813232421875))
    ),
}
PLAIN = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "HardSwish": "hard_swish",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Mish": "mish",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Erf": "erf",
    "Abs": "abs",
    "Neg": "neg",
    "Reciprocal": "reciprocal",
    "Floor": "floor",
    "Ceil": "ceil",
}


def unary(kind: str) -> Converter:
    return lambda call: call.emit(ops.Unary(Activation(kind)), call.value(0))


def activation(kind: str) -> Converter:
    return lambda call: call.emit(ops.Unary(ACTIVATIONS[kind](call.attributes)), call.value(0))


def gelu(call: Call) -> Value:
    approximate = call.attributes.text("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise InvalidModel(f"approximate {approximate!r} is neither 'none' nor 'tanh'")
    return call.emit(ops.Unary(Activation("gelu" if approximate == "none" else "gelu_tanh")), call.value(0))


def swish(call: Call) -> Value:
    """x sigmoid(alpha x)."""
    x, alpha = call.value(0), call.attributes.number("alpha", 1.0)
    if alpha == 1.0:
        return call.emit(ops.Unary(Activation("silu")), x)
    scaled = call.emit(ops.Binary("mul"), x, call.builder.constant(alpha))
    return call.emit(ops.Binary("mul"), x, call.emit(ops.Unary(Activation("sigmoid")), scaled))


def celu(call: Call) -> Value:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1)), which is alpha elu(x / alpha)."""
    x, alpha = call.value(0), call.attributes.number("alpha", 1.0)
    if alpha == 1.0:
        return call.emit(ops.Unary(Activation("elu", (1.0,))), x)
    shrunk = call.emit(ops.Binary("div"), x, call.builder.constant(alpha))
    return call.emit(
        ops.Binary("mul"), call.emit(ops.Unary(Activation("elu", (1.0,))), shrunk), call.builder.constant(alpha)
    )


def clip(call: Call) -> Value:
    """Bounds are attributes before opset 11; later inputs, either of which may be missing."""
    x = call.value(0)
    if call.opset < 11:
        low, high = call.attributes.number("min", -math.inf), call.attributes.number("max", math.inf)
        return call.emit(ops.Unary(Activation("clip", (low, high))), x)
    bounds = [call.value(i) if call.has(i) else None for i in (1, 2)]
    if all(bound is None or isinstance(bound, Constant) for bound in bounds) and isinstance(x, Tensor):
        low = -math.inf if bounds[0] is None else call.number(1)
        high = math.inf if bounds[1] is None else call.number(2)
        return call.emit(ops.Unary(Activation("clip", (low, high))), x)
    for kind, bound in zip(("max", "min"), bounds, strict=True):
        x = x if bound is None else call.emit(ops.Binary(kind), x, bound)
    return x


def prelu(call: Call) -> Value:
    x, slope = call.value(0), call.value(1)
    if call.opset < 7 and len(slope.shape) == 1 and slope.shape[0] > 1:
        slope = call.builder.reshape(slope, (*slope.shape, *(1,) * (len(x.shape) - 2)))
    return call.emit(ops.PRelu(), x, slope)


# ---- arithmetic -----------------------------------------------------------------------------------------------------
def binary(kind: str) -> Converter:
    def convert(call: Call) -> Value:
        a, b = call.value(0), call.value(1)
        return call.emit(ops.Binary(kind), a, old_broadcast(call, a, b))

    return convert


def old_broadcast(call: Call, a: Constant | Tensor, b: Constant | Tensor) -> Constant | Tensor:
    """Before opset 7, b is aligned with a's axes from `axis` on, if `broadcast` is set."""
    if call.opset >= 7 or not call.attributes.integer("broadcast", 0) or "axis" not in call.attributes:
        return b
    axis = positive_axis(call.attributes.integer("axis", 0), len(a.shape))
    after = len(a.shape) - axis - len(b.shape)
    if after < 0:
        raise InvalidModel(f"{b.shape} does not fit into {a.shape} from axis {axis} on")
    return call.builder.reshape(b, b.shape + (1,) * after)


def power(call: Call) -> Value:
    """Squares and roots have instructions of their own."""
    x, exponent = call.value(0), call.value(1)
    if isinstance(x, Tensor) and isinstance(exponent, Constant) and exponent.shape in ((), (1,)) and x.shape:
        value = call.number(1)
        if value in (0.5, 2.0):
            return call.emit(ops.Unary(Activation("square" if value == 2.0 else "sqrt")), x)
    return call.emit(ops.Binary("pow"), x, old_broadcast(call, x, exponent))


def variadic(kind: str) -> Converter:
    def convert(call: Call) -> Value:
        total, *rest = call.values()
        for value in rest:
            total = call.emit(ops.Binary(kind), total, value)
        return total

    return convert


def mean(call: Call) -> Value:
    values = call.values()
    return call.emit(ops.Binary("mul"), variadic("add")(call), call.builder.constant(1 / len(values)))


# ---- types ----------------------------------------------------------------------------------------------------------
def identity(call: Call) -> Value:
    return call.value(0)


def dropout(call: Call) -> list[Value]:
    """Inference: the input, and a mask that keeps everything."""
    training = call.opset >= 12 and call.has(2) and bool(call.number(2))
    if training and (not call.has(1) or call.number(1) != 0):
        raise RefusalError("training_mode is set")
    x = call.value(0)
    return [x, Constant(np.broadcast_to(np.True_, x.shape))]


CONVERTERS: Converters = {
    **{operator: unary(kind) for operator, kind in PLAIN.items()},
    **{operator: activation(operator) for operator in ACTIVATIONS},
    "Gelu": gelu,
    "Swish": swish,
    "Celu": celu,
    "Clip": clip,
    "PRelu": prelu,
    "Add": binary("add"),
    "Sub": binary("sub"),
    "Mul": binary("mul"),
    "Div": binary("div"),
    "Pow": power,
    "Max": variadic("max"),
    "Min": variadic("min"),
    "Sum": variadic("add"),
    "Mean": mean,
    "Identity": identity,
    "Dropout": dropout,
}
