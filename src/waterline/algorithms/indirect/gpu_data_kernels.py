"""The kernels of data gradients of dense convolutions, and of packing weights. What they compute, and how tensors lie,
is in `gpu_gradients.py`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dense_pack(
    weight,
    packed,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    ALL_COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    ROW: tl.constexpr,
    LEAD: tl.constexpr,
    IS_RUNS: tl.constexpr,
    IS_GRADIENT: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
    BLOCK_ALONG: tl.constexpr,
):
    """packed[column, row * ROW + along] = a weight, or zero behind the last column, channel or tap.

    A row is a tap with its channels, or where IS_RUNS a row of the filter, with LEAD zeros, then columns and channels.
    IS_GRADIENT: channels and columns are exchanged, and taps reversed. Lanes lie along the weight's taps where it is
    read, and along the packed channels where they are written.
    """
    rows: tl.constexpr = (DEPTH + ROW - 1) // ROW
    place = tl.program_id(0) * BLOCK_PLACES + tl.arange(0, BLOCK_PLACES)[None, :]
    along = tl.program_id(1) * BLOCK_ALONG + tl.arange(0, BLOCK_ALONG)[:, None]
    column, row = place // rows, place % rows
    if IS_RUNS:
        tap, channel = row * S + (along - LEAD) // CHANNELS, (along - LEAD) % CHANNELS
        is_used = (row < R) & (along >= LEAD) & (along < LEAD + S * CHANNELS)
    else:
        tap, channel = row, along
        is_used = channel < CHANNELS
    if IS_GRADIENT:
        at = (channel * COLUMNS + column) * (R * S) + (R * S - 1 - tap)
    else:
        at = (column * CHANNELS + channel) * (R * S) + tap
    value = tl.load(weight + at, is_used & (column < COLUMNS), 0.0)
    depth = row * ROW + along
    tl.store(packed + column * DEPTH + depth, value, (along < ROW) & (depth < DEPTH) & (column < ALL_COLUMNS))


@triton.jit
def _class_taps(
    residue,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    DILATION: tl.constexpr,
    STEP: tl.constexpr,
    INVERSE: tl.constexpr,
):
    """For inputs whose place is `residue` modulo the stride, along one axis: the first tap through which outputs see
    them, how many there are (each STEP behind the other), and the output that sees input `residue` through the first.
    """
    divisor: tl.constexpr = STRIDE // STEP
    distance = residue + PAD % STRIDE
    first = distance // divisor % STEP * INVERSE % STEP
    count = tl.where(distance % divisor == 0, tl.maximum(TAPS - first + STEP - 1, 0) // STEP, 0)
    return first, count, (residue + PAD - first * DILATION) // STRIDE


@triton.jit
def dense_data_gradient(
    dy,
    packed,
    dx,
    rows,
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
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    INVERSE_H: tl.constexpr,
    INVERSE_W: tl.constexpr,
    CHUNKS: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Tiles of pixels of dx that agree modulo the strides x channels c. rows: pixels of a class, of all images.

    Neighbouring programs have other channels, then other classes, of the same part of the images.
    """
    class_h: tl.constexpr = (H + STRIDE_H - 1) // STRIDE_H
    class_w: tl.constexpr = (W + STRIDE_W - 1) // STRIDE_W
    classes: tl.constexpr = STRIDE_H * STRIDE_W
    column_tile = tl.program_id(0) % COLUMN_TILES
    residue = tl.program_id(0) // COLUMN_TILES % classes
    row = tl.program_id(0) // (COLUMN_TILES * classes) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    residue_h, residue_w = residue // STRIDE_W, residue % STRIDE_W
    first_r, r_taps, first_p = _class_taps(residue_h, R, STRIDE_H, TOP, DILATION_H, STEP_H, INVERSE_H)
    first_s, s_taps, first_q = _class_taps(residue_w, S, STRIDE_W, LEFT, DILATION_W, STEP_W, INVERSE_W)
    image = (row // (class_h * class_w)).to(tl.int64)
    p, q = row // class_w % class_h + first_p, row % class_w + first_q
    pixel = dy + (image * (P * Q * K) + (p * Q + q) * K)
    column = column_tile * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    depth = tl.arange(0, BLOCK_DEPTH)
    filter_at = column[:, None] * (R * S * CHUNKS * BLOCK_DEPTH) + depth[None, :]
    run = tl.maximum(s_taps, 1) * CHUNKS
    is_row = row < rows
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for step in tl.range(0, r_taps * s_taps * CHUNKS):
        i, j, chunk = step // run, step % run // CHUNKS, step % CHUNKS * BLOCK_DEPTH
        back_h, back_w = i * (STEP_H * DILATION_H // STRIDE_H), j * (STEP_W * DILATION_W // STRIDE_W)
        k = chunk + depth
        is_inside = is_row & ((p - back_h).to(tl.uint32) < P) & ((q - back_w).to(tl.uint32) < Q)
        places = pixel[:, None] + (k - (back_h * Q + back_w) * K)[None, :]
        if K % BLOCK_DEPTH != 0:
            a = tl.load(places, is_inside[:, None] & (k < K)[None, :], 0.0)
        else:
            a = tl.load(places, is_inside[:, None], 0.0)
        # Packed taps are reversed.
        tap = (R - 1 - first_r - i * STEP_H) * S + (S - 1 - first_s - j * STEP_W)
        b = tl.load((packed + (tap * (CHUNKS * BLOCK_DEPTH) + chunk)) + filter_at)
        sums = tl.dot(a, b.T, sums, input_precision=PRECISION)
    h = row // class_w % class_h * STRIDE_H + residue_h
    w = row % class_w * STRIDE_W + residue_w
    at = image * (H * W * C) + (h * W + w) * C
    is_place = (is_row & (h < H) & (w < W))[:, None] & (column < C)[None, :]
    tl.store(dx + at[:, None] + column[None, :], sums.to(dx.dtype.element_ty), is_place)


__all__ = ["dense_data_gradient", "dense_pack"]
