"""`torch` on GPUs: PyTorch's own convolution (cuDNN's), the last resort for layers that no kernel of ours serves.

Those are layers which put zeros between pixels in one group, activations that kernels do not know, and tensors whose
offsets exceed 32 bits. The epilogue is operators of PyTorch's, one after the other.

Layouts: activations NHWC, weights as PyTorch has them in the same order. Numerics: the library's; the epilogue in f32.
"""

from __future__ import annotations

from typing import Any

import torch

from waterline.algorithms.base import Refusal
from waterline.algorithms.gpu import (
    BIAS,
    RESIDUAL,
    TORCH_TYPES,
    GpuAlgorithm,
    GpuCost,
    GpuImplementation,
    X,
    Y,
    roofline,
)
from waterline.codegen.gpu.kernel import LibraryCall
from waterline.graph.ops import Unary
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.operators.gpu_torch import evaluate
from waterline.spec import Activation, ConvSpec

EFFICIENCY = 0.5  # of the roofline, with the epilogue's operators: a guess, which decides nothing


class GpuLibrary(GpuAlgorithm):
    name = "torch"
    is_last_resort = True

    def refuse(self, spec: ConvSpec, gpu: Gpu, precision: str) -> Refusal | None:
        return None

    def configs(self, spec: ConvSpec, gpu: Gpu, precision: str) -> list[Any]:
        return [None]

    def cost(self, spec: ConvSpec, config: Any, gpu: Gpu, precision: str) -> GpuCost:
        moved_bytes = spec.least_bytes / spec.elem_bytes * PRECISION_BYTES[precision]
        least = roofline(spec.flops, moved_bytes, gpu, precision)
        return GpuCost(least.seconds / EFFICIENCY, least.flops, least.moved_bytes)

    def implement(self, spec: ConvSpec, config: Any, gpu: Gpu, precision: str) -> GpuImplementation:
        if not spec.n:
            return GpuImplementation(())
        names = [X, "weight", Y] + [BIAS] * spec.epilogue.bias + [RESIDUAL] * spec.epilogue.residual

        def convolve(*tensors: torch.Tensor) -> None:
            given = dict(zip(names, tensors, strict=True))
            y = _convolved(spec, _image(given[X], (spec.c, spec.h, spec.w)), given["weight"], precision).float()
            if spec.epilogue.bias:
                y = y + given[BIAS][:, None, None]
            y = _activated(y, spec.epilogue.before)
            if spec.epilogue.residual:
                y = y + _image(given[RESIDUAL], (spec.k, spec.p, spec.q))
            _image(given[Y], (spec.k, spec.p, spec.q)).copy_(_activated(y, spec.epilogue.after))

        return GpuImplementation((LibraryCall(convolve, tuple(names)),))

    def pack(self, spec: ConvSpec, config: Any, weight: torch.Tensor, precision: str) -> dict[str, torch.Tensor]:
        return {"weight": weight.to(TORCH_TYPES[precision]).contiguous(memory_format=torch.channels_last)}


def _convolved(spec: ConvSpec, x: torch.Tensor, weight: torch.Tensor, precision: str) -> torch.Tensor:
    if spec.upsample != (1, 1):
        spread = x.new_zeros(spec.n, spec.c, spec.upsampled_h, spec.upsampled_w)
        spread[:, :, :: spec.upsample[0], :: spec.upsample[1]] = x
        x = spread
    top, left, bottom, right = spec.pad
    x = torch.nn.functional.pad(x, (left, right, top, bottom))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=precision == "tf32"):
        return torch.nn.functional.conv2d(x, weight, stride=spec.stride, dilation=spec.dilation, groups=spec.groups)


def _image(tensor: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """(N, C, H, W) of memory that lies as NHWC, whatever shape it is seen under."""
    c, h, w = size
    elems = tensor.numel()
    n = elems // (c * h * w)
    return torch.as_strided(tensor, (n, c, h, w), (h * w * c, 1, w * c, c))


def _activated(y: torch.Tensor, activation: Activation | None) -> torch.Tensor:
    if activation is None:
        return y
    out = torch.empty_like(y)
    evaluate(Unary(activation), [y], [out])
    return out


LIBRARY_GPU = GpuLibrary()
__all__ = ["LIBRARY_GPU", "GpuLibrary"]
