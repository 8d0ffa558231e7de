"""The Triton kernel of `block_fusion:inverted`: a tile of the result goes through a whole inverted residual.

Between the expansion and the depthwise convolution a chunk of hidden channels passes through a few kilobytes of memory
that only its block of threads knows, as values of one pixel are wanted by threads of others.
"""

# mypy: disable-error-code="assignment,no-untyped-def"
# Tuples in kernels grow, and functions of Triton's language have no types of Python's.
from __future__ import annotations

import triton
import triton.language as tl

from waterline.algorithms.block_fusion.gpu_kernels import (
    channels,
    depthwise_sums,
    held,
    part_count,
    part_width,
    store_results,
)
from waterline.algorithms.depthwise.gpu import widen
from waterline.codegen.gpu.epilogue import finish


@triton.jit
def expand_chunk(
    x,
    weight,
    bias,
    buffer,
    image,
    top,
    left,
    begin,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    PATCH: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    MOST_DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """buffer[pixel, channel] = act(x w + b) for the pixels of a patch, from (top, left) on, and a chunk of channels.

    Pixels outside the image are zero: the depthwise convolution pads what is behind the activation.
    """
    of_chunk = tl.arange(0, CHUNK)
    hidden = begin + of_chunk
    is_hidden = hidden < HIDDEN
    all_depth: tl.constexpr = held(C, MOST_DEPTH)
    weights = ()
    for part in tl.static_range(part_count(C, MOST_DEPTH)):
        depth = channels(C, MOST_DEPTH, part)
        weights += (tl.load(weight + begin * all_depth + (of_chunk[None, :] * all_depth + depth[:, None])),)
    for first in range(0, PATCH, STEP):
        place = first + tl.arange(0, STEP)
        row, column = top + place // PATCH_COLUMNS, left + place % PATCH_COLUMNS
        is_inside = (place < PATCH) & (row >= 0) & (row < H) & (column >= 0) & (column < W)
        at = ((image * H + row) * W + column).to(tl.int64) * C
        h = tl.zeros((STEP, CHUNK), tl.float32)
        for part in tl.static_range(part_count(C, MOST_DEPTH)):
            depth = channels(C, MOST_DEPTH, part)
            a = tl.load(x + at[:, None] + depth[None, :], is_inside[:, None] & (depth < C)[None, :], 0.0)
            h = tl.dot(a, weights[part], h, input_precision=PRECISION)
        h = finish(
            h,
            bias,
            bias,
            hidden,
            is_hidden,
            hidden,
            is_hidden,
            EPILOGUE,
        )
        h = tl.where(is_inside[:, None], h, 0.0)
        # The patch is stored up to whole steps, so that no store needs a mask.
        tl.store(buffer + (place[:, None] * CHUNK + of_chunk[None, :]), h.to(buffer.dtype.element_ty))


@triton.jit
def filter_chunk(
    buffer,
    weight,
    begin,
    ALL_HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
):
    """Sums of a depthwise convolution of what `expand_chunk` has stored; no tap needs a mask."""
    number, of_chunk = tl.arange(0, ROWS * COLUMNS), tl.arange(0, CHUNK)
    # A patch is that of a tile no larger than the result.
    row, column = tl.minimum(number // COLUMNS, P - 1), tl.minimum(number % COLUMNS, Q - 1)
    place = row * (STRIDE_H * PATCH_COLUMNS) + column * STRIDE_W
    source = buffer + (place[:, None] * CHUNK + of_chunk[None, :])
    own = weight + begin + of_chunk
    sums = tl.zeros((ROWS * COLUMNS, CHUNK), tl.float32)
    # A loop in the machine code too. Laid out whole, the chain from loads to the projection would be computed in the
    # layout of its operand, and the compiler would send each tap through shared memory to reach that.
    for r in tl.range(0, R, num_stages=1):
        for s in tl.static_range(S):
            a = tl.load(source + (r * (DILATION_H * PATCH_COLUMNS) + s * DILATION_W) * CHUNK)
            sums += widen(a) * widen(tl.load(own + (r * S + s) * ALL_HIDDEN))[None, :]
    return sums


@triton.jit
def inverted_residual(
    x,
    expand_weight,
    filter_weight,
    project_weight,
    expand_bias,
    filter_bias,
    end_bias,
    residual,
    scale,
    added,
    scratch,
    y,
    items,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    HIDDEN: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    HAS_EXPAND: tl.constexpr,
    HAS_PROJECT: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    PATCH_ROWS: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    SCRATCH: tl.constexpr,
    MOST_DEPTH: tl.constexpr,
    MOST_K: tl.constexpr,
    PRECISION: tl.constexpr,
    EXPAND_EPILOGUE: tl.constexpr,
    FILTER_EPILOGUE: tl.constexpr,
    END_EPILOGUE: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    LAST: tl.constexpr,
):
    """y = last(project(act(filter(act(expand(x))))) * scale + added), where all but `filter` may be absent.

    Persistent blocks. An item is a tile of ROWS x COLUMNS pixels of an image with all hidden channels, or with one
    chunk of them where they are the result.
    """
    across: tl.constexpr = (Q + COLUMNS - 1) // COLUMNS
    down: tl.constexpr = (P + ROWS - 1) // ROWS
    all_hidden: tl.constexpr = (HIDDEN + CHUNK - 1) // CHUNK * CHUNK
    of_item: tl.constexpr = all_hidden if HAS_PROJECT else CHUNK
    splits: tl.constexpr = all_hidden // of_item
    number, of_chunk = tl.arange(0, ROWS * COLUMNS), tl.arange(0, CHUNK)
    # Two buffers in turn. A thread that writes one has passed the barrier behind which the other was read, so all have
    # read this one: a chunk needs one barrier.
    own = scratch + tl.program_id(0).to(tl.int64) * (2 * SCRATCH)
    turn = 0
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        tile = item // splits
        image = tile // (across * down)
        first_row, first_column = tile // across % down * ROWS, tile % across * COLUMNS
        row, column = first_row + number // COLUMNS, first_column + number % COLUMNS
        is_pixel = (row < P) & (column < Q)
        pixel = ((image * P + row) * Q + column).to(tl.int64)
        sums = ()
        if HAS_PROJECT:
            for part in tl.static_range(part_count(K, MOST_K)):
                sums += (tl.zeros((ROWS * COLUMNS, part_width(K, MOST_K, part)), tl.float32),)
        # The compiler overlaps turns of a loop as if no store could change what a load reads: here it must not.
        for chunk in tl.range(0, of_item, CHUNK, num_stages=1):
            begin = item % splits * CHUNK + chunk
            hidden = begin + of_chunk
            is_hidden = hidden < HIDDEN
            if HAS_EXPAND:
                buffer = own + turn * SCRATCH
                turn = 1 - turn
                expand_chunk(
                    x,
                    expand_weight,
                    expand_bias,
                    buffer,
                    image,
                    first_row * STRIDE_H - TOP,
                    first_column * STRIDE_W - LEFT,
                    begin,
                    C,
                    H,
                    W,
                    HIDDEN,
                    CHUNK,
                    PATCH_ROWS * PATCH_COLUMNS,
                    PATCH_COLUMNS,
                    STEP,
                    MOST_DEPTH,
                    PRECISION,
                    EXPAND_EPILOGUE,
                )
                # What a block's threads wrote before a barrier all of them read behind it, in memory as in its caches.
                tl.debug_barrier()
                h = filter_chunk(
                    buffer,
                    filter_weight,
                    begin,
                    all_hidden,
                    CHUNK,
                    P,
                    Q,
                    ROWS,
                    COLUMNS,
                    PATCH_COLUMNS,
                    R,
                    S,
                    STRIDE_H,
                    STRIDE_W,
                    DILATION_H,
                    DILATION_W,
                )
            else:
                h = depthwise_sums(
                    x,
                    filter_weight,
                    image,
                    row * STRIDE_H - TOP,
                    column * STRIDE_W - LEFT,
                    is_pixel,
                    hidden,
                    C,
                    H,
                    W,
                    R,
                    S,
                    DILATION_H,
                    DILATION_W,
                    all_hidden,
                    CHUNK,
                    ROWS * COLUMNS,
                )
            if HAS_PROJECT:
                h = finish(
                    h,
                    filter_bias,
                    filter_bias,
                    hidden,
                    is_hidden,
                    hidden,
                    is_hidden,
                    FILTER_EPILOGUE,
                )
                active = h.to(y.dtype.element_ty)
                grown = ()
                for part in tl.static_range(part_count(K, MOST_K)):
                    k = channels(K, MOST_K, part)
                    b = tl.load(project_weight + begin + (k[None, :] * all_hidden + of_chunk[:, None]))
                    grown += (tl.dot(active, b, sums[part], input_precision=PRECISION),)
                sums = grown
            else:
                store_results(
                    h,
                    end_bias,
                    residual,
                    scale,
                    added,
                    y,
                    pixel,
                    is_pixel,
                    hidden,
                    K,
                    END_EPILOGUE,
                    HAS_SCALE,
                    HAS_ADDED,
                    LAST,
                )
        if HAS_PROJECT:
            for part in tl.static_range(part_count(K, MOST_K)):
                store_results(
                    sums[part],
                    end_bias,
                    residual,
                    scale,
                    added,
                    y,
                    pixel,
                    is_pixel,
                    channels(K, MOST_K, part),
                    K,
                    END_EPILOGUE,
                    HAS_SCALE,
                    HAS_ADDED,
                    LAST,
                )


__all__ = ["inverted_residual"]
