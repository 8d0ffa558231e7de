"""Convolutions for training on GPUs: the forward pass and both gradients in Triton, as operators of PyTorch.

    y = grouped_conv2d(x, weight, stride=1, padding=1, groups=c // 8)
    y = conv2d(x, weight, stride=2, padding=1)

are `torch.nn.functional.conv2d` without bias: for the groups that `algorithms.grouped.gpu` serves, and for one group.
Autograd, `torch.compile` and autocast know them (`gpu_registering`). Tensors are channels-last; others are converted.
Results are the same from run to run.

`use_kernels(model)` puts the first in the place of the grouped convolutions of a model, such as ConvFirst's;
`use_kernels(model, dense=True)` also the second in the place of the others.
"""

from __future__ import annotations

import torch
from torch import nn

from waterline.algorithms.base import Refusal
from waterline.algorithms.grouped import gpu_gradients as grouped
from waterline.algorithms.grouped.gpu import GROUPED_GPU
from waterline.algorithms.indirect import gpu_gradients as indirect
from waterline.codegen.gpu.kernel import is_interpreted
from waterline.errors import Refused
from waterline.machine.gpu import H200, Gpu
from waterline.train.gpu_registering import Kernels, Pair, register, spec_of

_grouped = register("grouped_conv2d", Kernels(grouped.forward, grouped.data_gradient, grouped.weight_gradient))
_dense = register("conv2d", Kernels(indirect.forward, indirect.data_gradient, indirect.weight_gradient))


def grouped_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """`torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)`.

    Args:
        x: (n, c, h, w). weight: (k, c/groups, r, s). Both of one type; under autocast of its type.

    Raises:
        Refused: groups that the kernels do not serve. InvalidArgument: tensors elsewhere, or of other types.
    """
    return _grouped(x, weight, stride, padding, dilation, groups)


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> torch.Tensor:
    """`torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation)`.

    Args:
        x: (n, c, h, w). weight: (k, c, r, s). Both of one type; under autocast of its type.

    Raises:
        Refused: sizes beyond the kernels' offsets. InvalidArgument: tensors elsewhere, or of other types.
    """
    return _dense(x, weight, stride, padding, dilation, 1)


class KernelConv2d(nn.Conv2d):
    """A convolution whose forward pass and gradients are Waterline's kernels on a GPU, and PyTorch's elsewhere.

    A bias is added by PyTorch.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda and not is_interpreted():
            return super().forward(x)
        if self.padding_mode != "zeros":
            raise Refused(f"padding is with {self.padding_mode}, the kernels' with zeros")
        y = self.convolve(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class GroupedConv2d(KernelConv2d):
    """`KernelConv2d` by `grouped_conv2d`."""

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        return grouped_conv2d(x, self.weight, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(KernelConv2d):
    """`KernelConv2d` by `conv2d`: of one group."""

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        return _dense(x, self.weight, self.stride, self.padding, self.dilation, self.groups)


def refuse(module: nn.Conv2d, gpu: Gpu = H200) -> Refusal | None:
    """Why a convolution stays PyTorch's, or None."""
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return Refusal(f"padding is {module.padding!r} with {module.padding_mode}")
    # Of any size that the filter fits: what is refused follows from the channels.
    sides = (64 + dilation * taps for dilation, taps in zip(module.dilation, module.kernel_size, strict=True))
    size = [1, module.in_channels, *sides]
    spec = spec_of(size, module.weight.shape, module.stride, module.padding, module.dilation, module.groups)
    return indirect.refuse(spec, gpu, "bf16") if module.groups == 1 else GROUPED_GPU.refuse(spec, gpu, "bf16")


def use_kernels(model: nn.Module, dense: bool = False) -> list[str]:
    """Makes every grouped convolution of a model that the kernels serve a `GroupedConv2d`, in place; weights stay the
    same objects. Returns their names.

    Args:
        dense: whether convolutions of one group become `Conv2d` as well.
    """
    found = []
    for name, module in model.named_modules():
        is_wanted = type(module) is nn.Conv2d and (dense or module.groups > 1)
        if is_wanted and refuse(module) is None:
            module.__class__ = Conv2d if module.groups == 1 else GroupedConv2d
            found.append(name)
    return found


__all__ = ["Conv2d", "GroupedConv2d", "KernelConv2d", "conv2d", "grouped_conv2d", "refuse", "use_kernels"]
