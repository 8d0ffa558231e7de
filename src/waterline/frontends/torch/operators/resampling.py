"""Interpolation. A recorded scale factor is kept, so that another image size is scaled alike.

PyTorch calls these in two ways: `.vec` with an optional list of factors, and the plain overloads with the output's
size and one optional factor for each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from waterline.frontends.torch.builder import Builder, Value
from waterline.frontends.torch.operators.convolution import as_images
from waterline.graph.ops import Resize

Factor = Sequence[float] | float | None


def _resize(
    b: Builder, x: Value, spatial: int, mode: str, coordinates: str, rounding: str, factors: tuple[Factor, ...]
) -> Value:
    images, back = as_images(b, x, spatial)
    listed = factors[0] if factors and isinstance(factors[0], (list, tuple)) else factors
    scales = [float(factor) for factor in listed if isinstance(factor, (int, float))]
    size = b.out_shape[-spatial:]
    # Aligned corners are those of the output's whole size; the factor has no say in where pixels lie.
    if len(scales) == spatial and coordinates != "align_corners":
        target, scale = None, (1.0, scales[0]) if spatial == 1 else (scales[0], scales[1])
    else:
        target, scale = (1, size[0]) if spatial == 1 else (size[0], size[1]), None
    return back(b.emit(Resize(mode, target, scale, coordinates, rounding), images))


def nearest(spatial: int, is_exact: bool = False) -> Callable[..., Value]:
    """Output i reads floor(i / scale); the exact variant floor((i + 1/2) / scale)."""
    coordinates, rounding = ("half_pixel", "round_prefer_ceil") if is_exact else ("asymmetric", "floor")

    def convert(b: Builder, x: Value, size: Sequence[int] | None, *factors: Factor) -> Value:
        return _resize(b, x, spatial, "nearest", coordinates, rounding, factors)

    return convert


def smooth(spatial: int, mode: str) -> Callable[..., Value]:
    def convert(b: Builder, x: Value, size: Sequence[int] | None, align_corners: bool, *factors: Factor) -> Value:
        coordinates = "align_corners" if align_corners else "half_pixel"
        return _resize(b, x, spatial, mode, coordinates, "round_prefer_floor", factors)

    return convert


CONVERTERS: dict[str, Callable] = {
    f"{name}.{overload}": converter
    for name, converter in (
        ("upsample_nearest1d", nearest(1)),
        ("upsample_nearest2d", nearest(2)),
        ("_upsample_nearest_exact1d", nearest(1, is_exact=True)),
        ("_upsample_nearest_exact2d", nearest(2, is_exact=True)),
        ("upsample_linear1d", smooth(1, "linear")),
        ("upsample_bilinear2d", smooth(2, "linear")),
        ("upsample_bicubic2d", smooth(2, "cubic")),
    )
    for overload in ("default", "vec")
}
