"""ATen operators to graph operations: one table, from files by family.

A converter takes the builder and every argument of the operator's schema in order (tensors as `Value`), and returns
a `Value` or a tuple of them. It raises `Unsupported` with the reason where Waterline does not compute the call.
"""

from __future__ import annotations

from collections.abc import Callable

from waterline.frontends.torch.operators import (
    activation,
    arithmetic,
    convolution,
    normalization,
    pieces,
    pooling,
    resampling,
    views,
)

CONVERTERS: dict[str, Callable] = {
    **convolution.CONVERTERS,
    **activation.CONVERTERS,
    **arithmetic.CONVERTERS,
    **normalization.CONVERTERS,
    **pooling.CONVERTERS,
    **pieces.CONVERTERS,
    **resampling.CONVERTERS,
    **views.CONVERTERS,
}


def find(name: str) -> Callable | None:
    """The converter of an operator by its name and overload, such as `conv2d.default`.

    In-place operators (`relu_`) and those that copy instead of aliasing (`view_copy`) compute what the plain ones do.
    """
    base, _, overload = name.partition(".")
    for stem in (base, base.removesuffix("_"), base.removesuffix("_copy")):
        converter = CONVERTERS.get(f"{stem}.{overload}")
        if converter is not None:
            return converter
    return None
