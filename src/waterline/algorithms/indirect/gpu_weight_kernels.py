"""The kernels of weight gradients of dense convolutions. What they compute, and how tensors lie, is in
`gpu_weight_gradient.py`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dense_weight_sums(
    x,
    dy,
    sums,
    pixels,
    splits,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    IS_FLAT: tl.constexpr,
    IS_POINTWISE: tl.constexpr,
    HAS_OUTSIDE: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROW_TILES: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sums[split, k, column] = sum over the split's pixels of dy[pixel, k] x[pixel seen through the column's tap, c].

    Columns are channels of one tap, padded to whole tiles, or where IS_FLAT all (r, s, c). Neighbouring programs have
    other columns, then other k, of the same pixels.
    """
    column_tile = tl.program_id(0) % COLUMN_TILES
    row_tile = tl.program_id(0) // COLUMN_TILES % ROW_TILES
    split = tl.program_id(0) // (COLUMN_TILES * ROW_TILES)
    k = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_COLUMNS)
    if IS_FLAT:
        column += column_tile * BLOCK_COLUMNS
        r, s, c = column // (S * C), column // C % S, column % C
        down, right = r * DILATION_H - TOP, s * DILATION_W - LEFT
    else:
        tap = column_tile // CHUNKS
        c = column_tile % CHUNKS * BLOCK_COLUMNS + column
        down, right = tap // S * DILATION_H - TOP, tap % S * DILATION_W - LEFT
    offset = (down * W + right) * C + c
    blocks = tl.cdiv(pixels, BLOCK_DEPTH)
    share = tl.cdiv(blocks, splits)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for block in tl.range(split * share, tl.minimum((split + 1) * share, blocks)):
        first = tl.full((), BLOCK_DEPTH, tl.int64) * block
        pixel = tl.arange(0, BLOCK_DEPTH)
        is_pixel = pixel < pixels - block * BLOCK_DEPTH
        # Loaded as the product wants it, k x pixels, contiguous along k: what is transposed later does not come early.
        outputs = (dy + first * K) + (pixel[None, :] * K + k[:, None])
        if K % BLOCK_ROWS != 0:
            a = tl.load(outputs, is_pixel[None, :] & (k < K)[:, None], 0.0)
        else:
            a = tl.load(outputs, is_pixel[None, :], 0.0)
        if IS_POINTWISE:
            inputs = (x + first * C) + (pixel[:, None] * C + c[None, :])
            if C % BLOCK_COLUMNS != 0:
                b = tl.load(inputs, is_pixel[:, None] & (c < C)[None, :], 0.0)
            else:
                b = tl.load(inputs, is_pixel[:, None], 0.0)
        else:
            # Pixels behind the last read that one: what it meets is zero.
            known = tl.minimum(block * BLOCK_DEPTH + pixel, pixels - 1)
            image = (known // (P * Q)).to(tl.int64)
            h, w = known // Q % P * STRIDE_H, known % Q * STRIDE_W
            inputs = x + (image * (H * W * C) + (h * W + w) * C)[:, None] + offset[None, :]
            if IS_FLAT:
                at_h, at_w = h[:, None] + down[None, :], w[:, None] + right[None, :]
                is_inside = (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W) & (r < R)[None, :]
                b = tl.load(inputs, is_inside, 0.0)
            else:
                is_inside = ((h + down).to(tl.uint32) < H) & ((w + right).to(tl.uint32) < W)
                if HAS_OUTSIDE and C % BLOCK_COLUMNS != 0:
                    b = tl.load(inputs, is_inside[:, None] & (c < C)[None, :], 0.0)
                elif HAS_OUTSIDE:
                    b = tl.load(inputs, is_inside[:, None], 0.0)
                elif C % BLOCK_COLUMNS != 0:
                    b = tl.load(inputs, (c < C)[None, :], 0.0)
                else:
                    b = tl.load(inputs)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    _store_sums(sums, total, split, row_tile, column_tile, ROW_TILES, COLUMN_TILES)


@triton.jit
def _store_sums(sums, total, split, row_tile, column_tile, ROW_TILES: tl.constexpr, COLUMN_TILES: tl.constexpr):
    """A tile of whole (k, column), for the pass that adds up."""
    rows: tl.constexpr = total.shape[0]
    columns: tl.constexpr = total.shape[1]
    row = (split * ROW_TILES + row_tile).to(tl.int64) * rows + tl.arange(0, rows)
    column = column_tile * columns + tl.arange(0, columns)
    tl.store(sums + row[:, None] * (COLUMN_TILES * columns) + column[None, :], total)


@triton.jit
def dense_weight_sums_of_images(
    x,
    dy,
    sums,
    images,
    splits,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROW_TILES: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """As `dense_weight_sums`, with tensor descriptors: one product's depth is the same pixel of BLOCK_DEPTH images.

    So all of it lies inside the image or none, and only the outputs that see the image through the tap are taken.
    """
    column_tile = tl.program_id(0) % COLUMN_TILES
    row_tile = tl.program_id(0) // COLUMN_TILES % ROW_TILES
    split = tl.program_id(0) // (COLUMN_TILES * ROW_TILES)
    inputs = tl.make_tensor_descriptor(
        x,
        [H // STRIDE_H, STRIDE_H, W // STRIDE_W, images, STRIDE_W * C],
        [STRIDE_H * W * C, W * C, STRIDE_W * C, H * W * C, 1],
        [1, 1, 1, BLOCK_DEPTH, BLOCK_COLUMNS],
    )
    outputs = tl.make_tensor_descriptor(
        dy, [P, Q, images, K], [Q * K, K, P * Q * K, 1], [1, 1, BLOCK_DEPTH, BLOCK_ROWS]
    )
    tap = column_tile // CHUNKS
    first_c = column_tile % CHUNKS * BLOCK_COLUMNS
    down, right = tap // S * DILATION_H - TOP, tap % S * DILATION_W - LEFT
    first_p, first_q = tl.maximum(STRIDE_H - 1 - down, 0) // STRIDE_H, tl.maximum(STRIDE_W - 1 - right, 0) // STRIDE_W
    end_p = tl.minimum(tl.maximum(H - 1 - down + STRIDE_H, 0) // STRIDE_H, P)
    end_q = tl.minimum(tl.maximum(W - 1 - right + STRIDE_W, 0) // STRIDE_W, Q)
    image_blocks = tl.cdiv(images, BLOCK_DEPTH)
    seen_q = tl.maximum(end_q - first_q, 0)
    blocks = tl.maximum(end_p - first_p, 0) * seen_q * image_blocks
    run = tl.maximum(seen_q, 1) * image_blocks
    share = tl.cdiv(blocks, splits)
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for block in tl.range(split * share, tl.minimum((split + 1) * share, blocks)):
        p, q = first_p + block // run, first_q + block % run // image_blocks
        image = block % image_blocks * BLOCK_DEPTH
        h, w = p * STRIDE_H + down, q * STRIDE_W + right
        a = outputs.load([p, q, image, row_tile * BLOCK_ROWS]).reshape(BLOCK_DEPTH, BLOCK_ROWS)
        b = inputs.load([h // STRIDE_H, h % STRIDE_H, w // STRIDE_W, image, w % STRIDE_W * C + first_c])
        total = tl.dot(tl.trans(a), b.reshape(BLOCK_DEPTH, BLOCK_COLUMNS), total, input_precision=PRECISION)
    _store_sums(sums, total, split, row_tile, column_tile, ROW_TILES, COLUMN_TILES)


@triton.jit
def dense_weight_total(
    sums,
    dw,
    splits,
    C: tl.constexpr,
    K: tl.constexpr,
    TAPS: tl.constexpr,
    TAP_COLUMNS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_ELEMS: tl.constexpr,
):
    """dw (k, c, tap): the sums of all splits, always in the same order. SPLIT: elements of one split's sums."""
    at = tl.program_id(0) * BLOCK_ELEMS + tl.arange(0, BLOCK_ELEMS)
    is_there = at < K * C * TAPS
    tap, c, k = at % TAPS, at // TAPS % C, at // (TAPS * C)
    place = k.to(tl.int64) * COLUMNS + tap * TAP_COLUMNS + c
    total = tl.zeros((BLOCK_ELEMS,), tl.float32)
    for first in tl.range(0, splits, BLOCK_SPLITS):
        split = first + tl.arange(0, BLOCK_SPLITS)
        places = split.to(tl.int64)[:, None] * SPLIT + place[None, :]
        total += tl.sum(tl.load(sums + places, (split < splits)[:, None] & is_there[None, :], 0.0), 0)
    tl.store(dw + at, total.to(dw.dtype.element_ty), is_there)


__all__ = ["dense_weight_sums", "dense_weight_sums_of_images", "dense_weight_total"]
