"""AdamW, the course of its rate, the average of the weights and the precision, from a recipe: PyTorch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from waterline.errors import InvalidArgument
from waterline.train.recipe import Recipe

LEAST_FACTOR = 1e-3  # of the learning rate, at both ends of its course


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019). What has one axis (norms, biases, scales of layers) does not decay."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    # ConvNeXt's scales of layers and norms have shapes like (c, 1, 1).
    is_vector = [sum(length > 1 for length in each.shape) <= 1 for each in parameters]
    decaying = [p for p, flat in zip(parameters, is_vector, strict=True) if not flat]
    others = [p for p, flat in zip(parameters, is_vector, strict=True) if flat]
    groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> LambdaLR:
    """Linear up, then half a cosine down (Loshchilov and Hutter 2017), step by step."""
    warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return max(LEAST_FACTOR, (step + 1) / warmup)
        share = min(1.0, (step - warmup) / max(1, total - warmup))
        return LEAST_FACTOR + (1 - LEAST_FACTOR) * 0.5 * (1 + math.cos(math.pi * share))

    return LambdaLR(optimizer, factor)


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of weights and of BatchNorm's statistics.

    It begins short: the decay of step t is at most (1 + t) / (10 + t), so that a short run's average is not that of its
    random beginning (TensorFlow's ExponentialMovingAverage with num_updates).
    """

    def average(averaged: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor) -> None:
        step = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))(averaged, current, count)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def use_recipes_kernels(model: nn.Module, kernels: str, device: torch.device) -> None:
    """Makes a model's convolutions those that a recipe wants, in place.

    Raises:
        InvalidArgument: kernels of Waterline's without a GPU or without Triton.
    """
    if kernels == "torch":
        return
    if find_spec("triton") is None:
        raise InvalidArgument(f"kernels {kernels!r} need Triton, which is not installed", "install the extra `gpu`")
    from waterline.codegen.gpu.kernel import is_interpreted
    from waterline.train.gpu_operators import use_kernels

    if device.type != "cuda" and not is_interpreted():
        raise InvalidArgument(f"kernels {kernels!r} are for GPUs, the device is {device}", "use --kernels torch")
    use_kernels(model, dense=kernels == "all")


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that most of the arithmetic is in. "auto" mixes where there is a GPU.

    Raises:
        InvalidArgument: float16 on a CPU, which scales no losses.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name == "float16" and device.type != "cuda":
        raise InvalidArgument("float16 is for GPUs", "use --precision bfloat16 or float32")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def build_loss(recipe: Recipe) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Cross-entropy with smoothed labels, for labels as well as for mixed ones."""
    return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
