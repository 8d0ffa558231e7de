"""Operators that are no convolutions, on GPUs: `launches` for graph operations, `to_nhwc` and `to_nchw` for layouts.

Served: pooling by windows and over whole images, layer normalisation, activations, and arithmetic with broadcasting.
All of them move memory: a tile is read once, a thread's elements are neighbours in memory, arithmetic is in f32. The
larger of NaN and a number is NaN, as in `waterline.reference`.

Storage: tensors with four axes (N, C, H, W) lie in NHWC order, others as their shapes say, all without gaps. A layer
normalisation is over the innermost axes of storage, and takes (N, H, W, C) as it lies. Tensors are named "0", "1", ...
and "y"; scale and bias of a normalisation are f32.

Kernels do not depend on the batch, only their grids do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from waterline.codegen.gpu.epilogue import ACTIVATIONS, activate
from waterline.codegen.gpu.kernel import GpuLaunch
from waterline.errors import InvalidArgument
from waterline.graph.ops import AdaptivePool, Binary, LayerNorm, Op, Pool, Reduce, Unary
from waterline.graph.rules import Shape
from waterline.machine.gpu import PRECISION_BYTES
from waterline.spec import Activation, TensorView, channels_last

Y = "y"
TILE_BYTES = 4096  # of one operand in one block: two of the widest loads of each thread
FEWEST_TILE_CHANNELS, MOST_TILE_CHANNELS = 32, 64
MOST_PADDING = 17 / 16  # of rows to full tiles, where a narrower tile has less of it
TRANSPOSED_SIDE, TRANSPOSED_ELEMS = 64, 4096  # of a block; where one side of the matrix is short, the other is longer
MOST_UNROLLED_TAPS = 16
MOST_NORMALISED_ELEMS, NORMALISED_ELEMS_A_WARP = 1 << 14, 1 << 10  # that a block holds in registers
MOST_32_BIT = 2**31 - 1
ARITHMETIC = frozenset({"add", "sub", "mul", "div", "max", "min"})
SINGLE = "single"  # the `KIND` of an operation on one tensor


# ---- element by element ---------------------------------------------------------------------------------------------
@triton.jit
def elementwise(
    a,
    b,
    y,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    A_IMAGE: tl.constexpr,
    A_ROW: tl.constexpr,
    A_COLUMN: tl.constexpr,
    B_IMAGE: tl.constexpr,
    B_ROW: tl.constexpr,
    B_COLUMN: tl.constexpr,
    KIND: tl.constexpr,
    AFTER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """y[image, row, column] = after(a op b); a step of 0 repeats an operand along that axis."""
    row_tiles: tl.constexpr = (ROWS + BLOCK_ROWS - 1) // BLOCK_ROWS
    column_tiles: tl.constexpr = (COLUMNS + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    tile = tl.program_id(0)
    first_column = (tile % column_tiles).to(tl.int64) * BLOCK_COLUMNS
    tile = tile // column_tiles
    first_row = (tile % row_tiles).to(tl.int64) * BLOCK_ROWS
    image = (tile // row_tiles).to(tl.int64)
    row, column = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLUMNS)[None, :]
    is_place = tl.full((BLOCK_ROWS, BLOCK_COLUMNS), True, tl.int1)
    if ROWS % BLOCK_ROWS != 0:
        is_place = is_place & (row < tl.minimum(ROWS - first_row, BLOCK_ROWS).to(tl.int32))
    if COLUMNS % BLOCK_COLUMNS != 0:
        is_place = is_place & (column < tl.minimum(COLUMNS - first_column, BLOCK_COLUMNS).to(tl.int32))
    a_at = a + (image * A_IMAGE + first_row * A_ROW + first_column * A_COLUMN)
    value = tl.load(a_at + (row * A_ROW + column * A_COLUMN), is_place, 0.0).to(tl.float32)
    if KIND != "single":
        b_at = b + (image * B_IMAGE + first_row * B_ROW + first_column * B_COLUMN)
        other = tl.load(b_at + (row * B_ROW + column * B_COLUMN), is_place, 0.0).to(tl.float32)
        if KIND == "add":
            value = value + other
        elif KIND == "sub":
            value = value - other
        elif KIND == "mul":
            value = value * other
        elif KIND == "div":
            value = value / other
        elif KIND == "max":
            value = larger(value, other)
        else:
            tl.static_assert(KIND == "min", "arithmetic that kernels do not know")
            value = tl.minimum(value, other, propagate_nan=tl.PropagateNan.ALL)
    out = activate(value, AFTER).to(y.dtype.element_ty)
    y_at = y + ((image * ROWS + first_row) * COLUMNS + first_column)
    tl.store(y_at + (row * COLUMNS + column), out, is_place)


@triton.jit
def larger(a, b):
    """NaN where one of them is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


def _elementwise(
    kind: str, after: Activation | None, shapes: Sequence[Shape], out: Shape, precision: str
) -> tuple[GpuLaunch, ...]:
    if after is not None and after.kind not in ACTIVATIONS:
        raise InvalidArgument(f"GPU kernels have no activation {after}", f"they have {', '.join(sorted(ACTIVATIONS))}")
    images, (rows, row_steps), (columns, column_steps) = _axes(shapes, out)
    block_rows, block_columns = _tile(rows, columns, precision, TILE_BYTES // PRECISION_BYTES[precision])
    constants: dict[str, Any] = {"ROWS": rows, "COLUMNS": columns}
    constants |= {"BLOCK_ROWS": block_rows, "BLOCK_COLUMNS": block_columns}
    constants |= {"KIND": kind, "AFTER": after}
    for i, name in enumerate("AB"):
        operand = min(i, len(shapes) - 1)
        constants[f"{name}_IMAGE"] = images[1][operand]
        constants[f"{name}_ROW"], constants[f"{name}_COLUMN"] = row_steps[operand], column_steps[operand]
    blocks = images[0] * -(-rows // block_rows) * -(-columns // block_columns)
    return (GpuLaunch(elementwise, (blocks,), ("0", str(len(shapes) - 1), Y), constants),)


def _tile(rows: int, columns: int, precision: str, most_columns: int = MOST_TILE_CHANNELS) -> tuple[int, int]:
    """Rows and columns of a tile: the widest that leaves few lanes without a column."""
    wide = min(most_columns, triton.next_power_of_2(columns))
    narrow = min(wide, FEWEST_TILE_CHANNELS)
    while wide > narrow and -(-columns // wide) * wide > columns * MOST_PADDING:
        wide //= 2
    return min(TILE_BYTES // PRECISION_BYTES[precision] // wide, triton.next_power_of_2(rows)), wide


def _axes(shapes: Sequence[Shape], out: Shape) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Images, rows and columns of the output as it lies: their number, and each operand's step from one to the next.

    Neighbouring axes are one where every operand has them in one piece.
    """
    views = [_view(shape) for shape in shapes]
    found: list[tuple[int, tuple[int, ...]]] = []
    for axis in _order(len(out)):
        steps = []
        for view in views:
            own = axis - len(out) + len(view.shape)
            steps.append(view.strides[own] if own >= 0 and view.shape[own] == out[axis] else 0)
        size = out[axis]
        if found and size == 1:
            continue
        is_one = len(found) > 1 and all(outer == size * inner for outer, inner in zip(found[-1][1], steps, strict=True))
        if is_one:
            size *= found.pop()[0]
        found.append((size, tuple(steps)))
    one = (1, (0,) * len(shapes))
    if len(out) < 2:
        found.insert(0, one)
    if len(found) > 3:
        raise InvalidArgument(
            f"shapes {', '.join(map(str, shapes))} broadcast along {len(found) - 1} axes of an image that GPU kernels "
            "cannot see as rows and columns"
        )
    images, *rest = found
    return (images, *[one] * (2 - len(rest)), *rest)


def _order(rank: int) -> tuple[int, ...]:
    """Axes of storage from the outermost."""
    return channels_last(rank) if rank == 4 else tuple(range(rank))


def _view(shape: Shape) -> TensorView:
    return TensorView.dense(shape, _order(len(shape)))


# ---- windows --------------------------------------------------------------------------------------------------------
@triton.jit
def add_tap(
    total,
    count,
    x,
    row,
    column,
    channel,
    is_channel,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    BEFORE_H: tl.constexpr,
    BEFORE_W: tl.constexpr,
    AFTER_H: tl.constexpr,
    AFTER_W: tl.constexpr,
    IS_MAX: tl.constexpr,
    IS_WIDE: tl.constexpr,
):
    """total with one more element of each window, count with those that the average divides by."""
    is_inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
    place = row * W + column
    if IS_WIDE:
        place = row.to(tl.int64) * W + column
    is_read = is_inside[:, None] & is_channel[None, :]
    if IS_MAX:
        value = tl.load(x + place[:, None] * C + channel[None, :], is_read, float("-inf")).to(tl.float32)
        total = larger(total, value)
    else:
        total += tl.load(x + place[:, None] * C + channel[None, :], is_read, 0.0).to(tl.float32)
        is_counted = (row >= -BEFORE_H) & (row < H + AFTER_H) & (column >= -BEFORE_W) & (column < W + AFTER_W)
        count += tl.where(is_counted, 1.0, 0.0)
    return total, count


@triton.jit
def pool(
    x,
    y,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    BEFORE_H: tl.constexpr,
    BEFORE_W: tl.constexpr,
    AFTER_H: tl.constexpr,
    AFTER_W: tl.constexpr,
    IS_MAX: tl.constexpr,
    IS_WIDE: tl.constexpr,
    UNROLLED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The largest element of each window, or the average. BEFORE, AFTER: padding whose zeros an average counts."""
    channel_tiles: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    pixel_tiles: tl.constexpr = (P * Q + PIXELS - 1) // PIXELS
    tile = tl.program_id(0)
    channel = (tile % channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)
    tile = tile // channel_tiles
    pixel = (tile % pixel_tiles) * PIXELS + tl.arange(0, PIXELS)
    image = (tile // pixel_tiles).to(tl.int64)
    is_channel = channel < C
    row, column = pixel // Q * STRIDE_H - TOP, pixel % Q * STRIDE_W - LEFT
    total = tl.full((PIXELS, CHANNELS), float("-inf") if IS_MAX else 0.0, tl.float32)
    count = tl.zeros((PIXELS,), tl.float32)
    x_at = x + image * H * W * C
    if UNROLLED:
        for tap in tl.static_range(R * S):
            total, count = add_tap(
                total, count, x_at, row + tap // S * DILATION_H, column + tap % S * DILATION_W, channel, is_channel,
                H, W, C, BEFORE_H, BEFORE_W, AFTER_H, AFTER_W, IS_MAX, IS_WIDE,
            )  # fmt: skip
    else:
        for tap in range(R * S):
            total, count = add_tap(
                total, count, x_at, row + tap // S * DILATION_H, column + tap % S * DILATION_W, channel, is_channel,
                H, W, C, BEFORE_H, BEFORE_W, AFTER_H, AFTER_W, IS_MAX, IS_WIDE,
            )  # fmt: skip
    if not IS_MAX:
        total = total / count[:, None]
    place = pixel
    if IS_WIDE:
        place = pixel.to(tl.int64)
    y_at = y + image * P * Q * C + place[:, None] * C + channel[None, :]
    tl.store(y_at, total.to(y.dtype.element_ty), (pixel < P * Q)[:, None] & is_channel[None, :])


def _pool(op: Pool, shape: Shape, precision: str) -> tuple[GpuLaunch, ...]:
    if op.kind not in ("max", "average"):
        raise InvalidArgument(f"GPU kernels do not pool with kind {op.kind!r}", "they have max and average")
    n, c, h, w = shape
    p, q = op.infer([shape])[0][2:]
    counted = op.pad if op.count_include_pad else (0, 0, 0, 0)
    pixels, channels = _tile(p * q, c, precision)
    constants = {"H": h, "W": w, "C": c, "P": p, "Q": q, "R": op.kernel[0], "S": op.kernel[1]}
    constants |= {"STRIDE_H": op.stride[0], "STRIDE_W": op.stride[1]}
    constants |= {"DILATION_H": op.dilation[0], "DILATION_W": op.dilation[1], "TOP": op.pad[0], "LEFT": op.pad[1]}
    constants |= dict(zip(("BEFORE_H", "BEFORE_W", "AFTER_H", "AFTER_W"), counted, strict=True))
    constants |= {"IS_MAX": op.kind == "max", "IS_WIDE": max(h * w, p * q) * c > MOST_32_BIT}
    constants |= {"UNROLLED": math.prod(op.kernel) <= MOST_UNROLLED_TAPS, "PIXELS": pixels, "CHANNELS": channels}
    return (GpuLaunch(pool, (n * -(-p * q // pixels) * -(-c // channels),), ("0", Y), constants),)


# ---- whole images ---------------------------------------------------------------------------------------------------
@triton.jit
def pool_image(
    x, y, ROWS: tl.constexpr, C: tl.constexpr, IS_MAX: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    """The largest or the average of all pixels of each channel; lanes sum every PIXELS-th, then each other's sums."""
    channel_tiles: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    tile = tl.program_id(0)
    channel = (tile % channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)
    image = (tile // channel_tiles).to(tl.int64)
    is_channel = channel < C
    lane = tl.arange(0, PIXELS)
    nothing: tl.constexpr = float("-inf") if IS_MAX else 0.0
    total = tl.full((PIXELS, CHANNELS), nothing, tl.float32)
    x_at = x + image * ROWS * C + (lane[:, None] * C + channel[None, :])
    for step in range((ROWS + PIXELS - 1) // PIXELS):
        is_read = (lane < ROWS - step * PIXELS)[:, None] & is_channel[None, :]
        value = tl.load(x_at, is_read, nothing).to(tl.float32)
        if IS_MAX:
            total = larger(total, value)
        else:
            total += value
        x_at += PIXELS * C
    if IS_MAX:
        out = tl.reduce(total, 0, larger)
    else:
        out = tl.sum(total, 0) / ROWS
    tl.store(y + image * C + channel, out.to(y.dtype.element_ty), is_channel)


def _pool_image(is_max: bool, shape: Shape, precision: str) -> tuple[GpuLaunch, ...]:
    n, c, h, w = shape
    pixels, channels = _tile(h * w, c, precision)
    constants = {"ROWS": h * w, "C": c, "IS_MAX": is_max, "PIXELS": pixels, "CHANNELS": channels}
    return (GpuLaunch(pool_image, (n * -(-c // channels),), ("0", Y), constants),)


def _adaptive_pool(op: AdaptivePool, shape: Shape, precision: str) -> tuple[GpuLaunch, ...]:
    if op.size == (1, 1):
        return _pool_image(op.kind == "max", shape, precision)
    (p, q), (h, w) = op.size, shape[2:]
    if h % p or w % q:
        raise InvalidArgument(f"GPU kernels pool {h}x{w} to sizes that divide it", f"{p}x{q} does not")
    kernel = (h // p, w // q)
    return _pool(Pool(op.kind, kernel, kernel), shape, precision)


# ---- normalisation --------------------------------------------------------------------------------------------------
@triton.jit
def layer_norm(
    x,
    scale,
    bias,
    y,
    rows,
    LENGTH: tl.constexpr,
    EPSILON: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The mean first, then the variance around it, of rows that stay in registers."""
    first = tl.program_id(0) * BLOCK_ROWS
    row, at = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK)
    is_elem = at < LENGTH
    is_place = (row < rows - first)[:, None] & is_elem[None, :]
    start = first.to(tl.int64) * LENGTH
    places = row[:, None] * LENGTH + at[None, :]
    value = tl.load(x + start + places, is_place, 0.0).to(tl.float32)
    mean = tl.sum(value, 1) / LENGTH
    centred = tl.where(is_place, value - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / LENGTH
    out = centred * tl.rsqrt(variance + EPSILON)[:, None] * tl.load(scale + at, is_elem, 0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        out += tl.load(bias + at, is_elem, 0.0).to(tl.float32)[None, :]
    tl.store(y + start + places, out.to(y.dtype.element_ty), is_place)


def _layer_norm(op: LayerNorm, shape: Shape, precision: str) -> tuple[GpuLaunch, ...]:
    length, rows = math.prod(shape[op.axis :]), math.prod(shape[: op.axis])
    if length > MOST_NORMALISED_ELEMS:
        raise InvalidArgument(
            f"GPU kernels normalise over up to {MOST_NORMALISED_ELEMS} elements", f"{shape} has {length} from {op.axis}"
        )
    block = triton.next_power_of_2(length)
    block_rows = max(1, TILE_BYTES // PRECISION_BYTES[precision] // block)
    constants = {"LENGTH": length, "EPSILON": op.epsilon, "HAS_BIAS": op.bias}
    constants |= {"BLOCK_ROWS": block_rows, "BLOCK": block}
    arguments = ("0", "1", "2" if op.bias else "1", Y, rows)
    types = {"1": "f32", "2": "f32"}
    warps = min(16, max(4, block // NORMALISED_ELEMS_A_WARP))
    return (GpuLaunch(layer_norm, (-(-rows // block_rows),), arguments, constants, types, warps=warps),)


# ---- layouts --------------------------------------------------------------------------------------------------------
@triton.jit
def transpose(x, y, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """y[image, column, row] = x[image, row, column]; both sides are read and written along their own rows."""
    row_tiles: tl.constexpr = (ROWS + BLOCK_ROWS - 1) // BLOCK_ROWS
    column_tiles: tl.constexpr = (COLUMNS + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    tile = tl.program_id(0)
    first_column = (tile % column_tiles).to(tl.int64) * BLOCK_COLUMNS
    tile = tile // column_tiles
    first_row = (tile % row_tiles).to(tl.int64) * BLOCK_ROWS
    image = (tile // row_tiles).to(tl.int64) * ROWS * COLUMNS
    row, column = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_COLUMNS)
    is_row, is_column = row < ROWS - first_row, column < COLUMNS - first_column
    x_at = x + image + first_row * COLUMNS + first_column
    row_at, column_at = row.to(tl.int64), column.to(tl.int64)
    value = tl.load(x_at + row_at[:, None] * COLUMNS + column[None, :], is_row[:, None] & is_column[None, :], 0.0)
    y_at = y + image + first_column * ROWS + first_row
    tl.store(y_at + column_at[:, None] * ROWS + row[None, :], tl.trans(value), is_column[:, None] & is_row[None, :])


def to_nhwc(shape: Shape) -> tuple[GpuLaunch, ...]:
    """Copies "0", (N, C, H, W) as its shape says, to "y" in NHWC order."""
    n, c, h, w = shape
    return _transpose(n, c, h * w)


def to_nchw(shape: Shape) -> tuple[GpuLaunch, ...]:
    """Copies "0", (N, C, H, W) in NHWC order, to "y" as its shape says."""
    n, c, h, w = shape
    return _transpose(n, h * w, c)


def _transpose(images: int, rows: int, columns: int) -> tuple[GpuLaunch, ...]:
    if images * rows * columns == 0:
        return ()
    least_rows, least_columns = (min(TRANSPOSED_SIDE, triton.next_power_of_2(size)) for size in (rows, columns))
    block_rows = min(TRANSPOSED_ELEMS // least_columns, triton.next_power_of_2(rows))
    block_columns = min(TRANSPOSED_ELEMS // least_rows, triton.next_power_of_2(columns))
    constants = {"ROWS": rows, "COLUMNS": columns, "BLOCK_ROWS": block_rows, "BLOCK_COLUMNS": block_columns}
    blocks = images * -(-rows // block_rows) * -(-columns // block_columns)
    return (GpuLaunch(transpose, (blocks,), ("0", Y), constants),)


# ---- all of them ----------------------------------------------------------------------------------------------------
def launches(op: Op, shapes: Sequence[Shape], precision: str) -> tuple[GpuLaunch, ...]:
    """The launches that compute `op`, in order; none where there is nothing to compute.

    Args:
        shapes: of the inputs, as the model sees them. precision: of the tensors; "tf32" is f32 here.

    Raises:
        InvalidArgument: kernels do not serve it. InvalidModel: the operation does not fit the shapes.
    """
    out = op.infer(list(shapes))[0]
    if 0 in out:
        return ()
    match op:
        case Unary():
            return _elementwise(SINGLE, op.function, shapes, out, precision)
        case Binary() if op.kind in ARITHMETIC:
            return _elementwise(op.kind, op.after, shapes, out, precision)
        case Pool():
            return _pool(op, shapes[0], precision)
        case AdaptivePool():
            return _adaptive_pool(op, shapes[0], precision)
        case Reduce(kind="mean" | "max", axes=axes) if len(shapes[0]) == 4 and sorted(axes) == [2, 3]:
            return _pool_image(op.kind == "max", shapes[0], precision)
        case LayerNorm():
            return _layer_norm(op, shapes[0], precision)
    raise InvalidArgument(
        f"GPU kernels do not compute {op} of {', '.join(map(str, shapes))}",
        f"they have Unary, Binary ({', '.join(sorted(ARITHMETIC))}), Pool, AdaptivePool, LayerNorm, Reduce of images",
    )


__all__ = ["launches", "to_nchw", "to_nhwc"]
