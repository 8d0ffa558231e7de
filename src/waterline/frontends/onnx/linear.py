"""Matrix products: Gemm and MatMul."""

from __future__ import annotations

import numpy as np

from waterline.errors import InvalidModel
from waterline.frontends.onnx.call import Call, Converters
from waterline.frontends.onnx.values import Constant, Tensor, Value
from waterline.graph import ops
from waterline.spec import Epilogue


def matmul(call: Call) -> Value:
    """A constant matrix on the right is a fully connected layer."""
    a, b = call.value(0), call.value(1)
    if isinstance(a, Tensor) and isinstance(b, Constant) and len(b.shape) == 2:
        return call.emit(ops.Linear(), a, _transposed(b))
    return call.emit(ops.MatMul(), a, b)


def gemm(call: Call) -> Value:
    """alpha A' B' + beta C. With constant B, the factors and C are folded into a layer's weight and bias."""
    attributes = call.attributes
    a, b = call.value(0), call.value(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise InvalidModel(f"A {a.shape} and B {b.shape} must be matrices")
    alpha, beta = attributes.number("alpha", 1.0), attributes.number("beta", 1.0)
    if attributes.integer("transA", 0):
        a = call.emit(ops.Transpose((1, 0)), a)
    trans_b = bool(attributes.integer("transB", 0))
    if isinstance(b, Constant) and isinstance(a, Tensor):
        weight = _scaled(b if trans_b else _transposed(b), alpha)
        bias = _bias(call, beta, weight.shape[0])
        if bias is not None:
            return call.emit(ops.Linear(Epilogue(bias=True)), a, weight, bias)
        product = call.emit(ops.Linear(), a, weight)
    else:
        if trans_b:
            b = call.emit(ops.Transpose((1, 0)), b)
        product = _times(call, call.emit(ops.MatMul(), a, b), alpha)
    return call.emit(ops.Binary("add"), product, _times(call, call.value(2), beta)) if call.has(2) else product


def _bias(call: Call, beta: float, k: int) -> Constant | None:
    """beta C as a vector of k elements, if C is a constant that is the same for every row."""
    c = call.value(2) if call.has(2) else None
    if not isinstance(c, Constant) or c.shape not in ((), (1,), (k,), (1, 1), (1, k)):
        return None
    return _scaled(Constant(np.broadcast_to(c.array.reshape(c.shape[-1:]), (k,)), c.name), beta)


def _scaled(value: Constant, factor: float) -> Constant:
    if factor == 1.0:
        return value
    return Constant(value.array.astype(np.float32) * np.float32(factor), value.name)


def _transposed(value: Constant) -> Constant:
    """A view: whoever packs the weights reads it in the order it needs."""
    return Constant(value.array.T, value.name)


def _times(call: Call, value: Constant | Tensor, factor: float) -> Constant | Tensor:
    return value if factor == 1.0 else call.emit(ops.Binary("mul"), value, call.builder.constant(factor))


CONVERTERS: Converters = {"MatMul": matmul, "Gemm": gemm}
