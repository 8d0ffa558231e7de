"""Operations that move data, and resizing."""

from __future__ import annotations

import numpy as np

from waterline.graph.ops import Concat, Expand, Pad, Reshape, Resize, Slice, Transpose

Array = np.ndarray


def concat(op: Concat, *inputs: Array) -> Array:
    return np.concatenate(inputs, op.axis)


def slice_(op: Slice, x: Array) -> Array:
    return x[tuple(as_slice(kept) for kept in op.ranges(x.shape))]


def as_slice(kept: range) -> slice:
    """The slice that takes these indices. A range says -1 where it stops in front of the first element, or is empty."""
    if len(kept) == 0:
        return slice(0, 0)
    return slice(kept.start, kept.stop if kept.stop >= 0 else None, kept.step)


def pad(op: Pad, x: Array) -> Array:
    """Every axis by itself: the output index i stands for the input's i - before, which the mode maps inside."""
    for axis, (before, after) in enumerate(zip(op.before, op.after, strict=True)):
        size = x.shape[axis]
        index = np.arange(-before, size + after)
        outside = (index < 0) | (index >= size)
        if op.mode == "reflect":
            index = size - 1 - np.abs(size - 1 - np.abs(index))
        if size == 0:  # nothing to take: all of it is padding
            x = np.full((*x.shape[:axis], len(index), *x.shape[axis + 1 :]), op.value)
            continue
        x = np.take(x, np.clip(index, 0, size - 1), axis)
        if op.mode == "constant" and outside.any():
            np.moveaxis(x, axis, 0)[outside] = op.value
    return x


def reshape(op: Reshape, x: Array) -> Array:
    return x.reshape(op.infer([x.shape])[0])


def transpose(op: Transpose, x: Array) -> Array:
    return x.transpose(op.perm)


def expand(op: Expand, x: Array) -> Array:
    return np.broadcast_to(x, op.infer([x.shape])[0])


# ---- resizing -------------------------------------------------------------------------------------------------------
def resize(op: Resize, x: Array) -> Array:
    """Axis by axis: every output position is a weighted sum of one, two or four neighbours in the input."""
    sizes = op.infer([x.shape])[0]
    for axis in (2, 3):
        size = x.shape[axis]
        scale = None if op.scale is None else op.scale[axis - 2]
        index, weight = neighbours(op, coordinates(op, sizes[axis], size, scale))
        shape = [1] * x.ndim
        shape[axis] = -1
        taken = [np.take(x, np.clip(i, 0, size - 1), axis) for i in index]
        x = taken[0] if op.mode == "nearest" else sum(w.reshape(shape) * t for w, t in zip(weight, taken, strict=True))
    return x


def coordinates(op: Resize, count: int, size: int, scale: float | None) -> Array:
    """For each of `count` outputs the position in an input axis of `size` elements.

    With a scale, ONNX's "length of the resized axis" is `size * scale`, not rounded down to `count`. Without, the scale
    is `count / size`, and the product comes before the division: positions that are whole numbers or halves come out
    exactly, and rounding them is not a matter of luck.
    """
    i = np.arange(count, dtype=np.float64)
    length = count if scale is None else size * scale

    def shrink(position: Array) -> Array:
        return position * size / count if scale is None else position / scale

    if op.coordinates == "asymmetric":
        return shrink(i)
    if op.coordinates == "align_corners":
        return i * (size - 1) / (length - 1) if length > 1 else np.zeros(count)
    if op.coordinates == "pytorch_half_pixel" and length <= 1:
        return np.zeros(count)
    return shrink(i + 0.5) - 0.5


def neighbours(op: Resize, position: Array) -> tuple[list[Array], list[Array]]:
    """The input indices that make each output, and their weights. Indices may lie outside: the edge repeats."""
    if op.mode == "nearest":
        rounded = {
            "floor": lambda v: np.floor(v),
            "ceil": lambda v: np.ceil(v),
            "round_prefer_floor": lambda v: np.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        }[op.rounding](position)
        return [rounded.astype(np.intp)], [np.ones_like(position)]
    left = np.floor(position)
    t = position - left
    base = left.astype(np.intp)
    if op.mode == "linear":
        return [base, base + 1], [1 - t, t]
    return [base + k for k in (-1, 0, 1, 2)], [keys_cubic(np.abs(t - k), op.cubic_coefficient) for k in (-1, 0, 1, 2)]


def keys_cubic(distance: Array, a: float) -> Array:
    """Keys' convolution kernel (IEEE Trans. ASSP 29(6), 1981, eq. 15) at a distance in [0, 2]."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, far)
