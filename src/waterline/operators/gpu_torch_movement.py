"""Operations that move data, and resizing, by PyTorch's operators, for `gpu_torch`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from waterline.graph.ops import Concat, Pad, Resize, Slice
from waterline.reference.movement import coordinates, neighbours


def concatenate(op: Concat, parts: Sequence[Tensor], out: Tensor) -> None:
    start = 0
    for part in parts:
        out.narrow(op.axis, start, part.shape[op.axis]).copy_(part)
        start += part.shape[op.axis]


def take(op: Slice, x: Tensor) -> Tensor:
    """PyTorch's slices go forwards: what goes backwards is taken so and reversed."""
    ranges = op.ranges(tuple(x.shape))
    backwards = [axis for axis, kept in enumerate(ranges) if kept.step < 0]
    forwards = [kept[::-1] if kept.step < 0 else kept for kept in ranges]
    x = x[tuple(slice(kept.start, kept.stop, kept.step) for kept in forwards)]
    return x.flip(backwards) if backwards else x


def pad(op: Pad, x: Tensor, out: Tensor) -> None:
    if op.mode == "constant" or x.numel() == 0:
        surround(op, x, out)
        return
    for axis, (before, after) in enumerate(zip(op.before, op.after, strict=True)):
        if before or after:
            x = x.index_select(axis, padding_indices(op.mode, before, after, x.shape[axis], x.device))
    out.copy_(x)


def surround(op: Pad, x: Tensor, out: Tensor) -> None:
    """Writes the value everywhere, then what is left of x into its place."""
    out.fill_(op.value)
    for axis, (before, size) in enumerate(zip(op.before, x.shape, strict=True)):
        first, stop = max(0, -before), min(size, out.shape[axis] - before)
        if stop <= first:
            return
        x, out = x.narrow(axis, first, stop - first), out.narrow(axis, first + before, stop - first)
    out.copy_(x)


@cache
def padding_indices(mode: str, before: int, after: int, size: int, device: torch.device) -> Tensor:
    """For each index of a padded axis the one that it repeats."""
    index = np.arange(-before, size + after)
    if mode == "reflect":
        index = size - 1 - np.abs(size - 1 - np.abs(index))
    return torch.from_numpy(np.clip(index, 0, size - 1)).to(device)


# ---- resizing -------------------------------------------------------------------------------------------------------
def resize(op: Resize, x: Tensor) -> Tensor:
    """Axis by axis: the sum of one, two or four neighbours, each with its weight; in f32 if there is a sum."""
    size = op.infer([tuple(x.shape)])[0]
    for axis in (2, 3):
        taps = resize_taps(op, axis - 2, size[axis], x.shape[axis], x.device)
        if op.mode == "nearest":
            x = x.index_select(axis, taps[0][0])
            continue
        (index, weight), *others = taps
        wide = x.float()
        x = wide.index_select(axis, index) * weight
        for index, weight in others:
            x = torch.addcmul(x, wide.index_select(axis, index), weight)
    return x


@cache
def resize_taps(
    op: Resize, axis: int, count: int, size: int, device: torch.device
) -> tuple[tuple[Tensor, Tensor], ...]:
    """For each neighbour: the indices for all outputs of the axis, and weights that broadcast to the image."""
    scale = None if op.scale is None else op.scale[axis]
    indices, weights = neighbours(op, coordinates(op, count, size, scale))
    shape = (-1, 1) if axis == 0 else (-1,)
    return tuple(
        (
            torch.from_numpy(np.clip(index, 0, size - 1)).to(device),
            torch.from_numpy(weight.astype(np.float32)).to(device).reshape(shape),
        )
        for index, weight in zip(indices, weights, strict=True)
    )
