"""Functions of two values, element by element with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

from waterline.frontends.torch.builder import Builder, Unsupported, Value

Operand = Value | float


def plain(kind: str) -> Callable[..., Value]:
    def convert(b: Builder, x: Operand, y: Operand) -> Value:
        return b.binary(kind, x, y)

    return convert


def _scaled(b: Builder, x: Operand, factor: float) -> Operand:
    if factor == 1:
        return x
    return b.binary("mul", x, factor) if isinstance(x, Value) else x * factor


def add(b: Builder, x: Operand, y: Operand, alpha: float = 1) -> Value:
    return b.binary("add", x, _scaled(b, y, alpha))


def sub(b: Builder, x: Operand, y: Operand, alpha: float = 1) -> Value:
    return b.binary("sub", x, _scaled(b, y, alpha))


def rsub(b: Builder, x: Operand, y: Operand, alpha: float = 1) -> Value:
    return sub(b, y, x, alpha)


def divide(b: Builder, x: Operand, y: Operand, rounding_mode: str | None = None) -> Value:
    quotient = b.binary("div", x, y)
    if rounding_mode is None:
        return quotient
    if rounding_mode != "floor":
        raise Unsupported(f"rounding_mode {rounding_mode!r}")
    return b.unary("floor", quotient)


def addcmul(b: Builder, x: Value, y: Value, z: Value, value: float) -> Value:
    return add(b, x, b.binary("mul", y, z), value)


def addcdiv(b: Builder, x: Value, y: Value, z: Value, value: float) -> Value:
    return add(b, x, b.binary("div", y, z), value)


def lerp(b: Builder, x: Value, end: Value, weight: Operand) -> Value:
    return b.binary("add", x, b.binary("mul", b.binary("sub", end, x), weight))


CONVERTERS: dict[str, Callable] = {
    "add.Tensor": add,
    "add.Scalar": add,
    "sub.Tensor": sub,
    "sub.Scalar": sub,
    "rsub.Tensor": rsub,
    "rsub.Scalar": rsub,
    "mul.Tensor": plain("mul"),
    "mul.Scalar": plain("mul"),
    "div.Tensor": divide,
    "div.Scalar": divide,
    "div.Tensor_mode": divide,
    "div.Scalar_mode": divide,
    "true_divide.Tensor": divide,
    "maximum.default": plain("max"),
    "max.other": plain("max"),
    "minimum.default": plain("min"),
    "min.other": plain("min"),
    "addcmul.default": addcmul,
    "addcdiv.default": addcdiv,
    "lerp.Scalar": lerp,
    "lerp.Tensor": lerp,
}
