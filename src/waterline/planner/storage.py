"""`Storage`: which memory a tensor lies in, and how. Reshapes, transposes and slices without a copy are made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from waterline.spec import TensorView


@dataclass(frozen=True)
class Storage:
    """A tensor as a view into `root`: a buffer of the plan, named after the tensor that it was made for."""

    root: str
    offset: int  # elements from the root's beginning
    view: TensorView

    def transposed(self, perm: Sequence[int]) -> Storage:
        shape = tuple(self.view.shape[i] for i in perm)
        return replace(self, view=TensorView(shape, tuple(self.view.strides[i] for i in perm)))

    def sliced(self, ranges: Sequence[range]) -> Storage | None:
        """Elements `ranges[i]` of each axis; None where a step goes backwards."""
        if any(r.step < 1 for r in ranges):
            return None
        strides = self.view.strides
        offset = sum(r.start * s for r, s in zip(ranges, strides, strict=True) if len(r))
        shape = tuple(len(r) for r in ranges)
        return Storage(
            self.root,
            self.offset + offset,
            TensorView(shape, tuple(s * r.step for r, s in zip(ranges, strides, strict=True))),
        )

    def reshaped(self, shape: Sequence[int]) -> Storage | None:
        """The same elements under another shape; None where they would have to move."""
        strides = reshaped_strides(self.view, tuple(shape))
        return None if strides is None else replace(self, view=TensorView(tuple(shape), strides))


def reshaped_strides(view: TensorView, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides that give `view` the new shape in place, or None.

    Axes are taken in groups of equal products; within a group the old axes must follow each other in memory.
    """
    if 0 in view.shape:
        return TensorView.dense(shape).strides  # there is nothing to find
    old = [(d, s) for d, s in zip(view.shape, view.strides, strict=True) if d != 1]
    new = [d for d in shape if d != 1]
    strides: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i >= len(old) or j >= len(new):
            return None
        first = i
        left, right = old[i][0], new[j]
        group = [new[j]]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                if i >= len(old):
                    return None
                left *= old[i][0]
                i += 1
            else:
                if j >= len(new):
                    return None
                right *= new[j]
                group.append(new[j])
                j += 1
        for (_, outer), (inner_size, inner) in zip(old[first : i - 1], old[first + 1 : i], strict=True):
            if outer != inner_size * inner:
                return None
        step = old[i - 1][1]
        found = []
        for size in reversed(group):
            found.append(step)
            step *= size
        strides += reversed(found)
    # Axes of size 1: any stride will do; the neighbour's inner extent keeps views canonical.
    full: list[int] = []
    position = len(strides)
    step = 1
    for size in reversed(shape):
        if size != 1:
            position -= 1
            full.append(strides[position])
            step = max(step, strides[position] * size)
        else:
            full.append(step)
    return tuple(reversed(full))


def is_channels_last(view: TensorView) -> bool:
    """Whether the channels of (N, C, H, W) are neighbours: what every convolution needs of its tensors."""
    return view.shape[1] == 1 or view.strides[1] == 1


def has_linear_pixels(view: TensorView) -> bool:
    """Whether the pixels of an image, taken row by row, are at one distance."""
    _, _, h, w = view.shape
    return h == 1 or w == 1 or view.strides[2] == w * view.strides[3]
