"""Operations that are no convolutions by PyTorch's own operators, for what the kernels of `gpu` do not serve.

Tensors may be views of any strides, with the shapes of the graph; they are f16, bf16 or f32, constants may be f32 where
activations are half. Formulas and what NaN and infinity give are those of `waterline.reference`.

Numerics: arithmetic is in f32 and rounded once, when the output is written. Products of two half tensors are exact and
summed in f32; those of f32 tensors are as `torch.backends.cuda.matmul.fp32_precision` says, exact unless a program sets
it. `torch.autocast` changes nothing.

Calls may be recorded in a CUDA graph: the host reads nothing back. Tables (indices and weights of resizing, indices of
padding, counts of averages) are made by the first call with the same operation and sizes, which must not be recorded.
They are never freed, as graphs go on reading them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from waterline.errors import InvalidArgument
from waterline.graph.ops import (
    AdaptivePool,
    BatchNorm,
    Binary,
    Concat,
    Expand,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    Op,
    Pad,
    Pool,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
    Unary,
)
from waterline.operators.gpu_torch_movement import concatenate, pad, resize, take
from waterline.operators.gpu_torch_windows import adaptive_pool, pool, reduce
from waterline.spec import Activation


# ---- element by element ---------------------------------------------------------------------------------------------
def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def gelu(x: Tensor) -> Tensor:
    """PyTorch's own makes NaN of infinity on some processors."""
    return 0.5 * x * (1 + torch.erf(x * math.sqrt(1 / 2)))


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "clip": torch.clamp,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda x: x * hard_sigmoid(x, 1 / 6, 1 / 2),
    "silu": functional.silu,
    "gelu": gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
    "elu": functional.elu,
    "selu": lambda x, alpha, gamma: gamma * functional.elu(x, alpha),
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "mish": functional.mish,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "erf": torch.erf,
    "abs": torch.abs,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "square": torch.square,
}

ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "pow": torch.pow,
}


def activate(function: Activation | None, x: Tensor) -> Tensor:
    return x if function is None else ACTIVATIONS[function.kind](x, *function.params)


def binary(op: Binary, a: Tensor, b: Tensor, out: Tensor) -> None:
    if op.after is None and a.dtype == b.dtype == out.dtype:  # one operator, which computes halves in f32 itself
        ARITHMETIC[op.kind](a, b, out=out)
    else:
        out.copy_(activate(op.after, ARITHMETIC[op.kind](a.float(), b.float())))


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, slope * x)


# ---- normalisation, all in f32 --------------------------------------------------------------------------------------
def along_channels(values: Tensor, rank: int) -> Tensor:
    """(C,) -> (C, 1, ..., 1), which broadcasts to (N, C, ...) of `rank` axes."""
    return values.reshape(-1, *(1,) * (rank - 2))


def batch_norm(op: BatchNorm, x: Tensor, *parameters: Tensor) -> Tensor:
    scale, bias, mean, variance = (along_channels(values, x.ndim) for values in parameters)
    return torch.addcmul(bias, x - mean, scale * torch.rsqrt(variance + op.epsilon))


def layer_norm(op: LayerNorm, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.layer_norm(x, x.shape[op.axis :], scale, bias, op.epsilon)


def group_norm(op: GroupNorm, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """From the variance around the mean, whatever the storage of x: PyTorch's own may subtract two squares."""
    channels = (op.groups, x.shape[1] // op.groups, *(1,) * (x.ndim - 2))
    grouped = x.reshape(x.shape[0], *channels[:2], *x.shape[2:])
    variance, mean = torch.var_mean(grouped, tuple(range(2, grouped.ndim)), correction=0, keepdim=True)
    factor = scale.reshape(channels) * torch.rsqrt(variance + op.epsilon)
    return torch.addcmul(bias.reshape(channels), grouped - mean, factor).reshape(x.shape)


def local_response_norm(op: LocalResponseNorm, x: Tensor) -> Tensor:
    """The channels that windows reach beyond those of x are zeros; no more of them than there are channels."""
    n, c = x.shape[:2]
    before, after = min((op.size - 1) // 2, c), min(op.size // 2, c)
    squares = x.new_zeros((n, before + c + after, *x.shape[2:]))
    torch.square(x, out=squares[:, before : before + c])
    total = squares.unfold(1, before + 1 + after, 1).sum(-1)
    return x / (op.bias + op.alpha / op.size * total) ** op.beta


def softmax(op: Softmax, x: Tensor) -> Tensor:
    return (torch.log_softmax if op.log else torch.softmax)(x, op.axis)


# ---- matrices -------------------------------------------------------------------------------------------------------
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The product in f32, its elements in the order of the result but with axes of its own."""
    left = a if a.ndim > 1 else a.unsqueeze(0)
    right = b if b.ndim > 1 else b.unsqueeze(1)
    rows, depth = left.shape[-2:]
    if right.ndim == 2:  # one matrix for the whole batch: more rows instead of more products
        return multiply(left.reshape(1, math.prod(left.shape[:-1]), depth), right.unsqueeze(0))
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    count, columns = math.prod(batch), right.shape[-1]
    return multiply(
        left.expand(*batch, rows, depth).reshape(count, rows, depth),
        right.expand(*batch, depth, columns).reshape(count, depth, columns),
    )


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a (B, M, K) times b (B, K, N). GPUs multiply halves as such, and must not round any partial sum to a half."""
    is_half = a.dtype == b.dtype and a.dtype != torch.float32
    if a.is_cuda and is_half:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


# ---- all of them ----------------------------------------------------------------------------------------------------
def evaluate(op: Op, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Computes `op` and writes its result.

    Args:
        inputs: of f16, bf16 or f32; any strides.
        outputs: one tensor of the shape that `op` infers, of one of these types; any strides but 0.

    Raises:
        InvalidArgument: `op` is a convolution or none of the graph's operations, the output has not the shape of the
            result, or the largest of no elements is asked for. InvalidModel: `op` does not fit the shapes.
    """
    (out,) = outputs
    shape = op.infer([tuple(x.shape) for x in inputs])[0]
    if out.shape != shape:
        raise InvalidArgument(f"the output of {op.name} has the shape {shape}, not {tuple(out.shape)}")
    with torch.no_grad(), torch.autocast(out.device.type, enabled=False):
        _write(op, inputs, out)


def _write(op: Op, inputs: Sequence[Tensor], out: Tensor) -> None:
    if out.numel() == 0:
        return
    match op:
        case Unary():
            out.copy_(activate(op.function, inputs[0].float()))
        case Binary():
            binary(op, inputs[0], inputs[1], out)
        case PRelu():
            out.copy_(prelu(*_wide(inputs)))
        case BatchNorm():
            out.copy_(batch_norm(op, *_wide(inputs)))
        case LayerNorm():
            out.copy_(layer_norm(op, *_wide(inputs)))
        case GroupNorm():
            out.copy_(group_norm(op, *_wide(inputs)))
        case LocalResponseNorm():
            out.copy_(local_response_norm(op, *_wide(inputs)))
        case Softmax():
            out.copy_(softmax(op, *_wide(inputs)))
        case MatMul():
            out.copy_(matmul(*inputs).reshape(out.shape))
        case Pool():
            out.copy_(pool(op, *inputs))
        case AdaptivePool():
            out.copy_(adaptive_pool(op, *inputs))
        case Reduce():
            out.copy_(reduce(op, *inputs))
        case Resize():
            out.copy_(resize(op, *inputs))
        case Concat():
            concatenate(op, inputs, out)
        case Pad():
            pad(op, inputs[0], out)
        case Slice():
            out.copy_(take(op, *inputs))
        case Reshape():
            out.copy_(inputs[0].reshape(out.shape))
        case Transpose():
            out.copy_(inputs[0].permute(op.perm))
        case Expand():
            out.copy_(inputs[0])  # which broadcasts
        case _:
            raise InvalidArgument(f"PyTorch's operators are not used for {op.name}")


def _wide(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [x.float() for x in inputs]


def copy(source: Tensor, target: Tensor) -> None:
    """Moves a tensor to another layout, or another type."""
    if source.shape != target.shape:
        raise InvalidArgument(f"a tensor of shape {tuple(source.shape)} does not fit one of {tuple(target.shape)}")
    with torch.no_grad():
        target.copy_(source)


__all__ = ["copy", "evaluate"]
