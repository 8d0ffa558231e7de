"""Runs the launches of a layer's gradients in Triton's interpreter, and compares them with PyTorch's in float64."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch.nn.functional import conv2d, pad

from algorithms.gpu_layers import STORE_EPS, TINY
from waterline.algorithms.gpu import TORCH_TYPES, GpuImplementation, X
from waterline.algorithms.gradients import DW, DX, DY, WEIGHT
from waterline.reference import compare
from waterline.spec import ConvSpec

SUM_EPS = 2.0**-23


def truth(spec: ConvSpec, x: torch.Tensor, weight: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and weight in float64, as (n, c, h, w) and (k, c/g, r, s)."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    top, left, bottom, right = spec.pad
    padded = pad(x, (left, right, top, bottom))
    y = conv2d(padded, weight, stride=spec.stride, dilation=spec.dilation, groups=spec.groups)
    dx, dw = torch.autograd.grad(y, (x, weight), dy)
    return dx, dw


def nhwc(tensor: torch.Tensor, precision: str) -> torch.Tensor:
    return tensor.permute(0, 2, 3, 1).contiguous().to(TORCH_TYPES[precision])


def check(spec: ConvSpec, precision: str, made: GpuImplementation, is_weight: bool) -> None:
    """Whole numbers exactly, random ones within the bound of the precision, on memory that begins as NaN."""
    random = np.random.default_rng(zlib.crc32(f"{spec.id} {precision} {is_weight}".encode()))
    shapes = (
        (spec.n, spec.c, spec.h, spec.w),
        (spec.k, spec.group_c, spec.r, spec.s),
        (spec.n, spec.k, spec.p, spec.q),
    )
    depth = spec.n * spec.p * spec.q if is_weight else spec.group_k * spec.taps
    for is_exact in (True, False):
        values = []
        for shape in shapes:
            drawn = random.integers(-2, 3, shape) if is_exact else random.standard_normal(shape)
            rounded = torch.from_numpy(drawn).to(torch.float16).to(torch.float64)  # which tf32 holds too
            values.append(rounded)
        x, weight, dy = values
        expected = truth(spec, x, weight, dy)[is_weight]
        magnitude = truth(spec, x.abs(), weight.abs(), dy.abs())[is_weight]
        actual = torch.full(tuple(expected.shape), float("nan"), dtype=TORCH_TYPES[precision])
        if is_weight:
            tensors = {X: nhwc(x, precision), DY: nhwc(dy, precision), DW: actual}
        else:
            actual = actual.permute(0, 2, 3, 1).contiguous()
            given = {DY: nhwc(dy, precision), WEIGHT: weight.to(TORCH_TYPES[precision]), DX: actual}
            tensors = {X: given[DY], **given}  # a layer's x says where workspaces are
        made.run(tensors, precision)
        found = actual.to(torch.float64) if is_weight else actual.to(torch.float64).permute(0, 3, 1, 2)
        if is_exact:
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
        else:
            bound = (depth + 2) * SUM_EPS * magnitude + STORE_EPS[precision] * expected.abs() + TINY
            outcome = compare(found.numpy(), expected.numpy(), bound.numpy())
            assert outcome.is_within, f"{spec.id} {precision}: {outcome}"
