"""Operators that only move data: shapes, axes, slices, padding."""

from __future__ import annotations

import math

import numpy as np

from waterline.errors import InvalidModel
from waterline.frontends.onnx.call import Call, Converters, positive_axes
from waterline.frontends.onnx.values import Constant, RefusalError, Tensor, Value
from waterline.graph import ops
from waterline.graph.ops import END

MOST_RUNS = 64  # of a Gather: more pieces than that are no longer a matter of slices


def reshape(call: Call) -> Value:
    """0 copies a size (unless `allowzero`), -1 is what is left."""
    x = call.value(0)
    wanted = list(call.integers(1))
    if not call.attributes.integer("allowzero", 0):
        if any(d == 0 and i >= len(x.shape) for i, d in enumerate(wanted)):
            raise InvalidModel(f"the shape {wanted} copies an axis that {x.shape} does not have")
        wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    if wanted.count(-1) > 1 or any(d < -1 for d in wanted):
        raise InvalidModel(f"{x.shape} to {wanted}")
    if -1 in wanted:
        known, elems = math.prod(d for d in wanted if d != -1), math.prod(x.shape)
        if known == 0 or elems % known:
            raise InvalidModel(f"{x.shape} has not a multiple of {known} elements")
        wanted[wanted.index(-1)] = elems // known
    return call.builder.reshape(x, wanted)


def flatten(call: Call) -> Value:
    x = call.value(0)
    axis = call.axis(1, len(x.shape), inclusive=True)
    return call.builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), None if axis else 1)


def squeeze(call: Call) -> Value:
    x = call.value(0)
    given = call.axes("axes", 1, 13)
    axes = [i for i, d in enumerate(x.shape) if d == 1] if given is None else positive_axes(given, len(x.shape))
    if any(x.shape[axis] != 1 for axis in axes):
        raise InvalidModel(f"axes {tuple(axes)} of {x.shape} are not all of size 1")
    shape = [d for i, d in enumerate(x.shape) if i not in axes]
    return call.builder.reshape(x, shape, 0 if 0 in axes else None)


def unsqueeze(call: Call) -> Value:
    x = call.value(0)
    given = call.axes("axes", 1, 13)
    if given is None:
        raise InvalidModel("it has no axes")
    rank = len(x.shape) + len(given)
    axes = positive_axes(given, rank)
    sizes = iter(x.shape)
    shape = [1 if i in axes else next(sizes) for i in range(rank)]
    first = next((i for i in range(rank) if i not in axes), 0)
    return call.builder.reshape(x, shape, first if 0 in axes else None)


def transpose(call: Call) -> Value:
    x = call.value(0)
    perm = call.attributes.integers("perm", reversed(range(len(x.shape))))
    if perm == tuple(range(len(x.shape))):
        return x
    return call.emit(ops.Transpose(perm), x)


def expand(call: Call) -> Value:
    x, wanted = call.value(0), call.integers(1)
    if any(d < 0 for d in wanted):
        raise InvalidModel(f"the shape {wanted} has negative sizes")
    result = ops.broadcast(x.shape, wanted)
    if result == x.shape:
        return x
    # Where the size stays, 1 lets the input's own (the batch, usually) through.
    own = (1,) * (len(result) - len(x.shape)) + x.shape
    return call.emit(ops.Expand(tuple(1 if d == o else d for d, o in zip(result, own, strict=True))), x)


def tile(call: Call) -> Value:
    """(a, b) repeated (r, s) times is (1, a, 1, b) expanded to (r, a, s, b)."""
    x, repeats = call.value(0), call.integers(1)
    if len(repeats) != len(x.shape) or any(r < 0 for r in repeats):
        raise InvalidModel(f"repeats {repeats} for the input {x.shape}")
    if set(repeats) <= {1}:
        return x
    split = [size for d in x.shape for size in (1, d)]
    wide = [size for r, d in zip(repeats, x.shape, strict=True) for size in (r, d)]
    pieces = call.builder.reshape(x, split, 1)
    result = tuple(r * d for r, d in zip(repeats, x.shape, strict=True))
    if isinstance(pieces, Constant):
        call.builder.budget.take(math.prod(result) * pieces.array.itemsize)
    # In the expanded shape 1 stands for the input's own size.
    factors = [size if i % 2 == 0 else 1 for i, size in enumerate(wide)]
    return call.builder.reshape(call.emit(ops.Expand(tuple(factors)), pieces), result, 0)


# ---- joining and cutting --------------------------------------------------------------------------------------------
def concat(call: Call) -> Value:
    values = call.values()
    axis = call.axis(1, len(values[0].shape))
    return values[0] if len(values) == 1 else call.emit(ops.Concat(axis), *values)


def split(call: Call) -> list[Value]:
    x = call.value(0)
    if not x.shape:
        raise InvalidModel("a scalar cannot be split")
    axis = call.axis(0, len(x.shape))
    size, count = x.shape[axis], len(call.outputs)
    sizes = call.axes("split", 1, 13)
    if sizes is None:
        count = call.attributes.integer("num_outputs", count)
        if count < len(call.outputs) or count < 1 or count > max(size, 1):
            raise InvalidModel(f"{size} elements cannot be split into {count} outputs")
        if call.opset < 18 and size % count:
            raise InvalidModel(f"{size} elements cannot be split into {count} equal parts")
        chunk = -(-size // count)
        sizes = tuple(max(min(chunk, size - i * chunk), 0) for i in range(count))
    if sum(sizes) != size or any(d < 0 for d in sizes) or len(sizes) < len(call.outputs):
        raise InvalidModel(f"parts {sizes} of axis {axis} of {x.shape}, for {len(call.outputs)} outputs")
    parts: list[Value] = []
    start = 0
    for part in sizes[: len(call.outputs)]:
        parts.append(cut(call, x, axis, start, start + part, 1))
        start += part
    return parts


def slice_(call: Call) -> Value:
    x = call.value(0)
    rank = len(x.shape)
    if call.opset < 10:
        starts, ends = call.attributes.integers("starts"), call.attributes.integers("ends")
        axes = call.attributes.integers("axes", range(len(starts)))
        steps: tuple[int, ...] = (1,) * len(starts)
    else:
        starts, ends = call.integers(1), call.integers(2)
        axes = call.integers(3) if call.has(3) else tuple(range(len(starts)))
        steps = call.integers(4) if call.has(4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise InvalidModel(f"starts {starts}, ends {ends}, axes {axes}, steps {steps} must have one length")
    axes = positive_axes(axes, rank)
    if 0 in steps:
        raise InvalidModel("a step is 0")
    bounds = [bound(end, x.shape[axis], step) for end, axis, step in zip(ends, axes, steps, strict=True)]
    op = ops.Slice(axes, tuple(max(start, -END) for start in starts), tuple(bounds), steps)
    if all(kept == range(size) for kept, size in zip(op.ranges(x.shape), x.shape, strict=True)):
        return x
    return call.emit(op, x)


def bound(end: int, size: int, step: int) -> int:
    """A slice's stop; "to the end" is written so that it holds for other sizes, too."""
    if step > 0:
        return END if end >= size else max(end, -END)
    return -END - 1 if end < -size else end


def cut(call: Call, x: Constant | Tensor, axis: int, start: int, stop: int, step: int) -> Constant | Tensor:
    """One axis' slice; the input itself if that is all of it."""
    size = x.shape[axis]
    if range(size)[start:stop:step] == range(size):
        return x
    return call.emit(ops.Slice((axis,), (start,), (bound(stop, size, step),), (step,)), x)


def gather(call: Call) -> Value:
    """Known indices of an activation are slices; of a constant they are looked up."""
    x, indices = call.value(0), call.array(1)
    if indices.dtype.kind not in "iu" or not x.shape:
        raise InvalidModel(f"indices of type {indices.dtype} into {x.shape}")
    axis = call.axis(0, len(x.shape))
    size = x.shape[axis]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise InvalidModel(f"an index is outside of axis {axis} of {x.shape}")
    if isinstance(x, Constant):
        call.builder.budget.take(indices.size * x.array.itemsize * math.prod(x.shape) // max(size, 1))
        return Constant(np.take(x.array, indices, axis))
    picked = [int(i) + size if i < 0 else int(i) for i in indices.reshape(-1)]
    runs = _runs(picked)
    if not runs or len(runs) > MOST_RUNS:
        raise RefusalError(f"its {len(picked)} indices are not a few slices")
    pieces = [cut(call, x, axis, r.start, r.stop if r.stop >= 0 else -END - 1, r.step) for r in runs]
    taken = pieces[0] if len(pieces) == 1 else call.emit(ops.Concat(axis), *pieces)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return call.builder.reshape(taken, shape, None if axis else indices.ndim)


def _runs(indices: list[int]) -> list[range]:
    """The indices as a few ranges of constant step."""
    runs: list[range] = []
    for index in indices:
        last = runs[-1] if runs else None
        if last is not None and len(last) == 1 and index != last[0]:
            step = index - last[0]
            runs[-1] = range(last[0], index + step, step)
        elif last is not None and len(last) > 1 and index == last[-1] + last.step:
            runs[-1] = range(last.start, index + last.step, last.step)
        else:
            runs.append(range(index, index + 1))
    return runs


# ---- edges and blocks -----------------------------------------------------------------------------------------------
def pad(call: Call) -> Value:
    x = call.value(0)
    rank = len(x.shape)
    mode = call.attributes.text("mode", "constant")
    if mode == "wrap":
        raise RefusalError("its mode is 'wrap'")
    if mode not in ("constant", "reflect", "edge"):
        raise InvalidModel(f"mode {mode!r}")
    if call.opset < 11:
        pads, axes, value = call.attributes.integers("pads"), tuple(range(rank)), call.attributes.number("value", 0.0)
    else:
        pads = call.integers(1)
        axes = positive_axes(call.integers(3), rank) if call.has(3) else tuple(range(rank))
        value = call.number(2) if call.has(2) and mode == "constant" else 0.0
    if len(pads) != 2 * len(axes):
        raise InvalidModel(f"pads {pads} for {len(axes)} axes")
    if not any(pads):
        return x
    before, after = [0] * rank, [0] * rank
    for axis, b, a in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        before[axis], after[axis] = b, a
    return call.emit(ops.Pad(tuple(before), tuple(after), mode, value), x)


def depth_to_space(call: Call) -> Value:
    """Block rows, block columns and channels in one axis: depth first (DCR) or column and row first (CRD)."""
    x, n, c, h, w, b = _blocks(call)
    if c % (b * b):
        raise InvalidModel(f"{c} channels are not a multiple of {b} x {b}")
    depth = c // (b * b)
    if _is_depth_first(call):
        shape, perm = (n, b, b, depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        shape, perm = (n, depth, b, b, h, w), (0, 1, 4, 2, 5, 3)
    moved = call.emit(ops.Transpose(perm), call.builder.reshape(x, shape))
    return call.builder.reshape(moved, (n, depth, h * b, w * b))


def space_to_depth(call: Call) -> Value:
    """The inverse of `depth_to_space`."""
    x, n, c, h, w, b = _blocks(call)
    if h % b or w % b:
        raise InvalidModel(f"{h} x {w} is not a multiple of {b} x {b}")
    perm = (0, 3, 5, 1, 2, 4) if _is_depth_first(call) else (0, 1, 3, 5, 2, 4)
    moved = call.emit(ops.Transpose(perm), call.builder.reshape(x, (n, c, h // b, b, w // b, b)))
    return call.builder.reshape(moved, (n, c * b * b, h // b, w // b))


def _is_depth_first(call: Call) -> bool:
    mode = call.attributes.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise InvalidModel(f"mode {mode!r} is neither 'DCR' nor 'CRD'")
    return mode == "DCR"


def _blocks(call: Call) -> tuple[Constant | Tensor, int, int, int, int, int]:
    x, b = call.value(0), call.attributes.integer("blocksize", 0)
    if len(x.shape) != 4 or b < 1:
        raise InvalidModel(f"blocks of {b} in the input {x.shape}: a rank of 4 and at least 1 are expected")
    n, c, h, w = x.shape
    return x, n, c, h, w, b


CONVERTERS: Converters = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Expand": expand,
    "Tile": tile,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
