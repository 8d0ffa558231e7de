"""Convolutions, their transposes, and products with a weight matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from waterline.frontends.torch.builder import Builder, Unsupported, Value
from waterline.graph.ops import Conv, ConvTranspose, Linear, MatMul, Reshape, Slice, Softmax
from waterline.spec import Epilogue

Images = tuple[Value, Callable[[Value], Value]]


def as_images(b: Builder, x: Value, spatial: int) -> Images:
    """`x` with rank 4, and the function that brings a result back to the rank of `x`.

    Accepts what PyTorch's 1-D (`spatial` = 1) and 2-D layers do: (N,C,L), (N,C,H,W), and both without N.
    """
    if spatial not in (1, 2):
        raise Unsupported(f"{spatial}-D; Waterline computes 1-D and 2-D")
    if x.rank not in (spatial + 1, spatial + 2):
        raise Unsupported(f"input of shape {x.shape}")
    is_batched = x.rank == spatial + 2
    if spatial == 2:
        wide = x if is_batched else b.reshape(x, (1, *x.shape))
    else:
        wide = b.reshape(x, (0, 0, 1, -1) if is_batched else (1, x.shape[0], 1, x.shape[1]))

    def back(y: Value) -> Value:
        if spatial == 2:
            return y if is_batched else b.reshape(y, y.shape[1:])
        return b.reshape(y, (0, 0, -1) if is_batched else (y.shape[1], y.shape[3]))

    return wide, back


def pair(values: Sequence[int] | int, spatial: int, filler: int) -> tuple[int, int]:
    """An argument of a layer for two axes: one number stands for all, 1-D gets `filler` for the added axis."""
    numbers = [values] if isinstance(values, int) else list(values)
    if len(numbers) == 1:
        numbers = numbers * spatial
    if len(numbers) != spatial:
        raise Unsupported(f"{numbers} for {spatial} axes")
    return (filler, numbers[0]) if spatial == 1 else (numbers[0], numbers[1])


def require_constant(x: Value, what: str) -> None:
    if x.constant is None:
        raise Unsupported(f"its {what} is computed by the network")


def convolution(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    if weight.constant is None:
        experts = _experts(b, weight)
        arguments = (None, stride, padding, dilation, transposed, output_padding, groups)
        if experts is None or bias is not None:
            raise Unsupported("its weight is computed by the network")
        return _mixture(b, *experts, lambda expert: convolution(b, x, expert, *arguments))
    spatial = weight.rank - 2
    images, back = as_images(b, x, spatial)
    if spatial == 1:
        weight = b.reshape(weight, (0, 0, 1, -1))
    steps, spread = pair(stride, spatial, 1), pair(dilation, spatial, 1)
    if isinstance(padding, str):
        pad = _named_padding(padding, weight.shape, spread)
    else:
        top, left = pair(padding, spatial, 0)
        pad = (top, left, top, left)
    inputs = [images, weight] + ([bias] if bias is not None else [])
    if transposed:
        extra = pair(output_padding, spatial, 0)
        return back(b.emit(ConvTranspose(steps, pad, extra, spread, groups, bias is not None), *inputs))
    epilogue = Epilogue(bias=bias is not None)
    return back(b.emit(Conv(steps, pad, spread, groups, epilogue), *inputs))


def _named_padding(name: str, weight: tuple[int, ...], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """PyTorch's "same" (stride 1 only, the odd element goes after) and "valid"."""
    if name == "valid":
        return 0, 0, 0, 0
    rows, columns = (d * (size - 1) for d, size in zip(dilation, weight[2:], strict=True))
    return rows // 2, columns // 2, rows - rows // 2, columns - columns // 2


def _experts(b: Builder, weight: Value) -> tuple[Value, list[Value]] | None:
    """The factors (1, E) and the constant experts of a weight that is their sum, mixed by the network for one image."""
    op, inputs = b.origin(weight)
    mix, factors_and_experts = b.origin(inputs[0]) if isinstance(op, Reshape) else (None, ())
    if not isinstance(mix, Linear) or len(factors_and_experts) != 2:
        return None
    factors, matrix = factors_and_experts
    if factors.rank != 2 or factors.shape[0] != 1 or matrix.constant is None:
        return None
    return factors, [b.constant(column.reshape(weight.shape), matrix.name) for column in matrix.constant.unbind(1)]


def _mixture(b: Builder, factors: Value, experts: Sequence[Value], convolve: Callable[[Value], Value]) -> Value:
    """A convolution is linear in its weight: the sum of weights becomes the sum of the experts' outputs (CondConv)."""
    total: Value | None = None
    for i, expert in enumerate(experts):
        y = convolve(expert)
        factor = b.emit(Slice((1,), (i,), (i + 1,), (1,)), factors)
        part = b.binary("mul", y, b.reshape(factor, [1] * y.rank))
        total = part if total is None else b.binary("add", total, part)
    assert total is not None
    return total


def conv(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Value:
    return convolution(b, x, weight, bias, stride, padding, dilation, False, (), groups)


def conv_transpose(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Value:
    return convolution(b, x, weight, bias, stride, padding, dilation, True, output_padding, groups)


# ---- matrices -------------------------------------------------------------------------------------------------------
def linear(b: Builder, x: Value, weight: Value, bias: Value | None) -> Value:
    if weight.constant is None or (bias is not None and bias.constant is None):
        product = matmul(b, x, _swap_last(b, weight))
        return product if bias is None else b.binary("add", product, bias)
    inputs = [x, weight] + ([bias] if bias is not None else [])
    return b.emit(Linear(Epilogue(bias=bias is not None)), *inputs)


def matmul(b: Builder, x: Value, y: Value) -> Value:
    if y.constant is not None and y.rank == 2:
        return b.emit(Linear(), x, _swap_last(b, y))
    return b.emit(MatMul(), x, y)


def addmm(b: Builder, bias: Value, x: Value, y: Value, beta: float, alpha: float) -> Value:
    if y.constant is not None and bias.constant is not None and bias.shape == y.shape[1:] and beta == alpha == 1:
        return b.emit(Linear(Epilogue(bias=True)), x, _swap_last(b, y), bias)
    product = matmul(b, x, y)
    if alpha != 1:
        product = b.binary("mul", product, alpha)
    if beta == 0:
        return product
    return b.binary("add", product, bias if beta == 1 else b.binary("mul", bias, beta))


def attention(
    b: Builder,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None,
    dropout: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Value:
    """softmax(q k^T scale + mask) v, over the last two axes."""
    if dropout or enable_gqa:
        raise Unsupported("dropout" if dropout else "enable_gqa")
    scores = b.emit(MatMul(), query, _swap_last(b, key))
    scores = b.binary("mul", scores, query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = b.constant(torch.ones(scores.shape[-2:], dtype=torch.bool).tril())
    if mask is not None:
        if mask.constant is not None and mask.constant.dtype == torch.bool:
            mask = b.constant(torch.zeros(mask.shape).masked_fill(~mask.constant, float("-inf")))
        scores = b.binary("add", scores, mask)
    return b.emit(MatMul(), b.emit(Softmax(scores.rank - 1), scores), value)


def _swap_last(b: Builder, x: Value) -> Value:
    if x.rank < 2:
        return x
    order = list(range(x.rank))
    return b.transpose(x, [*order[:-2], order[-1], order[-2]])


CONVERTERS: dict[str, Callable] = {
    "convolution.default": convolution,
    "conv1d.default": conv,
    "conv1d.padding": conv,
    "conv2d.default": conv,
    "conv2d.padding": conv,
    "conv_transpose1d.default": conv_transpose,
    "conv_transpose2d.input": conv_transpose,
    "linear.default": linear,
    "matmul.default": matmul,
    "mm.default": matmul,
    "bmm.default": matmul,
    "mv.default": matmul,
    "addmm.default": addmm,
    "baddbmm.default": addmm,
    "scaled_dot_product_attention.default": attention,
}
