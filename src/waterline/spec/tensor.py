"""`TensorView`: where the elements of a tensor lie, in strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorView:
    """A tensor's logical shape (the model's, NCHW) and the distance in elements between neighbours on each axis.

    NHWC storage of (N, C, H, W) has the strides (H W C, 1, W C, C). A view into a concatenation has the same strides
    as the whole: its neighbours along H and W are further apart than its own channels are many.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def dense(cls, shape: Sequence[int], order: Sequence[int] | None = None) -> TensorView:
        """Without gaps; `order` lists the axes from the outermost in memory to the innermost (default: as they are)."""
        order = tuple(range(len(shape))) if order is None else tuple(order)
        strides = [0] * len(shape)
        step = 1
        for axis in reversed(order):
            strides[axis] = step
            step *= shape[axis]
        return cls(tuple(shape), tuple(strides))

    @property
    def order(self) -> tuple[int, ...]:
        """Axes from the outermost in memory to the innermost; axes of size 1 keep their logical place where free."""
        return tuple(sorted(range(len(self.shape)), key=lambda axis: (-self.strides[axis], axis)))

    def is_dense(self, order: Sequence[int]) -> bool:
        """Whether it lies without gaps, its axes in `order` from the outermost."""
        return self.has_places_of(TensorView.dense(self.shape, order))

    def has_places_of(self, other: TensorView) -> bool:
        """Whether both put every element in the same place (strides of axes of size 1 do not matter)."""
        return all(d <= 1 or s == t for d, s, t in zip(self.shape, self.strides, other.strides, strict=True))

    @property
    def elems(self) -> int:
        return math.prod(self.shape)

    @property
    def span_elems(self) -> int:
        """Elements from the first to the last inclusive; 0 for an empty tensor."""
        if 0 in self.shape:
            return 0
        return 1 + sum((d - 1) * s for d, s in zip(self.shape, self.strides, strict=True))

    def with_batch(self, n: int) -> TensorView:
        return TensorView((n, *self.shape[1:]), self.strides)


def channels_last(rank: int) -> tuple[int, ...]:
    """The storage order of a tensor whose axis 1 is its channels: (N, ..., C)."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))
