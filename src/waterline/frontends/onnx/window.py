"""`Window`: kernel, stride, padding and dilation of convolutions and pooling, always in two dimensions."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.errors import InvalidModel
from waterline.frontends.onnx.call import Call
from waterline.frontends.onnx.values import Constant, RefusalError, Tensor
from waterline.graph.ops import Shape

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """`pad` is (top, left, bottom, right)."""

    kernel: Pair
    stride: Pair
    pad: tuple[int, int, int, int]
    dilation: Pair


def read_window(call: Call, kernel: Shape, x: Shape) -> Window:
    """The window of a node over the spatial axes of x (N, C, L) or (N, C, H, W).

    Args:
        kernel: its size along those axes; from the weights or the attribute.

    Raises:
        InvalidModel: the attributes do not have one value (two for pads) for each axis, or make no sense.
    """
    rank = len(x) - 2
    attributes = call.attributes
    stride = attributes.integers("strides", (1,) * rank)
    dilation = attributes.integers("dilations", (1,) * rank)
    for name, values in (("kernel_shape", kernel), ("strides", stride), ("dilations", dilation)):
        if len(values) != rank or min(values) < 1:
            raise InvalidModel(f"{name} {tuple(values)}: {rank} positive numbers are expected")
    pads = _pads(call, kernel, stride, dilation, x[2:])
    if rank == 1:
        (k,), (s,), (d,) = kernel, stride, dilation
        return Window((1, k), (1, s), (0, pads[0], 0, pads[1]), (1, d))
    return Window(
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (pads[0], pads[1], pads[2], pads[3]),
        (dilation[0], dilation[1]),
    )


def _pads(call: Call, kernel: Shape, stride: Shape, dilation: Shape, size: Shape) -> tuple[int, ...]:
    """ONNX's order: every axis' beginning, then every axis' end."""
    auto = call.attributes.text("auto_pad", "NOTSET")
    rank = len(size)
    if auto == "NOTSET" or auto == "":
        pads = call.attributes.integers("pads", (0,) * 2 * rank)
        if len(pads) != 2 * rank:
            raise InvalidModel(f"pads {pads}: {2 * rank} numbers are expected")
        if min(pads) < 0:
            raise InvalidModel(f"pads {pads} must not be negative")
        return pads
    if auto == "VALID":
        return (0,) * 2 * rank
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise InvalidModel(f"auto_pad {auto!r} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    begin, end = [], []
    for k, s, d, n in zip(kernel, stride, dilation, size, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return (*begin, *end)


def kernel_attribute(call: Call, weight: Shape) -> Shape:
    """The filter's size from its weights; the attribute, if present, must agree."""
    kernel = weight[2:]
    given = call.attributes.integers("kernel_shape", kernel)
    if given != kernel:
        raise InvalidModel(f"kernel_shape {given} and weights {weight} disagree")
    return kernel


def check_rank(shape: Shape, what: str) -> None:
    """Raises RefusalError for three-dimensional images, InvalidModel for what is no image at all."""
    if len(shape) > 4:
        raise RefusalError(f"{what} {shape} has {len(shape) - 2} spatial dimensions; one and two are supported")
    if len(shape) < 3:
        raise InvalidModel(f"{what} {shape} must have a rank of at least 3")


def lift(call: Call, value: Constant | Tensor) -> Constant | Tensor:
    """(N, C, L) -> (N, C, 1, L); (N, C, H, W) stays."""
    n, c, *size = value.shape
    return call.builder.reshape(value, (n, c, 1, *size)) if len(size) == 1 else value


def lower(call: Call, value: Constant | Tensor, rank: int) -> Constant | Tensor:
    """(N, C, 1, L) -> (N, C, L) where the node's own tensors have the rank 3."""
    n, c, _, length = value.shape
    return call.builder.reshape(value, (n, c, length)) if rank == 3 else value
