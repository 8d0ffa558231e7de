"""Reductions over chosen axes."""

from __future__ import annotations

from waterline.frontends.onnx.call import Call, Converter, Converters, positive_axes
from waterline.frontends.onnx.values import Value
from waterline.graph import ops
from waterline.spec import Activation

LARGEST = 3.4028234663852886e38  # of float32


def reduce(kind: str, since: int, before: str = "", after: str = "") -> Converter:
    """A reduction, with an activation applied to its input or its result.

    Args:
        since: the opset from which on the axes are an input.
    """

    def convert(call: Call) -> Value:
        x, axes, keepdims = _reduced(call, since)
        if before:
            x = call.emit(ops.Unary(Activation(before)), x)
        if axes or kind == "l2":
            x = call.emit(ops.Reduce(kind, axes, keepdims), x)
        return call.emit(ops.Unary(Activation(after)), x) if after else x

    return convert


def _reduced(call: Call, since: int) -> tuple[Value, tuple[int, ...], bool]:
    """The input, the axes of a reduction, all of them where none are named, and whether these are kept with size 1."""
    x = call.value(0)
    axes = call.axes("axes", 1, since)
    if not axes and call.attributes.integer("noop_with_empty_axes", 0):
        axes = ()
    else:
        axes = positive_axes(axes or range(len(x.shape)), len(x.shape))
    return x, axes, bool(call.attributes.integer("keepdims", 1))


def log_sum_exp(call: Call) -> Value:
    """log(sum(exp(x - m))) + m with the maximum m, so that nothing overflows.

    Infinite maxima are taken as the largest number: infinity minus infinity would be NaN.
    """
    x, axes, keepdims = _reduced(call, 18)
    if not axes:
        return x
    most = call.emit(ops.Reduce("max", axes), x)
    most = call.emit(ops.Unary(Activation("clip", (-LARGEST, LARGEST))), most)
    powers = call.emit(ops.Unary(Activation("exp")), call.emit(ops.Binary("sub"), x, most))
    logs = call.emit(ops.Unary(Activation("log")), call.emit(ops.Reduce("sum", axes), powers))
    kept = call.emit(ops.Binary("add"), logs, most)
    # The axes have size 1 by now, so this reduction drops them and nothing else.
    return kept if keepdims else call.emit(ops.Reduce("max", axes, False), kept)


CONVERTERS: Converters = {
    "ReduceMean": reduce("mean", 18),
    "ReduceSum": reduce("sum", 13),
    "ReduceMax": reduce("max", 18),
    "ReduceMin": reduce("min", 18),
    "ReduceL1": reduce("sum", 18, before="abs"),
    "ReduceL2": reduce("l2", 18),
    "ReduceSumSquare": reduce("sum", 18, before="square"),
    "ReduceLogSum": reduce("sum", 18, after="log"),
    "ReduceLogSumExp": log_sum_exp,
}
