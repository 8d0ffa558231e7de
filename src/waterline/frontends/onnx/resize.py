"""Resize and its predecessor Upsample, along the spatial axes of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from waterline.errors import InvalidModel
from waterline.frontends.onnx.call import Call, Converters, positive_axes
from waterline.frontends.onnx.values import RefusalError, Value
from waterline.frontends.onnx.window import lift, lower
from waterline.graph import ops
from waterline.graph.ops import Shape


@dataclass(frozen=True)
class Target:
    """For every axis of the input its new size and, where the model gives factors instead, its factor."""

    sizes: Shape
    scales: tuple[float, ...] | None


def upsample(call: Call) -> Value:
    """Opsets 7 to 9. Its coordinates are Resize's `asymmetric`."""
    x = call.value(0)
    scales = call.attributes.numbers("scales") if call.opset < 9 else _numbers(call, 1)
    target = _by_scales(x.shape, tuple(range(len(x.shape))), scales)
    return _resize(call, target, call.attributes.text("mode", "nearest"), "asymmetric", "floor")


def resize(call: Call) -> Value:
    x = call.value(0)
    rank = len(x.shape)
    mode = call.attributes.text("mode", "nearest")
    if call.opset < 11:
        return _resize(call, _by_scales(x.shape, tuple(range(rank)), _numbers(call, 1)), mode, "asymmetric", "floor")
    axes = positive_axes(call.attributes.integers("axes", range(rank)), rank)
    scales = _numbers(call, 2) if call.has(2) else ()
    sizes = call.integers(3) if call.has(3) else ()
    if bool(scales) == bool(sizes):
        raise InvalidModel("exactly one of scales and sizes is expected")
    target = _by_scales(x.shape, axes, scales) if scales else _by_sizes(call, x.shape, axes, sizes)
    coordinates = _coordinates(call, x.shape, target)
    return _resize(call, target, mode, coordinates, call.attributes.text("nearest_mode", "round_prefer_floor"))


def _numbers(call: Call, position: int) -> tuple[float, ...]:
    array = call.array(position)
    if array.ndim != 1 or array.dtype.kind != "f":
        raise InvalidModel(f"scales are {array.dtype}{array.shape}, a list of numbers is expected")
    return tuple(float(v) for v in array)


def _by_scales(x: Shape, axes: Sequence[int], scales: Sequence[float]) -> Target:
    if len(scales) != len(axes):
        raise InvalidModel(f"{len(scales)} scales for {len(axes)} axes")
    if not all(0 < scale < math.inf for scale in scales):
        raise InvalidModel(f"scales {tuple(scales)} must be positive")
    factors = [1.0] * len(x)
    for axis, scale in zip(axes, scales, strict=True):
        factors[axis] = scale
    return Target(tuple(math.floor(d * f) for d, f in zip(x, factors, strict=True)), tuple(factors))


def _by_sizes(call: Call, x: Shape, axes: Sequence[int], sizes: Sequence[int]) -> Target:
    if len(sizes) != len(axes) or any(size < 1 for size in sizes) or not all(x[axis] for axis in axes):
        raise InvalidModel(f"sizes {tuple(sizes)} for the axes {tuple(axes)} of {x}")
    policy = call.attributes.text("keep_aspect_ratio_policy", "stretch")
    wanted = list(x)
    if policy == "stretch":
        for axis, size in zip(axes, sizes, strict=True):
            wanted[axis] = size
        return Target(tuple(wanted), None)
    if policy not in ("not_larger", "not_smaller"):
        raise InvalidModel(f"keep_aspect_ratio_policy {policy!r}")
    choose = min if policy == "not_larger" else max
    scale = choose(size / x[axis] for axis, size in zip(axes, sizes, strict=True))
    if any(math.floor(scale * x[axis]) != math.floor(scale * x[axis] + 0.5) for axis in axes):
        raise RefusalError(f"keep_aspect_ratio_policy {policy!r} asks for sizes that are rounded up")
    return _by_scales(x, axes, [scale] * len(axes))


def _coordinates(call: Call, x: Shape, target: Target) -> str:
    """The rule for coordinates under the graph's names. Raises RefusalError for the rare ones."""
    coordinates = call.attributes.text("coordinate_transformation_mode", "half_pixel")
    if coordinates == "half_pixel_symmetric":
        # It is half_pixel around the image's centre: the same if nothing was lost when the size was rounded down.
        if target.scales is None or all(
            d * s == size for d, s, size in zip(x, target.scales, target.sizes, strict=True)
        ):
            return "half_pixel"
    elif coordinates in ops.COORDINATES:
        return coordinates
    raise RefusalError(f"coordinate_transformation_mode is {coordinates!r}")


def _resize(call: Call, target: Target, mode: str, coordinates: str, rounding: str) -> Value:
    x = call.value(0)
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    if mode not in ("nearest", "linear", "cubic"):
        raise InvalidModel(f"mode {mode!r}")
    if rounding not in ops.ROUNDINGS:
        raise InvalidModel(f"nearest_mode {rounding!r}")
    if target.sizes == x.shape and (target.scales is None or set(target.scales) == {1.0}):
        return x
    if len(x.shape) not in (3, 4):
        raise RefusalError(f"the input {x.shape} has {len(x.shape)} axes; images of rank 3 and 4 are supported")
    if target.sizes[:2] != x.shape[:2] or (target.scales is not None and target.scales[:2] != (1.0, 1.0)):
        raise RefusalError(f"it resizes {x.shape} to {target.sizes}; the first two axes must stay")
    if call.attributes.integer("antialias", 0) and mode != "nearest" and _shrinks(x.shape, target):
        raise RefusalError("antialias is set")
    if call.attributes.integer("exclude_outside", 0) and mode == "cubic":
        raise RefusalError("exclude_outside is set")
    spatial = len(x.shape) - 2
    size = (1, *target.sizes[2:])[-2:]
    scale = None if target.scales is None else (1.0, *target.scales[2:])[-2:]
    if spatial == 1 and mode == "cubic":
        raise RefusalError("a cubic resize of one spatial dimension")
    op = ops.Resize(
        mode,
        (size[0], size[1]) if scale is None else None,
        None if scale is None else (scale[0], scale[1]),
        coordinates,
        rounding,
        call.attributes.number("cubic_coeff_a", -0.75),
    )
    return lower(call, call.emit(op, lift(call, x)), len(x.shape))


def _shrinks(x: Shape, target: Target) -> bool:
    return any(new < old for new, old in zip(target.sizes, x, strict=True))


CONVERTERS: Converters = {"Resize": resize, "Upsample": upsample}
