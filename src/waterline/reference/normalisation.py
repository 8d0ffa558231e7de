"""Normalisations and softmax, straight from their definitions; variances are of the population, in two passes."""

from __future__ import annotations

import numpy as np

from waterline.graph.ops import BatchNorm, GroupNorm, LayerNorm, LocalResponseNorm, Softmax

Array = np.ndarray


def along_channels(values: Array, rank: int) -> Array:
    """(C,) -> (C, 1, ..., 1), which broadcasts to (N, C, ...) of `rank` axes."""
    return values.reshape(-1, *(1,) * (rank - 2))


def standardise(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + epsilon)


def batch_norm(op: BatchNorm, x: Array, scale: Array, bias: Array, mean: Array, variance: Array) -> Array:
    factor = scale / np.sqrt(variance + op.epsilon)
    return (x - along_channels(mean, x.ndim)) * along_channels(factor, x.ndim) + along_channels(bias, x.ndim)


def layer_norm(op: LayerNorm, x: Array, scale: Array, bias: Array | None = None) -> Array:
    y = standardise(x, tuple(range(op.axis, x.ndim)), op.epsilon) * scale
    return y if bias is None else y + bias


def group_norm(op: GroupNorm, x: Array, scale: Array, bias: Array) -> Array:
    n, c = x.shape[:2]
    grouped = x.reshape(n, op.groups, c // op.groups, *x.shape[2:])
    y = standardise(grouped, tuple(range(2, grouped.ndim)), op.epsilon).reshape(x.shape)
    return y * along_channels(scale, x.ndim) + along_channels(bias, x.ndim)


def local_response_norm(op: LocalResponseNorm, x: Array) -> Array:
    before, after = (op.size - 1) // 2, op.size // 2
    squares = np.square(x)
    total = np.zeros_like(x)
    c = x.shape[1]
    for shift in range(-min(before, c), min(after, c) + 1):  # channel i takes the square of channel i + shift
        total[:, max(0, -shift) : c - max(0, shift)] += squares[:, max(0, shift) : c - max(0, -shift)]
    return x / (op.bias + op.alpha / op.size * total) ** op.beta


def softmax(op: Softmax, x: Array) -> Array:
    shifted = x - x.max(op.axis, keepdims=True)
    total = np.exp(shifted).sum(op.axis, keepdims=True)
    return shifted - np.log(total) if op.log else np.exp(shifted) / total
