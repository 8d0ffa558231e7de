"""`evaluate`: the value of an operation on constants, while a model is imported.

Shape arithmetic is exact in its own element type (int64, bool); everything else is left to the float64 reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from waterline import reference
from waterline.errors import InvalidModel
from waterline.graph import ops
from waterline.graph.ops import Op, Shape

FOLDING_LIMIT_BYTES = 2**30
FOLDING_FACTOR = 8

BINARY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
}
REDUCE: dict[str, Callable[..., np.ndarray]] = {"sum": np.sum, "max": np.max, "min": np.min}


class Budget:
    """The memory that constants computed from constants may take together; it stops files that ask for terabytes.

    A gigabyte, and a multiple of what the model itself brings: folding weights takes more in larger models.
    """

    def __init__(self) -> None:
        self.limit_bytes = FOLDING_LIMIT_BYTES
        self.taken_bytes = 0

    def grant(self, count_bytes: int) -> None:
        """An initializer of this size was read."""
        self.limit_bytes += FOLDING_FACTOR * count_bytes

    def take(self, count_bytes: int) -> None:
        """Called before memory is allocated. Raises InvalidModel when nothing is left."""
        self.taken_bytes += count_bytes
        if self.taken_bytes > self.limit_bytes:
            raise InvalidModel(
                f"the constants that the model computes from constants would need {self.taken_bytes} bytes, "
                f"{self.limit_bytes} are allowed",
                "store large constants as initializers",
            )


def evaluate(op: Op, arrays: Sequence[np.ndarray], shape: Shape, budget: Budget) -> np.ndarray:
    """The result of `op`, which has the shape `shape`; a view of the input where that is possible."""
    first = arrays[0]
    match op:
        case ops.Reshape():
            return first.reshape(shape)
        case ops.Transpose():
            return first.transpose(op.perm)
        case ops.Slice():
            return first[_slices(op, first.shape)]
        case ops.Expand():
            return np.broadcast_to(first, shape)
    budget.take(math.prod(shape) * max(array.dtype.itemsize for array in arrays))
    with np.errstate(all="ignore"):
        match op:
            case ops.Concat():
                return np.concatenate(arrays, op.axis)
            case ops.Binary(after=None) if op.kind in BINARY:
                return BINARY[op.kind](*arrays)
            case ops.Binary(kind="div", after=None):
                return divide(*arrays)
            case ops.Unary() if first.dtype.kind in "iu" and op.function.kind in ("neg", "abs"):
                return np.negative(first) if op.function.kind == "neg" else np.abs(first)
            case ops.Reduce() if first.dtype.kind in "iu" and op.kind in REDUCE:
                return REDUCE[op.kind](first, axis=op.axes, keepdims=op.keepdims).astype(first.dtype)
    result = reference.evaluate(op, [array.astype(np.float64) for array in arrays])
    return result.astype(np.float32)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ONNX's Div: whole numbers are divided towards zero. Raises InvalidModel for a whole number divided by zero."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    if not np.all(b):
        raise InvalidModel("a constant whole number is divided by zero")
    quotient = np.floor_divide(a, b)
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype)


def _slices(op: ops.Slice, shape: Shape) -> tuple[slice, ...]:
    """The same selection as `op.ranges`, as basic indexing, so that nothing is copied."""
    selection = [slice(None)] * len(shape)
    for axis, start, stop, step in zip(op.axes, op.starts, op.stops, op.steps, strict=True):
        selection[axis] = slice(start, stop, step)
    return tuple(selection)
