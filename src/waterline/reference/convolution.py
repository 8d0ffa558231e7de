"""Convolutions and matrix products: the loop over filter taps, each tap a matrix product on a strided view.

Only the outputs that a tap reaches inside the image are touched, so padding contributes nothing at all: not even
`0 x infinity`.
"""

from __future__ import annotations

import numpy as np

from waterline.errors import InvalidArgument
from waterline.graph.ops import Conv, ConvTranspose, Linear, MatMul
from waterline.reference.elementwise import activate
from waterline.spec import ConvSpec, Epilogue

Array = np.ndarray


def reach(count: int, stride: int, offset: int, size: int) -> tuple[slice, slice]:
    """The indices i of `range(count)` whose position `i * stride + offset` lies in `range(size)`, and the positions."""
    first = max(0, -(offset // stride))
    last = min(count, (size - 1 - offset) // stride + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    start = first * stride + offset
    return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)


def multiply_groups(weight: Array, x: Array) -> Array:
    """weight (G, K/g, C/g) times x (N, C, P, Q), group by group -> (N, K, P, Q)."""
    groups, group_k, group_c = weight.shape
    n, _, p, q = x.shape
    return np.matmul(weight, x.reshape(n, groups, group_c, p * q)).reshape(n, groups * group_k, p, q)


def upsample(x: Array, steps: tuple[int, int]) -> Array:
    """x with `steps` minus one zeros between neighbours along H and W."""
    if steps == (1, 1):
        return x
    n, c, h, w = x.shape
    y = np.zeros((n, c, (h - 1) * steps[0] + 1, (w - 1) * steps[1] + 1))
    y[:, :, :: steps[0], :: steps[1]] = x
    return y


def correlate(x: Array, weight: Array, spec: ConvSpec) -> Array:
    """The bare sum of `spec`, without its epilogue: x (N,C,H,W), weight (K,C/g,R,S) -> (N,K,P,Q)."""
    x = upsample(x, spec.upsample)
    y = np.zeros((x.shape[0], spec.k, spec.p, spec.q))
    grouped = weight.reshape(spec.groups, spec.group_k, spec.group_c, spec.r, spec.s)
    for r in range(spec.r):
        rows, from_rows = reach(spec.p, spec.stride[0], r * spec.dilation[0] - spec.pad[0], x.shape[2])
        for s in range(spec.s):
            columns, from_columns = reach(spec.q, spec.stride[1], s * spec.dilation[1] - spec.pad[1], x.shape[3])
            y[:, :, rows, columns] += multiply_groups(grouped[..., r, s], x[:, :, from_rows, from_columns])
    return y


def apply_epilogue(epilogue: Epilogue, y: Array, bias: Array | None, residual: Array | None) -> Array:
    """Bias (broadcast to y), `before`, residual, `after`: in this order."""
    if bias is not None:
        y = y + bias
    y = activate(epilogue.before, y)
    if residual is not None:
        y = y + residual
    return activate(epilogue.after, y)


def split_epilogue(epilogue: Epilogue, rest: tuple[Array, ...]) -> tuple[Array | None, Array | None]:
    """The bias and the residual among the inputs that follow x and weight."""
    return (rest[0] if epilogue.bias else None), (rest[-1] if epilogue.residual else None)


def conv2d(x: Array, weight: Array, bias: Array | None, spec: ConvSpec, residual: Array | None = None) -> Array:
    """The convolution that `spec` describes, with its epilogue, in float64.

    Args:
        x: (N, C, H, W). weight: (K, C/g, R, S). bias: (K,) or None. residual: (N, K, P, Q) or None.

    Returns:
        (N, K, P, Q).

    Raises:
        InvalidArgument: an array has not the shape that `spec` says, or the epilogue wants one that is absent.
    """
    shapes = {
        "x": (x, (spec.n, spec.c, spec.h, spec.w), True),
        "weight": (weight, (spec.k, spec.group_c, spec.r, spec.s), True),
        "bias": (bias, (spec.k,), spec.epilogue.bias),
        "residual": (residual, (spec.n, spec.k, spec.p, spec.q), spec.epilogue.residual),
    }
    for name, (array, shape, wanted) in shapes.items():
        if (array is None and wanted) or (array is not None and array.shape != shape):
            raise InvalidArgument(
                f"{name} of {spec.id} must have the shape {shape}, got {getattr(array, 'shape', None)}"
            )
    with np.errstate(all="ignore"):
        y = correlate(np.asarray(x, np.float64), np.asarray(weight, np.float64), spec)
        shift = None if bias is None else np.asarray(bias, np.float64)[:, None, None]
        return apply_epilogue(spec.epilogue, y, shift, residual)


def conv(op: Conv, x: Array, weight: Array, *rest: Array) -> Array:
    bias, residual = split_epilogue(op.epilogue, rest)
    return conv2d(x, weight, bias, op.spec(x.shape, weight.shape), residual)


def conv_transpose(op: ConvTranspose, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Input pixel (h, w) adds its product with tap (r, s) to the output at (h*sh + r*dh - top, w*sw + s*dw - left)."""
    shapes = [x.shape, weight.shape] + ([] if bias is None else [bias.shape])
    n, k, p, q = op.infer(shapes)[0]
    c, group_k, taps_r, taps_s = weight.shape
    grouped = weight.reshape(op.groups, c // op.groups, group_k, taps_r, taps_s).swapaxes(1, 2)
    y = np.zeros((n, k, p, q))
    for r in range(taps_r):
        from_rows, rows = reach(x.shape[2], op.stride[0], r * op.dilation[0] - op.pad[0], p)
        for s in range(taps_s):
            from_columns, columns = reach(x.shape[3], op.stride[1], s * op.dilation[1] - op.pad[1], q)
            y[:, :, rows, columns] += multiply_groups(grouped[..., r, s], x[:, :, from_rows, from_columns])
    return y if bias is None else y + bias[:, None, None]


def linear(op: Linear, x: Array, weight: Array, *rest: Array) -> Array:
    bias, residual = split_epilogue(op.epilogue, rest)
    return apply_epilogue(op.epilogue, np.matmul(x, weight.T), bias, residual)


def matmul(op: MatMul, a: Array, b: Array) -> Array:
    return np.matmul(a, b)
