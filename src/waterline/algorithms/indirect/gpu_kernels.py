"""The kernels of `indirect` on GPUs. What they compute and how their tensors lie is in `gpu.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from waterline.codegen.gpu.epilogue import finish


@triton.jit
def _place_of(tile, row_tiles, COLUMN_TILES: tl.constexpr, GROUP_ROWS: tl.constexpr):
    """A tile's row and column. Those that run together share pixels and weights in the second-level cache."""
    group = tile // (GROUP_ROWS * COLUMN_TILES)
    first = group * GROUP_ROWS
    height = tl.minimum(row_tiles - first, GROUP_ROWS)
    within = tile % (GROUP_ROWS * COLUMN_TILES)
    return first + within % height, within // height


@triton.jit
def _store(
    sums,
    bias,
    residual,
    y,
    row,
    is_row,
    column_tile,
    begin,
    K: tl.constexpr,
    GROUP_K: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    PART_ELEMS: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """The epilogue and the only store of a tile's columns from begin on. row: pixels of y, in 64 bits.

    By parts of at most PART_ELEMS: the epilogue of more would take more registers than there are.
    """
    rows: tl.constexpr = sums.shape[0]
    columns: tl.constexpr = sums.shape[1]
    if rows * columns > PART_ELEMS:
        left, right = sums.reshape(rows, 2, columns // 2).permute(0, 2, 1).split()
        _store(
            left,
            bias,
            residual,
            y,
            row,
            is_row,
            column_tile,
            begin,
            K,
            GROUP_K,
            COLUMN_TILES,
            BLOCK_COLUMNS,
            PART_ELEMS,
            EPILOGUE,
        )
        _store(
            right,
            bias,
            residual,
            y,
            row,
            is_row,
            column_tile,
            begin + columns // 2,
            K,
            GROUP_K,
            COLUMN_TILES,
            BLOCK_COLUMNS,
            PART_ELEMS,
            EPILOGUE,
        )
    else:
        tiles_of_group: tl.constexpr = COLUMN_TILES * GROUP_K // K
        within = column_tile % tiles_of_group * BLOCK_COLUMNS + begin + tl.arange(0, columns)
        column = column_tile // tiles_of_group * GROUP_K + within
        is_column = within < GROUP_K
        places = row[:, None] * K + column[None, :]
        is_place = is_row[:, None] & is_column[None, :]
        out = finish(
            sums,
            bias,
            residual,
            column,
            is_column,
            places,
            is_place,
            EPILOGUE,
        )
        tl.store(y + places, out.to(y.dtype.element_ty), is_place)


@triton.jit
def _seen_taps(
    first, end, SIZE: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr
):
    """The first tap, and the number of taps, through which outputs from first to before end see something."""
    begin = tl.maximum((PAD - (end - 1) * STRIDE + DILATION - 1) // DILATION, 0)
    beyond = tl.minimum((SIZE - 1 + PAD - first * STRIDE) // DILATION + 1, TAPS)
    return begin, tl.maximum(beyond - begin, 0)


@triton.jit
def indirect_boxes(
    x,
    weight,
    bias,
    residual,
    y,
    images,
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
    GROUP_C: tl.constexpr,
    GROUP_K: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    CHUNKS: tl.constexpr,
    BOX_IMAGES: tl.constexpr,
    BOX_ROWS: tl.constexpr,
    BOX_COLUMNS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    SKIPS: tl.constexpr,
    PART_ELEMS: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """Tiles of a box of pixels x BLOCK_COLUMNS outputs, through tensor descriptors.

    CHUNKS: steps of a tap. SKIPS: some boxes see nothing through some taps. SPLITS: parts of the depth, one after the
    other in y.
    """
    block_rows: tl.constexpr = BOX_IMAGES * BOX_ROWS * BOX_COLUMNS
    p_tiles: tl.constexpr = (P + BOX_ROWS - 1) // BOX_ROWS
    q_tiles: tl.constexpr = (Q + BOX_COLUMNS - 1) // BOX_COLUMNS
    tiles_of_group: tl.constexpr = COLUMN_TILES * GROUP_K // K
    # What makes coordinates positive before a division by the stride.
    lift_h: tl.constexpr = (TOP + STRIDE_H - 1) // STRIDE_H if TOP > 0 else 0
    lift_w: tl.constexpr = (LEFT + STRIDE_W - 1) // STRIDE_W if LEFT > 0 else 0
    # A line of pixels lies last among the pixels' axes: then the box that arrives is a matrix already, and the matrix
    # unit reads it where it lies. Other boxes pass through registers.
    if BOX_ROWS * BOX_COLUMNS == 1:
        boxes = tl.make_tensor_descriptor(
            x,
            [H // STRIDE_H, STRIDE_H, W // STRIDE_W, images, STRIDE_W * C],
            [STRIDE_H * W * C, W * C, STRIDE_W * C, H * W * C, 1],
            [1, 1, 1, BOX_IMAGES, BLOCK_DEPTH],
        )
    else:
        boxes = tl.make_tensor_descriptor(
            x,
            [images, H // STRIDE_H, STRIDE_H, W // STRIDE_W, STRIDE_W * C],
            [H * W * C, STRIDE_H * W * C, W * C, STRIDE_W * C, 1],
            [BOX_IMAGES, BOX_ROWS, 1, BOX_COLUMNS, BLOCK_DEPTH],
        )
    depth: tl.constexpr = R * S * CHUNKS * BLOCK_DEPTH
    weights = tl.make_tensor_descriptor(
        weight, [COLUMN_TILES * BLOCK_COLUMNS, depth], [depth, 1], [BLOCK_COLUMNS, BLOCK_DEPTH]
    )
    row_tiles = tl.cdiv(images, BOX_IMAGES) * (p_tiles * q_tiles)
    for part_tile in tl.range(tl.program_id(0), row_tiles * COLUMN_TILES * SPLITS, PROGRAMS):
        part = part_tile % SPLITS
        row_tile, column_tile = _place_of(part_tile // SPLITS, row_tiles, COLUMN_TILES, GROUP_ROWS)
        first_image = row_tile // (p_tiles * q_tiles) * BOX_IMAGES
        first_p = row_tile // q_tiles % p_tiles * BOX_ROWS
        first_q = row_tile % q_tiles * BOX_COLUMNS
        first_c = column_tile // tiles_of_group * GROUP_C
        if SKIPS:
            last_p, last_q = tl.minimum(first_p + BOX_ROWS, P), tl.minimum(first_q + BOX_COLUMNS, Q)
            first_r, r_taps = _seen_taps(first_p, last_p, H, R, STRIDE_H, TOP, DILATION_H)
            first_s, s_taps = _seen_taps(first_q, last_q, W, S, STRIDE_W, LEFT, DILATION_W)
            steps = r_taps * s_taps * CHUNKS
            run = tl.maximum(s_taps, 1) * CHUNKS
        else:
            first_r, first_s = 0, 0
            steps = R * S * CHUNKS
            run = S * CHUNKS
        sums = tl.zeros((block_rows, BLOCK_COLUMNS), tl.float32)
        for step in tl.range(steps * part // SPLITS, steps * (part + 1) // SPLITS):
            r = first_r + step // run
            s = first_s + step % run // CHUNKS
            chunk = step % CHUNKS * BLOCK_DEPTH
            at_h = r * DILATION_H - TOP + lift_h * STRIDE_H
            at_w = s * DILATION_W - LEFT + lift_w * STRIDE_W
            at_p, phase_p = first_p + at_h // STRIDE_H - lift_h, at_h % STRIDE_H
            at_q, at_c = first_q + at_w // STRIDE_W - lift_w, at_w % STRIDE_W * C + first_c + chunk
            if BOX_ROWS * BOX_COLUMNS == 1:
                pixels = boxes.load([at_p, phase_p, at_q, first_image, at_c])
            else:
                pixels = boxes.load([first_image, at_p, phase_p, at_q, at_c])
            filters = weights.load([column_tile * BLOCK_COLUMNS, (r * S + s) * (CHUNKS * BLOCK_DEPTH) + chunk])
            sums = tl.dot(pixels.reshape(block_rows, BLOCK_DEPTH), filters.T, sums, input_precision=PRECISION)
        number = tl.arange(0, block_rows)
        image = first_image + number // (BOX_ROWS * BOX_COLUMNS)
        p = first_p + number // BOX_COLUMNS % BOX_ROWS
        q = first_q + number % BOX_COLUMNS
        row = (image.to(tl.int64) * P + p) * Q + q
        _store(
            sums,
            bias,
            residual,
            y + part * images.to(tl.int64) * (P * Q * K) if SPLITS > 1 else y,
            row,
            (image < images) & (p < P) & (q < Q),
            column_tile,
            0,
            K,
            GROUP_K,
            COLUMN_TILES,
            BLOCK_COLUMNS,
            PART_ELEMS,
            EPILOGUE,
        )


@triton.jit
def indirect_rows(
    x,
    weight,
    bias,
    residual,
    y,
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
    GROUP_C: tl.constexpr,
    GROUP_K: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
    CHUNKS: tl.constexpr,
    RUN: tl.constexpr,
    LEAD: tl.constexpr,
    HAS_OUTSIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    PART_ELEMS: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """Tiles of BLOCK_ROWS pixels x BLOCK_COLUMNS outputs, each row loaded from its own address.

    RUN: elements of a filter's row, of which LEAD come before its first tap, or 0 where taps are taken one by one.
    CHUNKS: steps of a tap, or of the whole depth. HAS_OUTSIDE: some tap sees padding. SPLITS: parts of the depth, one
    after the other in y.
    """
    tiles_of_group: tl.constexpr = COLUMN_TILES * GROUP_K // K
    steps: tl.constexpr = CHUNKS if RUN > 0 else R * S * CHUNKS
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    depth = tl.arange(0, BLOCK_DEPTH)
    for part_tile in tl.range(tl.program_id(0), row_tiles * COLUMN_TILES * SPLITS, PROGRAMS):
        part = part_tile % SPLITS
        row_tile, column_tile = _place_of(part_tile // SPLITS, row_tiles, COLUMN_TILES, GROUP_ROWS)
        row = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        # Rows beyond the last read the last one's pixel, so that loads need no mask for them.
        known = tl.minimum(row, rows - 1)
        h = known // Q % P * STRIDE_H - TOP
        w = known % Q * STRIDE_W - LEFT
        element = known % Q * (STRIDE_W * C) - (LEFT * C + LEAD)
        image = (known // (P * Q)).to(tl.int64)
        pixel = x + (image * (H * W * C) + h * (W * C) + element)
        if GROUP_K < K:
            pixel += column_tile // tiles_of_group * GROUP_C
        column = column_tile * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        filter_at = weight + column[:, None] * (steps * BLOCK_DEPTH) + depth[None, :]
        sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
        for step in tl.range(steps * part // SPLITS, steps * (part + 1) // SPLITS):
            if RUN > 0:
                at = step * BLOCK_DEPTH + depth
                r = at // RUN * DILATION_H
                along = at % RUN
                if DILATION_W > 1:
                    along = along // C * (DILATION_W * C) + along % C
                at_h, at_w = h[:, None] + r[None, :], element[:, None] + along[None, :]
                # Signed comparisons: from them the compiler sees that the elements of a vector are in or out together.
                is_inside = (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W * C)
                a = tl.load(pixel[:, None] + (r * (W * C) + along)[None, :], is_inside, 0.0)
            else:
                tap = step // CHUNKS
                r, s = tap // S * DILATION_H, tap % S * DILATION_W
                c = step % CHUNKS * BLOCK_DEPTH + depth
                places = pixel[:, None] + ((r * W + s) * C + c)[None, :]
                is_inside = ((h + r).to(tl.uint32) < H) & ((w + s).to(tl.uint32) < W)
                if HAS_OUTSIDE and GROUP_C % BLOCK_DEPTH != 0:
                    a = tl.load(places, is_inside[:, None] & (c < GROUP_C)[None, :], 0.0)
                elif HAS_OUTSIDE:
                    a = tl.load(places, is_inside[:, None], 0.0)
                elif GROUP_C % BLOCK_DEPTH != 0:
                    a = tl.load(places, (c < GROUP_C)[None, :], 0.0)
                else:
                    a = tl.load(places)
            b = tl.load(filter_at + step * BLOCK_DEPTH)
            sums = tl.dot(a, b.T, sums, input_precision=PRECISION)
        _store(
            sums,
            bias,
            residual,
            y + part * rows.to(tl.int64) * K if SPLITS > 1 else y,
            row.to(tl.int64),
            row < rows,
            column_tile,
            0,
            K,
            GROUP_K,
            COLUMN_TILES,
            BLOCK_COLUMNS,
            PART_ELEMS,
            EPILOGUE,
        )


__all__ = ["indirect_boxes", "indirect_rows"]
