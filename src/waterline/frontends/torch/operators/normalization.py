"""Batch, layer, group and instance normalisation in inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from waterline.frontends.torch.builder import Builder, Unsupported, Value
from waterline.frontends.torch.operators.convolution import require_constant
from waterline.graph.ops import BatchNorm, GroupNorm, LayerNorm, Shape


def _filled(b: Builder, x: Value | None, shape: Shape, number: float) -> Value:
    """An optional parameter: what is absent is a constant of `number`."""
    return x if x is not None else b.constant(torch.full(shape, number))


def batch_norm(
    b: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Value:
    if training or mean is None or variance is None:
        raise Unsupported("it normalises with the statistics of the batch, not with recorded ones")
    channels = (x.shape[1],)
    parameters = [_filled(b, weight, channels, 1.0), _filled(b, bias, channels, 0.0), mean, variance]
    for parameter in parameters:
        require_constant(parameter, "parameter")
    return b.emit(BatchNorm(eps), x, *parameters)


def native_batch_norm(b: Builder, *arguments: Any) -> tuple[Value | None, ...]:
    return batch_norm(b, *arguments), None, None


def batch_norm_no_training(
    b: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> tuple[Value | None, ...]:
    return batch_norm(b, x, weight, bias, mean, variance, False, momentum, eps), None, None


def layer_norm(
    b: Builder,
    x: Value,
    shape: Sequence[int],
    weight: Value | None,
    bias: Value | None,
    eps: float,
    cudnn_enable: bool = False,
) -> Value:
    axes = tuple(shape)
    inputs = [x, _filled(b, weight, axes, 1.0)] + ([bias] if bias is not None else [])
    return b.emit(LayerNorm(x.rank - len(axes), eps, bias is not None), *inputs)


def native_layer_norm(
    b: Builder, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value | None, ...]:
    return layer_norm(b, x, shape, weight, bias, eps), None, None


def group_norm(
    b: Builder,
    x: Value,
    groups: int,
    weight: Value | None,
    bias: Value | None,
    eps: float,
    cudnn_enabled: bool = False,
) -> Value:
    channels = (x.shape[1],)
    return b.emit(GroupNorm(groups, eps), x, _filled(b, weight, channels, 1.0), _filled(b, bias, channels, 0.0))


def native_group_norm(
    b: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    n: int,
    c: int,
    space: int,
    groups: int,
    eps: float,
) -> tuple[Value | None, ...]:
    return group_norm(b, x, groups, weight, bias, eps), None, None


def instance_norm(
    b: Builder,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if use_input_stats:
        return group_norm(b, x, x.shape[1], weight, bias, eps)
    return batch_norm(b, x, weight, bias, mean, variance, False, momentum, eps)


CONVERTERS: dict[str, Callable] = {
    "batch_norm.default": batch_norm,
    "native_batch_norm.default": native_batch_norm,
    "_native_batch_norm_legit.default": native_batch_norm,
    "_native_batch_norm_legit_no_training.default": batch_norm_no_training,
    "layer_norm.default": layer_norm,
    "native_layer_norm.default": native_layer_norm,
    "group_norm.default": group_norm,
    "native_group_norm.default": native_group_norm,
    "instance_norm.default": instance_norm,
}
