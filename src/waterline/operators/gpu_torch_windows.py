"""Pooling and reductions by PyTorch's operators, for `gpu_torch`; sums are in f32, and so are their results."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from waterline.errors import InvalidArgument
from waterline.graph.ops import AdaptivePool, Pool, Reduce
from waterline.reference.windows import count_elements


def pool(op: Pool, x: Tensor) -> Tensor:
    """A reduction of the windows, which are views of the padded image: (N, C, P, Q, R, S)."""
    size = op.infer([tuple(x.shape)])[0][2:]
    if op.kind == "lp":
        x = x.float().abs() ** op.norm
    margins: list[int] = []  # left, right, top, bottom; negative where no window reaches the end of the image
    reach = [op.dilation[i] * (op.kernel[i] - 1) + 1 for i in (0, 1)]
    for i in (1, 0):
        covered = (size[i] - 1) * op.stride[i] + reach[i]
        margins += [op.pad[i], covered - op.pad[i] - x.shape[2 + i]]
    padded = functional.pad(x, margins, value=-torch.inf if op.kind == "max" else 0.0)
    windows = padded.unfold(2, reach[0], op.stride[0]).unfold(3, reach[1], op.stride[1])
    windows = windows[..., :: op.dilation[0], :: op.dilation[1]]
    if op.kind == "max":
        return windows.amax((4, 5))
    total = windows.sum((4, 5), dtype=torch.float32)
    if op.kind == "lp":
        return total ** (1 / op.norm)
    return total / window_counts(op, (x.shape[2], x.shape[3]), (size[0], size[1]), x.device)


@cache
def window_counts(op: Pool, image: tuple[int, int], size: tuple[int, int], device: torch.device) -> Tensor:
    """(P, Q): what an average divides by."""
    rows, columns = (count_elements(op, i, size[i], image[i]) for i in (0, 1))
    return torch.from_numpy(np.multiply.outer(rows, columns).astype(np.float32)).to(device)


def adaptive_pool(op: AdaptivePool, x: Tensor) -> Tensor:
    if op.kind == "max":
        return functional.adaptive_max_pool2d(x, op.size)
    return functional.adaptive_avg_pool2d(x.float(), op.size)


def reduce(op: Reduce, x: Tensor) -> Tensor:
    if not op.axes:  # PyTorch would reduce all of them
        return x.abs() if op.kind == "l2" else x
    match op.kind:
        case "mean":
            return x.mean(op.axes, op.keepdims, dtype=torch.float32)
        case "sum":
            return x.sum(op.axes, op.keepdims, dtype=torch.float32)
        case "l2":
            return x.float().square().sum(op.axes, op.keepdims).sqrt()
        case _:
            if x.numel() == 0:
                raise InvalidArgument(f"{op.name} over the axes {op.axes} of {tuple(x.shape)}: no element is there")
            return x.amax(op.axes, op.keepdims) if op.kind == "max" else x.amin(op.axes, op.keepdims)
