"""Weights as the kernel of `block_fusion` on GPUs reads them."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch.nn.functional import pad

from waterline.algorithms.block_fusion.gpu_kernels import LEAST_WIDTH, held, parts
from waterline.spec import ConvSpec


def is_depthwise(spec: ConvSpec) -> bool:
    """Whether it needs no matrix product: one channel from one."""
    return spec.group_c == spec.group_k == 1


def padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _begins(spec: ConvSpec, most: int) -> list[tuple[int, int]]:
    """First channel and width of each part of a convolution's output."""
    widths = parts(spec.k, most)
    return list(zip(accumulate((0, *widths)), widths, strict=False))


def span(spec: ConvSpec, most: int) -> int:
    """Channels of the input that a part of a grouped convolution's output reads, as a power of two."""
    reads = (
        (-(-min(begin + width, spec.k) // spec.group_k) - begin // spec.group_k) * spec.group_c
        for begin, width in _begins(spec, most)
    )
    return max(LEAST_WIDTH, 1 << (max(reads) - 1).bit_length())


def by_taps(spec: ConvSpec, weight: torch.Tensor, most: int) -> torch.Tensor:
    """Depthwise: (tap, channel). Grouped: for each part (tap, output, input), zero outside the groups."""
    weight = weight.reshape(spec.k, spec.group_c, spec.taps)
    if is_depthwise(spec):
        return pad(weight[:, 0].T, (0, held(spec.k, most) - spec.k))
    wide = span(spec, most)
    made = []
    for begin, width in _begins(spec, most):
        own = torch.arange(begin, min(begin + width, spec.k), device=weight.device)
        first = (own // spec.group_k - begin // spec.group_k) * spec.group_c
        inputs = first[:, None] + torch.arange(spec.group_c, device=weight.device)
        part = weight.new_zeros(spec.taps, width, wide)
        part[:, (own - begin)[:, None], inputs] = weight[own].permute(2, 0, 1)
        made.append(part.reshape(-1))
    return torch.cat(made)


def matrix(weight: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The weight (k, c, 1, 1) of a product, with zeros up to so many rows and columns."""
    weight = weight.reshape(weight.shape[0], -1)
    return pad(weight, (0, columns - weight.shape[1], 0, rows - weight.shape[0]))


__all__ = ["by_taps", "is_depthwise", "matrix", "padded", "span"]
