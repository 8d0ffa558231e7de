"""Functions of one value."""

from __future__ import annotations

import math
from collections.abc import Callable

from waterline.frontends.torch.builder import Builder, Unsupported, Value
from waterline.frontends.torch.operators.axes import resolve
from waterline.graph.ops import PRelu, Slice, Softmax


def plain(kind: str, *params: float) -> Callable[..., Value]:
    """The converter of an operator without arguments."""

    def convert(b: Builder, x: Value) -> Value:
        return b.unary(kind, x, *params)

    return convert


def clamp(b: Builder, x: Value, low: Value | float | None = None, high: Value | float | None = None) -> Value:
    if isinstance(low, Value) or isinstance(high, Value):
        x = x if low is None else b.binary("max", x, low)
        return x if high is None else b.binary("min", x, high)
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if (low, high) == (0, math.inf):
        return b.unary("relu", x)
    return b.unary("clip", x, low, high)


def clamp_max(b: Builder, x: Value, high: Value | float) -> Value:
    return clamp(b, x, None, high)


def leaky_relu(b: Builder, x: Value, slope: float) -> Value:
    return b.unary("leaky_relu", x, slope)


def rrelu(b: Builder, x: Value, lower: float, upper: float, training: bool, generator: object) -> Value:
    if training:
        raise Unsupported("training mode")
    return b.unary("leaky_relu", x, (lower + upper) / 2)


def prelu(b: Builder, x: Value, slope: Value) -> Value:
    trailing = max(x.rank - 2, 0)
    return b.emit(PRelu(), x, b.reshape(slope, (slope.shape[0], *[1] * trailing) if slope.rank else ()))


def gelu(b: Builder, x: Value, approximate: str) -> Value:
    return b.unary("gelu_tanh" if approximate == "tanh" else "gelu", x)


def elu(b: Builder, x: Value, alpha: float, scale: float = 1, input_scale: float = 1) -> Value:
    """scale * (x if x > 0 else alpha (exp(input_scale x) - 1))."""
    if input_scale == 1:
        y = b.unary("elu", x, alpha)
    elif alpha * input_scale == 1:  # CELU
        y = b.binary("mul", b.unary("elu", b.binary("mul", x, input_scale), 1.0), alpha)
    else:
        raise Unsupported(f"alpha {alpha} and input_scale {input_scale}")
    return y if scale == 1 else b.binary("mul", y, scale)


def celu(b: Builder, x: Value, alpha: float) -> Value:
    if alpha == 1:
        return b.unary("elu", x, 1.0)
    return b.binary("mul", b.unary("elu", b.binary("div", x, alpha), 1.0), alpha)


def softplus(b: Builder, x: Value, beta: float, threshold: float) -> Value:
    """PyTorch returns x itself where beta x > threshold; from 20 on that differs by less than float32 resolves."""
    if threshold < 17:
        raise Unsupported(f"threshold {threshold}: the jump there is visible in float32")
    if beta == 1:
        return b.unary("softplus", x)
    return b.binary("div", b.unary("softplus", b.binary("mul", x, beta)), beta)


def log_sigmoid(b: Builder, x: Value) -> Value:
    return b.unary("neg", b.unary("softplus", b.unary("neg", x)))


def softshrink(b: Builder, x: Value, bound: float) -> Value:
    return b.binary("sub", x, b.unary("clip", x, -bound, bound))


def threshold(b: Builder, x: Value, bound: float, value: float) -> Value:
    if (bound, value) != (0, 0):
        raise Unsupported(f"threshold {bound} with value {value}; 0 and 0 are a relu")
    return b.unary("relu", x)


def glu(b: Builder, x: Value, dim: int) -> Value:
    axis = resolve(dim, x.rank)
    half = x.shape[axis] // 2
    first, second = (b.emit(Slice((axis,), (lo,), (hi,), (1,)), x) for lo, hi in ((0, half), (half, 2 * half)))
    return b.binary("mul", first, b.unary("sigmoid", second))


def power(b: Builder, x: Value | float, exponent: Value | float) -> Value:
    if isinstance(x, Value) and not isinstance(exponent, Value):
        if exponent == 1:
            return x
        if exponent in (2, 0.5, -1):
            return b.unary({2: "square", 0.5: "sqrt", -1: "reciprocal"}[exponent], x)
        if exponent == -0.5:
            return rsqrt(b, x)
    return b.binary("pow", x, exponent)


def rsqrt(b: Builder, x: Value) -> Value:
    return b.unary("reciprocal", b.unary("sqrt", x))


def softmax(b: Builder, x: Value, dim: int, dtype: object = None) -> Value:
    return b.emit(Softmax(resolve(dim, x.rank)), x)


def log_softmax(b: Builder, x: Value, dim: int, dtype: object = None) -> Value:
    return b.emit(Softmax(resolve(dim, x.rank), log=True), x)


CONVERTERS: dict[str, Callable] = {
    **{
        f"{name}.default": plain(name)
        for name in (
            *("relu", "sigmoid", "silu", "tanh", "mish"),
            *("exp", "log", "sqrt", "erf", "abs", "neg", "reciprocal", "floor", "ceil", "square"),
        )
    },
    "selu.default": plain("selu", 1.6732632423543772, 1.0507009873554805),
    "special_erf.default": plain("erf"),
    "relu6.default": plain("clip", 0, 6),
    "hardsigmoid.default": plain("hard_sigmoid", 1 / 6, 0.5),
    "hardswish.default": plain("hard_swish"),
    "hardtanh.default": clamp,
    "clamp.default": clamp,
    "clamp.Tensor": clamp,
    "clip.default": clamp,
    "clamp_min.default": clamp,
    "clamp_min.Tensor": clamp,
    "clamp_max.default": clamp_max,
    "clamp_max.Tensor": clamp_max,
    "leaky_relu.default": leaky_relu,
    "rrelu.default": rrelu,
    "prelu.default": prelu,
    "_prelu_kernel.default": lambda b, x, slope: b.emit(PRelu(), x, slope),
    "gelu.default": gelu,
    "elu.default": elu,
    "celu.default": celu,
    "softplus.default": softplus,
    "log_sigmoid.default": log_sigmoid,
    "softshrink.default": softshrink,
    "threshold.default": threshold,
    "glu.default": glu,
    "pow.Tensor_Scalar": power,
    "pow.Tensor_Tensor": power,
    "pow.Scalar": power,
    "rsqrt.default": rsqrt,
    "softmax.int": softmax,
    "_softmax.default": softmax,
    "log_softmax.int": log_softmax,
    "_log_softmax.default": log_softmax,
}
