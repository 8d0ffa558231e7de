"""Parts of a tensor, and tensors from parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from waterline.frontends.torch.builder import Builder, Unsupported, Value
from waterline.frontends.torch.operators.axes import resolve
from waterline.frontends.torch.operators.views import expand, squeeze, unsqueeze
from waterline.graph.ops import END, Concat, Pad, Slice


def cut(b: Builder, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """`start:stop:step` of one axis; open to the end where it reaches the end, so that another size is cut alike."""
    size = x.shape[axis]
    if stop >= size:
        stop = END
    if (start, stop, step) == (0, END, 1):
        return x
    if x.constant is not None:
        indices = torch.tensor(range(size)[start:stop:step], dtype=torch.int64)
        return b.constant(x.constant.index_select(axis, indices), x.name)
    return b.emit(Slice((axis,), (start,), (stop,), (step,)), x)


def slice_tensor(
    b: Builder, x: Value, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Value:
    axis = resolve(dim, x.rank)
    start = 0 if start is None or -start >= x.shape[axis] else start
    return cut(b, x, axis, start, END if stop is None else stop, step)


def narrow(b: Builder, x: Value, dim: int, start: int, length: int) -> Value:
    axis = resolve(dim, x.rank)
    start = resolve(start, x.shape[axis])
    return cut(b, x, axis, start, start + length)


def select(b: Builder, x: Value, dim: int, index: int) -> Value:
    axis = resolve(dim, x.rank)
    return squeeze(b, cut(b, x, axis, index, END if index == -1 else index + 1), [axis])


def _cut_all(b: Builder, x: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    parts, start = [], 0
    for size in sizes:
        parts.append(cut(b, x, axis, start, start + size))
        start += size
    return tuple(parts)


def split(b: Builder, x: Value, size: int, dim: int = 0) -> tuple[Value, ...]:
    axis = resolve(dim, x.rank)
    total = x.shape[axis]
    return _cut_all(b, x, axis, [min(size, total - start) for start in range(0, total, size)])


def split_with_sizes(b: Builder, x: Value, sizes: Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    return _cut_all(b, x, resolve(dim, x.rank), sizes)


def chunk(b: Builder, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    return split(b, x, max(1, -(-x.shape[resolve(dim, x.rank)] // chunks)), dim)


def tensor_split(b: Builder, x: Value, sections: int, dim: int = 0) -> tuple[Value, ...]:
    axis = resolve(dim, x.rank)
    size, longer = divmod(x.shape[axis], sections)
    return _cut_all(b, x, axis, [size + (i < longer) for i in range(sections)])


def unbind(b: Builder, x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(select(b, x, dim, index) for index in range(x.shape[resolve(dim, x.rank)]))


def cat(b: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    parts = [x for x in tensors if x.shape != (0,)]  # PyTorch skips these whatever the others' rank
    return parts[0] if len(parts) == 1 else b.emit(Concat(resolve(dim, parts[0].rank)), *parts)


def stack(b: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    axis = resolve(dim, tensors[0].rank + 1)
    return cat(b, [unsqueeze(b, x, axis) for x in tensors], axis)


def unfold(b: Builder, x: Value, dim: int, size: int, step: int) -> Value:
    """Windows of one axis: their number stays there, their elements become the last axis."""
    axis = resolve(dim, x.rank)
    starts = range(0, x.shape[axis] - size + 1, step)
    windows = cat(b, [unsqueeze(b, cut(b, x, axis, start, start + size), axis) for start in starts], axis)
    order = [i for i in range(windows.rank) if i != axis + 1]
    return b.transpose(windows, [*order, axis + 1])


def index_select(b: Builder, x: Value, dim: int, index: Value) -> Value:
    """The listed elements of an axis: one slice for each run of neighbours."""
    if index.constant is None:
        raise Unsupported("its index is computed by the network")
    axis = resolve(dim, x.rank)
    wanted = [resolve(int(i), x.shape[axis]) for i in index.constant.flatten()]
    runs: list[list[int]] = []
    for i in wanted:
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return cat(b, [cut(b, x, axis, run[0], run[-1] + 1) for run in runs], axis)


def index(b: Builder, x: Value, indices: Sequence[Value | None]) -> Value:
    """x[:, index]: one axis indexed by a constant list of numbers."""
    axes = [i for i, index in enumerate(indices) if index is not None]
    only = indices[axes[0]]
    if len(axes) != 1 or only is None or only.rank != 1:
        raise Unsupported("it is computed for one index of rank 1")
    return index_select(b, x, axes[0], only)


def flip(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    axes = tuple(resolve(axis, x.rank) for axis in dims)
    count = len(axes)
    return b.emit(Slice(axes, (-1,) * count, (-END - 1,) * count, (-1,) * count), x)


def roll(b: Builder, x: Value, shifts: Sequence[int], dims: Sequence[int]) -> Value:
    if not dims:
        raise Unsupported("no dims")
    for shift, dim in zip(shifts, dims, strict=True):
        axis = resolve(dim, x.rank)
        shift %= x.shape[axis]
        if shift:
            x = b.emit(Concat(axis), cut(b, x, axis, -shift, END), cut(b, x, axis, 0, -shift))
    return x


def repeat(b: Builder, x: Value, repeats: Sequence[int]) -> Value:
    for _ in range(len(repeats) - x.rank):
        x = unsqueeze(b, x, 0)
    for axis, count in enumerate(repeats):
        if count == 0:
            raise Unsupported("a repetition of 0")
        if count > 1:
            x = b.emit(Concat(axis), *[x] * count)
    return x


def slice_scatter(
    b: Builder, x: Value, part: Value, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Value:
    """x with `part` in the place of `start:stop`."""
    axis = resolve(dim, x.rank)
    first, last, step = slice(start, stop, step).indices(x.shape[axis])
    if step != 1:
        raise Unsupported(f"step {step}")
    last = max(first, last)
    ends = [cut(b, x, axis, 0, first)] if first > 0 else []
    after = [cut(b, x, axis, last, END)] if last < x.shape[axis] else []
    return cat(b, [*ends, part, *after], axis)


def select_scatter(b: Builder, x: Value, part: Value, dim: int, index: int) -> Value:
    axis = resolve(dim, x.rank)
    first = resolve(index, x.shape[axis])
    return slice_scatter(b, x, unsqueeze(b, part, axis), axis, first, first + 1)


def copy(b: Builder, x: Value, source: Value, non_blocking: bool = False) -> Value:
    """`source`, with the shape of x."""
    return expand(b, source, x.shape)


# ---- padding --------------------------------------------------------------------------------------------------------
def _pad(b: Builder, x: Value, pads: Sequence[int], mode: str, value: float = 0.0) -> Value:
    """`pads` as PyTorch writes them: two numbers an axis, the last axis first."""
    before, after = [0] * x.rank, [0] * x.rank
    for i in range(len(pads) // 2):
        before[x.rank - 1 - i], after[x.rank - 1 - i] = pads[2 * i], pads[2 * i + 1]
    if not any(before) and not any(after):
        return x
    return b.emit(Pad(tuple(before), tuple(after), mode, float(value)), x)


def constant_pad(b: Builder, x: Value, pads: Sequence[int], value: float = 0.0) -> Value:
    return _pad(b, x, pads, "constant", value)


def reflection_pad(b: Builder, x: Value, pads: Sequence[int]) -> Value:
    return _pad(b, x, pads, "reflect")


def replication_pad(b: Builder, x: Value, pads: Sequence[int]) -> Value:
    return _pad(b, x, pads, "edge")


def pad(b: Builder, x: Value, pads: Sequence[int], mode: str, value: float | None = None) -> Value:
    if mode == "circular":
        return _wrap(b, x, pads)
    name = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[mode]
    return _pad(b, x, pads, name, value or 0.0)


def _wrap(b: Builder, x: Value, pads: Sequence[int]) -> Value:
    """Circular padding: what leaves on one side comes in on the other."""
    for i in range(len(pads) // 2):
        axis, before, after = x.rank - 1 - i, pads[2 * i], pads[2 * i + 1]
        if min(before, after) < 0:
            raise Unsupported(f"circular padding by {min(before, after)}")
        first = [cut(b, x, axis, -before, END)] if before else []
        last = [cut(b, x, axis, 0, after)] if after else []
        x = cat(b, [*first, x, *last], axis)
    return x


# ---- values that do not depend on the input's -----------------------------------------------------------------------
def filled(number: float) -> Callable[..., Value]:
    def convert(b: Builder, x: Value, *_: object) -> Value:
        return b.constant(torch.tensor(number).expand(b.out_shape))

    return convert


def filled_like(b: Builder, x: Value, number: float, *_: object) -> Value:
    return b.constant(torch.tensor(float(number)).expand(b.out_shape))


def newly_filled(b: Builder, x: Value, size: Sequence[int], number: float, *_: object) -> Value:
    return b.constant(torch.tensor(float(number)).expand(b.out_shape))


CONVERTERS: dict[str, Callable] = {
    "slice.Tensor": slice_tensor,
    "narrow.default": narrow,
    "select.int": select,
    "split.Tensor": split,
    "split.sizes": split_with_sizes,
    "split_with_sizes.default": split_with_sizes,
    "chunk.default": chunk,
    "unsafe_chunk.default": chunk,
    "unsafe_split.Tensor": split,
    "tensor_split.sections": tensor_split,
    "unbind.int": unbind,
    "cat.default": cat,
    "concat.default": cat,
    "concatenate.default": cat,
    "stack.default": stack,
    "unfold.default": unfold,
    "index_select.default": index_select,
    "index.Tensor": index,
    "flip.default": flip,
    "roll.default": roll,
    "slice_scatter.default": slice_scatter,
    "select_scatter.default": select_scatter,
    "copy.default": copy,
    "repeat.default": repeat,
    "constant_pad_nd.default": constant_pad,
    "pad.default": pad,
    "reflection_pad1d.default": reflection_pad,
    "reflection_pad2d.default": reflection_pad,
    "replication_pad1d.default": replication_pad,
    "replication_pad2d.default": replication_pad,
    "zeros_like.default": filled(0.0),
    "ones_like.default": filled(1.0),
    "new_zeros.default": filled(0.0),
    "new_ones.default": filled(1.0),
    "full_like.default": filled_like,
    "new_full.default": newly_filled,
}
