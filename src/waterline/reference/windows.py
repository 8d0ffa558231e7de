"""Pooling and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from waterline.graph.ops import AdaptivePool, Pool, Reduce
from waterline.reference.convolution import reach

Array = np.ndarray
REDUCTIONS: dict[str, Callable[..., Array]] = {
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "min": np.min,
    "l2": lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis, keepdims=keepdims)),
}


def pool(op: Pool, x: Array) -> Array:
    """The loop over window positions; a position touches the outputs that it reaches inside the image."""
    p, q = op.infer([x.shape])[0][2:]
    y = np.full((*x.shape[:2], p, q), -np.inf if op.kind == "max" else 0.0)
    for r in range(op.kernel[0]):
        rows, from_rows = reach(p, op.stride[0], r * op.dilation[0] - op.pad[0], x.shape[2])
        for s in range(op.kernel[1]):
            columns, from_columns = reach(q, op.stride[1], s * op.dilation[1] - op.pad[1], x.shape[3])
            values = x[:, :, from_rows, from_columns]
            if op.kind == "max":
                y[:, :, rows, columns] = np.maximum(y[:, :, rows, columns], values)
            else:
                y[:, :, rows, columns] += np.abs(values) ** op.norm if op.kind == "lp" else values
    if op.kind == "lp":
        return y ** (1 / op.norm)
    if op.kind == "average":
        y /= np.multiply.outer(count_elements(op, 0, p, x.shape[2]), count_elements(op, 1, q, x.shape[3]))
    return y


def count_elements(op: Pool, axis: int, count: int, size: int) -> Array:
    """For each of `count` windows along a spatial axis: its elements inside the image, or inside the padded image.

    A window that `ceil_mode` lets hang over the padded image's end is cut there (PyTorch's and ONNX's rule).
    """
    starts = np.arange(count)[:, None] * op.stride[axis] - op.pad[axis]
    positions = starts + np.arange(op.kernel[axis]) * op.dilation[axis]
    before, after = (op.pad[axis], op.pad[axis + 2]) if op.count_include_pad else (0, 0)
    return ((positions >= -before) & (positions < size + after)).sum(1)


def adaptive_pool(op: AdaptivePool, x: Array) -> Array:
    reduce = np.max if op.kind == "max" else np.mean
    (p, q), (h, w) = op.size, x.shape[2:]
    y = np.empty((*x.shape[:2], p, q))
    for i in range(p):
        rows = x[:, :, i * h // p : -(-(i + 1) * h // p)]
        for j in range(q):
            y[:, :, i, j] = reduce(rows[..., j * w // q : -(-(j + 1) * w // q)], axis=(2, 3))
    return y


def reduce(op: Reduce, x: Array) -> Array:
    return REDUCTIONS[op.kind](x, axis=op.axes, keepdims=op.keepdims)
