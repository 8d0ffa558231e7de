"""Grouped convolution for training on GPUs: the forward pass and both gradients in Triton, as operators of PyTorch.

    y = grouped_conv2d(x, weight, stride=1, padding=1, groups=c // 8)

is `torch.nn.functional.conv2d` without bias, for the groups that `algorithms.grouped.gpu` serves. The three operators
(`waterline::grouped_conv2d` and its gradients) are registered with PyTorch, so that autograd, `torch.compile` and
autocast know them. Tensors are channels-last; others are converted. Results are the same from run to run.

`use_kernels(model)` puts it in the place of the grouped convolutions of a model, such as ConvFirst's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from waterline.algorithms.base import Refusal
from waterline.algorithms.gpu import TORCH_TYPES, GpuImplementation, X, Y
from waterline.algorithms.grouped.gpu import GROUPED_GPU
from waterline.algorithms.grouped.gpu_gradients import DW, DX, DY, WEIGHT, data_gradient, forward, weight_gradient
from waterline.codegen.gpu.kernel import is_interpreted
from waterline.errors import InvalidArgument, Refused
from waterline.machine.gpu import H200, Gpu
from waterline.spec import ConvSpec

Pair = tuple[int, int]
# What kernels are laid out for in the interpreter, which runs blocks one after the other: few of them.
INTERPRETED = replace(H200, name="Triton's interpreter", multiprocessors=2)


@lru_cache(maxsize=16)
def describe(index: int) -> Gpu:
    """The GPU of that number, as PyTorch reports it."""
    found = torch.cuda.get_device_properties(index)
    return Gpu(
        name=found.name,
        capability=(found.major, found.minor),
        multiprocessors=found.multi_processor_count,
        shared_bytes=found.shared_memory_per_block_optin,
        l2_bytes=found.L2_cache_size,
        clock_hz=1e3 * found.clock_rate,
        # Two transfers a clock on as many wires.
        memory_bytes_per_s=2 * 1e3 * found.memory_clock_rate * found.memory_bus_width / 8,
        provenance="reported by the driver",
    )


def gpu_of(x: torch.Tensor) -> Gpu:
    """What runs kernels on a tensor. Raises InvalidArgument where nothing does."""
    if x.is_cuda:
        return describe(x.device.index or 0)
    if is_interpreted():
        return INTERPRETED
    raise InvalidArgument(f"the tensor is on {x.device}", "these operators run on NVIDIA GPUs")


def precision_of(x: torch.Tensor) -> str:
    """By the tensor's type; f32 is multiplied as PyTorch's own convolutions would."""
    if x.dtype == torch.float32:
        return "tf32" if x.is_cuda and torch.backends.cudnn.allow_tf32 else "f32"
    names = {dtype: name for name, dtype in TORCH_TYPES.items() if name != "tf32"}
    if x.dtype not in names:
        raise InvalidArgument(f"the tensor is {x.dtype}", "accepted: float32, float16, bfloat16")
    return names[x.dtype]


def spec_of(
    x: list[int] | torch.Size, weight: list[int] | torch.Size, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> ConvSpec:
    (n, c, h, w), (k, group_c, r, s) = x, weight
    if group_c * groups != c:
        raise InvalidArgument(f"the weight has {group_c} channels in each of {groups} groups, the input {c} channels")
    pad = (*padding, *padding)
    return ConvSpec(n, c, h, w, k, r, s, stride=stride, pad=pad, dilation=dilation, groups=groups)


@lru_cache(maxsize=1024)
def _launches(
    make: Callable[[ConvSpec, Gpu, str], GpuImplementation], spec: ConvSpec, gpu: Gpu, precision: str
) -> GpuImplementation:
    """The same for every step of a training: the choice of a config takes longer than a kernel."""
    return make(spec, gpu, precision)


# ---- operators ------------------------------------------------------------------------------------------------------
@torch.library.custom_op("waterline::grouped_conv2d", mutates_args=())
def _forward(
    x: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> torch.Tensor:
    spec = spec_of(x.shape, weight.shape, _pair(stride), _pair(padding), _pair(dilation), groups)
    gpu, precision = gpu_of(x), precision_of(x)
    if refusal := GROUPED_GPU.refuse(spec, gpu, precision):
        raise Refused(f"{spec.id}: {refusal.reason}")
    y = _empty(x, (spec.n, spec.k, spec.p, spec.q))
    tensors = {X: _nhwc(x), WEIGHT: weight.contiguous(), Y: _nhwc(y)}
    _launches(forward, spec, gpu, precision).run(tensors, precision)
    return y


@torch.library.custom_op("waterline::grouped_conv2d_data_gradient", mutates_args=())
def _data_gradient(
    dy: torch.Tensor,
    weight: torch.Tensor,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    spec = spec_of(size, weight.shape, _pair(stride), _pair(padding), _pair(dilation), groups)
    dx = _empty(dy, tuple(size))
    precision = precision_of(dy)
    tensors = {X: _nhwc(dy), DY: _nhwc(dy), WEIGHT: weight.contiguous(), DX: _nhwc(dx)}
    _launches(data_gradient, spec, gpu_of(dy), precision).run(tensors, precision)
    return dx


@torch.library.custom_op("waterline::grouped_conv2d_weight_gradient", mutates_args=())
def _weight_gradient(
    dy: torch.Tensor,
    x: torch.Tensor,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    spec = spec_of(x.shape, size, _pair(stride), _pair(padding), _pair(dilation), groups)
    dw = dy.new_empty(size)
    precision = precision_of(dy)
    tensors = {X: _nhwc(x), DY: _nhwc(dy), DW: dw}
    _launches(weight_gradient, spec, gpu_of(dy), precision).run(tensors, precision)
    return dw


@_forward.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> torch.Tensor:
    spec = spec_of(x.shape, weight.shape, _pair(stride), _pair(padding), _pair(dilation), groups)
    return _empty(x, (spec.n, spec.k, spec.p, spec.q))


@_data_gradient.register_fake
def _(dy: torch.Tensor, weight: torch.Tensor, size: list[int], *layer: list[int] | int) -> torch.Tensor:
    return _empty(dy, tuple(size))


@_weight_gradient.register_fake
def _(dy: torch.Tensor, x: torch.Tensor, size: list[int], *layer: list[int] | int) -> torch.Tensor:
    return dy.new_empty(size)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, *ctx.layer = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    dx = _data_gradient(dy, weight, list(x.shape), *ctx.layer) if ctx.needs_input_grad[0] else None
    dw = _weight_gradient(dy, x, list(weight.shape), *ctx.layer) if ctx.needs_input_grad[1] else None
    return dx, dw, None, None, None, None


_forward.register_autograd(_backward, setup_context=_remember)


# ---- for models -----------------------------------------------------------------------------------------------------
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
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    layer = [[each, each] if isinstance(each, int) else list(each) for each in (stride, padding, dilation)]
    return _forward(x, weight, *layer, groups)


class GroupedConv2d(nn.Conv2d):
    """A convolution whose forward pass and gradients are Waterline's kernels on a GPU, and PyTorch's elsewhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda and not is_interpreted():
            return super().forward(x)
        return grouped_conv2d(x, self.weight, self.stride, self.padding, self.dilation, self.groups)


def refuse(module: nn.Conv2d, gpu: Gpu = H200) -> Refusal | None:
    """Why a convolution stays PyTorch's, or None."""
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return Refusal(f"padding is {module.padding!r} with {module.padding_mode}")
    if module.bias is not None:
        return Refusal("it has a bias")
    size = (1, module.in_channels, 64, 64)
    spec = spec_of(size, module.weight.shape, module.stride, module.padding, module.dilation, module.groups)
    return GROUPED_GPU.refuse(spec, gpu, "bf16")


def use_kernels(model: nn.Module) -> list[str]:
    """Makes every grouped convolution of a model that the kernels serve a `GroupedConv2d`, in place; weights stay the
    same objects. Returns their names."""
    found = []
    for name, module in model.named_modules():
        if type(module) is nn.Conv2d and refuse(module) is None:
            module.__class__ = GroupedConv2d
            found.append(name)
    return found


# ---- layouts --------------------------------------------------------------------------------------------------------
def _pair(values: list[int]) -> Pair:
    first, second = values
    return first, second


def _nhwc(x: torch.Tensor) -> torch.Tensor:
    """A dense (n, h, w, c): a view where the tensor is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _empty(like: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    n, c, h, w = size
    return like.new_empty((n, h, w, c)).permute(0, 3, 1, 2)


__all__ = ["GroupedConv2d", "grouped_conv2d", "refuse", "use_kernels"]
