"""Windows and whole images reduced to a number."""

from __future__ import annotations

import math

from waterline.errors import InvalidModel
from waterline.frontends.onnx.call import Call, Converter, Converters
from waterline.frontends.onnx.values import Constant, Tensor, Value
from waterline.frontends.onnx.window import check_rank, lift, lower, read_window
from waterline.graph import ops
from waterline.spec import Activation


def pool(kind: str) -> Converter:
    """MaxPool, AveragePool and LpPool."""

    def convert(call: Call) -> Value:
        call.refuse_outputs(1, "Indices")
        x = call.value(0)
        check_rank(x.shape, "the input")
        kernel = call.attributes.integers("kernel_shape")
        if not kernel:
            raise InvalidModel("the attribute kernel_shape is missing")
        window = read_window(call, kernel, x.shape)
        op = ops.Pool(
            kind,
            window.kernel,
            window.stride,
            window.pad,
            window.dilation,
            bool(call.attributes.integer("ceil_mode", 0)),
            bool(call.attributes.integer("count_include_pad", 0)),
            _norm(call),
        )
        return lower(call, call.emit(op, lift(call, x)), len(x.shape))

    return convert


def global_pool(kind: str) -> Converter:
    """GlobalMaxPool and GlobalAveragePool, for any number of spatial dimensions."""

    def convert(call: Call) -> Value:
        x = call.value(0)
        axes = _spatial_axes(x)
        if len(axes) > 2:
            return call.emit(ops.Reduce("mean" if kind == "average" else kind, axes), x)
        return lower(call, call.emit(ops.AdaptivePool(kind), lift(call, x)), len(x.shape))

    return convert


def global_lp_pool(call: Call) -> Value:
    """(sum |x|^p)^(1/p) over space."""
    x, p = call.value(0), _norm(call)
    axes = _spatial_axes(x)
    if p == 2:
        return call.emit(ops.Reduce("l2", axes), x)
    size = call.emit(ops.Unary(Activation("abs")), x)
    if p == 1:
        return call.emit(ops.Reduce("sum", axes), size)
    total = call.emit(ops.Reduce("sum", axes), call.emit(ops.Binary("pow"), size, call.builder.constant(p)))
    return call.emit(ops.Binary("pow"), total, call.builder.constant(1 / p))


def _norm(call: Call) -> int:
    p = call.attributes.integer("p", 2)
    if p < 1:
        raise InvalidModel(f"p is {p}, at least 1 is expected")
    return p


def _spatial_axes(x: Constant | Tensor) -> tuple[int, ...]:
    if len(x.shape) < 3:
        raise InvalidModel(f"the input {x.shape} must have a rank of at least 3")
    if math.prod(x.shape[2:]) == 0:
        raise InvalidModel(f"there is nothing to pool in {x.shape}")
    return tuple(range(2, len(x.shape)))


CONVERTERS: Converters = {
    "MaxPool": pool("max"),
    "AveragePool": pool("average"),
    "LpPool": pool("lp"),
    "GlobalMaxPool": global_pool("max"),
    "GlobalAveragePool": global_pool("average"),
    "GlobalLpPool": global_lp_pool,
}
