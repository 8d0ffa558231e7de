"""Reductions over chosen axes."""

from __future__ import annotations

from waterline.frontends.onnx.call import Call, Converter, Converters, positive_axes
from waterline.frontends.onnx.values import Value
from waterline.graph import ops
from waterline.spec import Activation


def reduce(kind: str, since: int, before: str = "", after: str = "") -> Converter:
    """A reduction, with an activation applied to its input or its result.

    Args:
        since: the opset from which on the axes are an input.
    """

    def convert(call: Call) -> Value:
        x = call.value(0)
        axes = call.axes("axes", 1, since)
        if not axes and call.attributes.integer("noop_with_empty_axes", 0):
            axes = ()
        else:
            axes = positive_axes(axes or range(len(x.shape)), len(x.shape))
        if before:
            x = call.emit(ops.Unary(Activation(before)), x)
        if axes or kind == "l2":
            x = call.emit(ops.Reduce(kind, axes, bool(call.attributes.integer("keepdims", 1))), x)
        return call.emit(ops.Unary(Activation(after)), x) if after else x

    return convert


CONVERTERS: Converters = {
    "ReduceMean": reduce("mean", 18),
    "ReduceSum": reduce("sum", 13),
    "ReduceMax": reduce("max", 18),
    "ReduceMin": reduce("min", 18),
    "ReduceL1": reduce("sum", 18, before="abs"),
    "ReduceL2": reduce("l2", 18),
    "ReduceSumSquare": reduce("sum", 18, before="square"),
    "ReduceLogSum": reduce("sum", 18, after="log"),
}
