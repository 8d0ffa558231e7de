"""Windows, adaptive windows and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from waterline.frontends.torch.builder import Builder, Unsupported, Value
from waterline.frontends.torch.operators.axes import resolve_all
from waterline.frontends.torch.operators.convolution import as_images, pair
from waterline.graph.ops import AdaptivePool, Pool, Reduce

Sizes = Sequence[int]


def max_pool(spatial: int) -> Callable[..., Value]:
    def convert(
        b: Builder, x: Value, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool
    ) -> Value:
        images, back = as_images(b, x, spatial)
        top, left = pair(padding, spatial, 0)
        op = Pool(
            "max",
            pair(kernel, spatial, 1),
            pair(stride or kernel, spatial, 1),
            (top, left, top, left),
            pair(dilation, spatial, 1),
            bool(ceil_mode),
        )
        return back(b.emit(op, images))

    return convert


def average_pool(spatial: int) -> Callable[..., Value]:
    def convert(
        b: Builder,
        x: Value,
        kernel: Sizes,
        stride: Sizes,
        padding: Sizes,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None = None,
    ) -> Value:
        if divisor_override is not None:
            raise Unsupported(f"divisor_override {divisor_override}")
        images, back = as_images(b, x, spatial)
        top, left = pair(padding, spatial, 0)
        op = Pool(
            "average",
            pair(kernel, spatial, 1),
            pair(stride or kernel, spatial, 1),
            (top, left, top, left),
            ceil_mode=bool(ceil_mode),
            count_include_pad=bool(count_include_pad),
        )
        return back(b.emit(op, images))

    return convert


def average_pool_depth(
    b: Builder,
    x: Value,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Value:
    """avg_pool3d with a window in depth only: what PyTorch makes of local_response_norm."""
    steps = list(stride or kernel)
    is_deep = x.rank == 5 and len(kernel) == 3 and list(kernel[1:]) == [1, 1] and steps[1:] == [1, 1]
    if not is_deep or any(padding) or divisor_override is not None:
        raise Unsupported("3-D; Waterline computes 1-D and 2-D")
    images = b.reshape(x, (0, 0, 0, -1))
    pooled = b.emit(Pool("average", (kernel[0], 1), (steps[0], 1), ceil_mode=bool(ceil_mode)), images)
    return b.reshape(pooled, (0, 0, 0, *x.shape[3:]))


def adaptive_pool(kind: str, spatial: int) -> Callable[..., Value]:
    def convert(b: Builder, x: Value, size: Sizes) -> Value:
        images, back = as_images(b, x, spatial)
        return back(b.emit(AdaptivePool(kind, pair(size, spatial, 1)), images))

    return convert


def first_of_two(convert: Callable[..., Value]) -> Callable[..., tuple[Value, None]]:
    """For operators that also return indices, which Waterline does not compute."""

    def both(*arguments: object) -> tuple[Value, None]:
        return convert(*arguments), None

    return both


# ---- reductions -----------------------------------------------------------------------------------------------------
def reduction(kind: str) -> Callable[..., Value]:
    def convert(
        b: Builder, x: Value, dim: Sizes | int | None = None, keepdim: bool = False, dtype: object = None
    ) -> Value:
        return b.emit(Reduce(kind, resolve_all(dim, x.rank), keepdim), x)

    return convert


def full_reduction(kind: str) -> Callable[..., Value]:
    def convert(b: Builder, x: Value, dtype: object = None) -> Value:
        return b.emit(Reduce(kind, tuple(range(x.rank)), False), x)

    return convert


def norm(b: Builder, x: Value, order: float | None = 2, dim: Sizes | None = None, keepdim: bool = False) -> Value:
    axes = resolve_all(dim, x.rank)
    if order in (None, 2):
        return b.emit(Reduce("l2", axes, keepdim), x)
    kind = {1: "sum", math.inf: "max", -math.inf: "min"}.get(float(order))
    if kind is None:
        raise Unsupported(f"order {order}")
    return b.emit(Reduce(kind, axes, keepdim), b.unary("abs", x))


def vector_norm(b: Builder, x: Value, order: float, dim: Sizes | None, keepdim: bool, dtype: object = None) -> Value:
    return norm(b, x, order, dim, keepdim)


def variance(
    b: Builder, x: Value, dim: Sizes | None = None, correction: float | None = None, keepdim: bool = False
) -> Value:
    axes = resolve_all(dim, x.rank)
    count = math.prod(x.shape[axis] for axis in axes)
    freedom = count - (1 if correction is None else float(correction))
    if freedom <= 0:
        raise Unsupported(f"the variance of {count} elements with correction {correction}")
    centred = b.binary("sub", x, b.emit(Reduce("mean", axes, True), x))
    mean = b.emit(Reduce("mean", axes, keepdim), b.unary("square", centred))
    return mean if freedom == count else b.binary("mul", mean, count / freedom)


def deviation(
    b: Builder, x: Value, dim: Sizes | None = None, correction: float | None = None, keepdim: bool = False
) -> Value:
    return b.unary("sqrt", variance(b, x, dim, correction, keepdim))


def variance_and_mean(
    b: Builder, x: Value, dim: Sizes | None = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return variance(b, x, dim, correction, keepdim), b.emit(Reduce("mean", resolve_all(dim, x.rank), keepdim), x)


CONVERTERS: dict[str, Callable] = {
    "max_pool1d.default": max_pool(1),
    "max_pool2d.default": max_pool(2),
    "max_pool1d_with_indices.default": first_of_two(max_pool(1)),
    "max_pool2d_with_indices.default": first_of_two(max_pool(2)),
    "avg_pool1d.default": average_pool(1),
    "avg_pool2d.default": average_pool(2),
    "avg_pool3d.default": average_pool_depth,
    "adaptive_avg_pool1d.default": adaptive_pool("average", 1),
    "adaptive_avg_pool2d.default": adaptive_pool("average", 2),
    "_adaptive_avg_pool2d.default": adaptive_pool("average", 2),
    "adaptive_max_pool1d.default": first_of_two(adaptive_pool("max", 1)),
    "adaptive_max_pool2d.default": first_of_two(adaptive_pool("max", 2)),
    "mean.dim": reduction("mean"),
    "mean.default": full_reduction("mean"),
    "sum.dim_IntList": reduction("sum"),
    "sum.default": full_reduction("sum"),
    "amax.default": reduction("max"),
    "amin.default": reduction("min"),
    "max.default": full_reduction("max"),
    "min.default": full_reduction("min"),
    "max.dim": first_of_two(reduction("max")),
    "min.dim": first_of_two(reduction("min")),
    "norm.ScalarOpt_dim": norm,
    "norm.Scalar": norm,
    "linalg_vector_norm.default": vector_norm,
    "var.correction": variance,
    "std.correction": deviation,
    "var_mean.correction": variance_and_mean,
}
