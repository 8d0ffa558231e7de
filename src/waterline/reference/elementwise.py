"""Activations and arithmetic, element by element. NaN and infinity propagate as IEEE 754 says.

`np.maximum`, `np.minimum` and `np.clip` return NaN where either side is NaN, as PyTorch and ONNX want it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from waterline.graph.ops import Binary, PRelu, Unary
from waterline.reference.special import erf
from waterline.spec import Activation

Array = np.ndarray
GELU_TANH_CUBIC = 0.044715  # the coefficient of x^3 in Hendrycks and Gimpel's approximation (2016)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))  # exp overflows to infinity for x < -709, and the quotient is the right zero


def softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(alpha * x + beta, 0, 1)


def elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + GELU_TANH_CUBIC * x**3)))


ACTIVATION_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x, alpha: np.where(x > 0, x, alpha * x),
    "clip": lambda x, low, high: np.clip(x, low, high),
    "sigmoid": sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda x: x * hard_sigmoid(x, 1 / 6, 1 / 2),
    "silu": lambda x: x * sigmoid(x),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "tanh": np.tanh,
    "elu": elu,
    "selu": lambda x, alpha, gamma: gamma * elu(x, alpha),
    "softplus": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "mish": lambda x: x * np.tanh(softplus(x)),
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "erf": erf,
    "abs": np.abs,
    "neg": np.negative,
    "reciprocal": lambda x: 1 / x,
    "floor": np.floor,
    "ceil": np.ceil,
    "square": np.square,
}

BINARY_FUNCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
}


def activate(function: Activation | None, x: Array) -> Array:
    """`function` of every element; None is the identity."""
    return x if function is None else ACTIVATION_FUNCTIONS[function.kind](x, *function.params)


def unary(op: Unary, x: Array) -> Array:
    return activate(op.function, x)


def binary(op: Binary, a: Array, b: Array) -> Array:
    return activate(op.after, BINARY_FUNCTIONS[op.kind](a, b))


def prelu(op: PRelu, x: Array, slope: Array) -> Array:
    return np.where(x > 0, x, slope * x)
