"""How convolutions become operators of PyTorch: a forward pass and two gradients, which are launches, registered with
their fake tensors and derivatives, so that autograd, `torch.compile` and autocast know them.

Tensors are channels-last; others are converted. One registration serves all convolutions: `Kernels` says what runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from waterline.algorithms.gpu import TORCH_TYPES, GpuImplementation, X, Y
from waterline.algorithms.gradients import DW, DX, DY, WEIGHT
from waterline.codegen.gpu.kernel import is_interpreted
from waterline.errors import InvalidArgument
from waterline.machine.gpu import Gpu
from waterline.runtime.gpu.device import INTERPRETED, describe
from waterline.spec import ConvSpec

Pair = tuple[int, int]
Make = Callable[[ConvSpec, Gpu, str], GpuImplementation]


@dataclass(frozen=True)
class Kernels:
    """What makes the launches of a convolution, for a layer, a GPU and a precision. All raise Refused."""

    forward: Make
    data_gradient: Make
    weight_gradient: Make


def gpu_of(x: torch.Tensor) -> Gpu:
    """What runs kernels on a tensor. Raises InvalidArgument where nothing does."""
    if x.is_cuda:
        return describe(x.device.index or 0)
    if is_interpreted():
        return INTERPRETED
    raise InvalidArgument(f"the tensor is on {x.device}", "these operators run on NVIDIA GPUs")


def precision_of(x: torch.Tensor, other: torch.Tensor) -> str:
    """By the tensors' type; f32 is multiplied as PyTorch's own convolutions would."""
    if x.dtype != other.dtype:
        raise InvalidArgument(f"one tensor is {x.dtype}, the other {other.dtype}", "both are of one type")
    if x.dtype == torch.float32:
        return "tf32" if x.is_cuda and torch.backends.cudnn.allow_tf32 else "f32"
    names = {dtype: name for name, dtype in TORCH_TYPES.items() if name != "tf32"}
    if x.dtype not in names:
        raise InvalidArgument(f"the tensor is {x.dtype}", "accepted: float32, float16, bfloat16")
    return names[x.dtype]


def spec_of(
    x: list[int] | torch.Size, weight: list[int] | torch.Size, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> ConvSpec:
    if len(x) != 4 or len(weight) != 4:
        raise InvalidArgument(f"the input has {len(x)} axes, the weight {len(weight)}", "both have four")
    (n, c, h, w), (k, group_c, r, s) = x, weight
    if group_c * groups != c:
        raise InvalidArgument(f"the weight has {group_c} channels in each of {groups} groups, the input {c} channels")
    pad = (*padding, *padding)
    return ConvSpec(n, c, h, w, k, r, s, stride=stride, pad=pad, dilation=dilation, groups=groups)


@lru_cache(maxsize=1024)
def _launches(make: Make, spec: ConvSpec, gpu: Gpu, precision: str) -> GpuImplementation:
    """The same for every step of a training: the choice of a config takes longer than a kernel."""
    return make(spec, gpu, precision)


def register(name: str, kernels: Kernels) -> Callable[..., torch.Tensor]:
    """`waterline::NAME(x, weight, stride, padding, dilation, groups)`, NAME_data_gradient and NAME_weight_gradient."""

    @torch.library.custom_op(f"waterline::{name}", mutates_args=())
    def forward(
        x: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
    ) -> torch.Tensor:
        spec = spec_of(x.shape, weight.shape, _pair(stride), _pair(padding), _pair(dilation), groups)
        gpu, precision = gpu_of(x), precision_of(x, weight)
        made = _launches(kernels.forward, spec, gpu, precision)
        y = _empty(x, (spec.n, spec.k, spec.p, spec.q))
        made.run({X: _nhwc(x), WEIGHT: weight.contiguous(), Y: _nhwc(y)}, precision)
        return y

    @torch.library.custom_op(f"waterline::{name}_data_gradient", mutates_args=())
    def data_gradient(
        dy: torch.Tensor,
        weight: torch.Tensor,
        size: list[int],
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> torch.Tensor:
        spec = spec_of(size, weight.shape, _pair(stride), _pair(padding), _pair(dilation), groups)
        gpu, precision = gpu_of(dy), precision_of(dy, weight)
        made = _launches(kernels.data_gradient, spec, gpu, precision)
        dx, given = _empty(dy, tuple(size)), _nhwc(dy)
        made.run({X: given, DY: given, WEIGHT: weight.contiguous(), DX: _nhwc(dx)}, precision)
        return dx

    @torch.library.custom_op(f"waterline::{name}_weight_gradient", mutates_args=())
    def weight_gradient(
        dy: torch.Tensor,
        x: torch.Tensor,
        size: list[int],
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> torch.Tensor:
        spec = spec_of(x.shape, size, _pair(stride), _pair(padding), _pair(dilation), groups)
        gpu, precision = gpu_of(dy), precision_of(dy, x)
        made = _launches(kernels.weight_gradient, spec, gpu, precision)
        dw = dy.new_empty(size)
        made.run({X: _nhwc(x), DY: _nhwc(dy), DW: dw}, precision)
        return dw

    @forward.register_fake
    def _(
        x: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
    ) -> torch.Tensor:
        spec = spec_of(x.shape, weight.shape, _pair(stride), _pair(padding), _pair(dilation), groups)
        return _empty(x, (spec.n, spec.k, spec.p, spec.q))

    @data_gradient.register_fake
    def _(dy: torch.Tensor, weight: torch.Tensor, size: list[int], *layer: list[int] | int) -> torch.Tensor:
        return _empty(dy, tuple(size))

    @weight_gradient.register_fake
    def _(dy: torch.Tensor, x: torch.Tensor, size: list[int], *layer: list[int] | int) -> torch.Tensor:
        return dy.new_empty(size)

    def remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, weight, *ctx.layer = inputs
        ctx.save_for_backward(x, weight)

    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = data_gradient(dy, weight, list(x.shape), *ctx.layer) if ctx.needs_input_grad[0] else None
        dw = weight_gradient(dy, x, list(weight.shape), *ctx.layer) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None, None, None

    forward.register_autograd(backward, setup_context=remember)

    def call(
        x: torch.Tensor,
        weight: torch.Tensor,
        stride: int | Pair,
        padding: int | Pair,
        dilation: int | Pair,
        groups: int,
    ) -> torch.Tensor:
        """The operator, with numbers for pairs, and under autocast of its type."""
        if isinstance(padding, str):
            raise InvalidArgument(f"padding is {padding!r}", "accepted: a number, or one for each axis")
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        layer = [[each, each] if isinstance(each, int) else list(each) for each in (stride, padding, dilation)]
        return forward(x, weight, *layer, groups)

    return call


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


__all__ = ["Kernels", "Pair", "gpu_of", "precision_of", "register", "spec_of"]
