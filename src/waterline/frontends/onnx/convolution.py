"""Conv and ConvTranspose."""

from __future__ import annotations

from waterline.errors import InvalidModel
from waterline.frontends.onnx.call import Call, Converters
from waterline.frontends.onnx.values import Value
from waterline.frontends.onnx.window import Window, check_rank, kernel_attribute, lift, lower, read_window
from waterline.graph import ops
from waterline.spec import Epilogue


def conv(call: Call) -> Value:
    x, weight = call.value(0), call.value(1)
    _check_ranks(x.shape, weight.shape)
    window = read_window(call, kernel_attribute(call, weight.shape), x.shape)
    bias = [call.value(2)] if call.has(2) else []
    op = ops.Conv(
        window.stride,
        window.pad,
        window.dilation,
        _groups(call),
        Epilogue(bias=bool(bias)),
    )
    return lower(call, call.emit(op, lift(call, x), lift(call, weight), *bias), len(x.shape))


def conv_transpose(call: Call) -> Value:
    x, weight = call.value(0), call.value(1)
    _check_ranks(x.shape, weight.shape)
    rank = len(x.shape) - 2
    kernel = kernel_attribute(call, weight.shape)
    extra = call.attributes.integers("output_padding", (0,) * rank)
    if len(extra) != rank or min(extra) < 0:
        raise InvalidModel(f"output_padding {extra}: {rank} numbers that are not negative are expected")
    window = read_window(call, kernel, x.shape)
    output_pad = (0, extra[0]) if rank == 1 else (extra[0], extra[1])
    window, output_pad = _sized(call, window, output_pad, x.shape)
    bias = [call.value(2)] if call.has(2) else []
    op = ops.ConvTranspose(window.stride, window.pad, output_pad, window.dilation, _groups(call), bool(bias))
    return lower(call, call.emit(op, lift(call, x), lift(call, weight), *bias), len(x.shape))


def _sized(
    call: Call, window: Window, output_pad: tuple[int, int], x: tuple[int, ...]
) -> tuple[Window, tuple[int, int]]:
    """Pads from the output's size, where `output_shape` or `auto_pad` SAME fixes that instead of the pads."""
    auto = call.attributes.text("auto_pad", "NOTSET")
    rank = len(x) - 2
    wanted = call.attributes.integers("output_shape")
    if not wanted and not auto.startswith("SAME"):
        return window, output_pad
    if not wanted:
        wanted = tuple(n * s for n, s in zip(x[2:], window.stride[-rank:], strict=True))
    wanted = wanted[-rank:]  # some exporters list batch and channels, too
    if len(wanted) != rank:
        raise InvalidModel(f"output_shape {wanted}: {rank} numbers are expected")
    if rank == 1:
        wanted = (1, *wanted)
    size = (1, x[2]) if rank == 1 else x[2:]
    begin, end, extra = [0, 0], [0, 0], list(output_pad)
    for i in (0, 1):
        reach = window.dilation[i] * (window.kernel[i] - 1) + 1
        total = window.stride[i] * (size[i] - 1) + extra[i] + reach - wanted[i]
        extra[i] += max(-total, 0)  # longer than the sum of all windows: rows that nothing reaches
        small, large = max(total, 0) // 2, max(total, 0) - max(total, 0) // 2
        begin[i], end[i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    pad = (begin[0], begin[1], end[0], end[1])
    return Window(window.kernel, window.stride, pad, window.dilation), (extra[0], extra[1])


def _groups(call: Call) -> int:
    groups = call.attributes.integer("group", 1)
    if groups < 1:
        raise InvalidModel(f"group is {groups}, at least 1 is expected")
    return groups


def _check_ranks(x: tuple[int, ...], weight: tuple[int, ...]) -> None:
    check_rank(x, "the input")
    if len(weight) != len(x):
        raise InvalidModel(f"input {x} and weights {weight} must have the same rank")


CONVERTERS: Converters = {"Conv": conv, "ConvTranspose": conv_transpose}
