"""The Triton kernel of `block_fusion`: a tile of pixels goes through all layers of a block without leaving its
multiprocessor.

Channels are held in parts, each a tensor of its own whose width is a power of two: 96 channels are 64 and 32, so that
tensors' sizes cost little where channels are not powers of two. Input, sums and weights are tuples of such parts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from waterline.codegen.gpu.epilogue import activate, finish

LEAST_WIDTH = 16  # what a matrix product takes


@triton.constexpr_function
def parts(size, most):
    """Widths, each a power of two from 16 to `most`, that together hold `size` channels with little to spare."""
    left, widths = size, []
    while left > 0:
        width = 16
        while width < min(left, most):
            width *= 2
        if width > 32 and 4 * left <= 3 * width:  # half of it and the rest after it hold as many
            width //= 2
        widths.append(width)
        left -= width
    return tuple(widths)


@triton.constexpr_function
def part_count(size, most):
    return len(parts(size, most))


@triton.constexpr_function
def part_width(size, most, part):
    return parts(size, most)[part]


@triton.constexpr_function
def part_begin(size, most, part):
    """The first channel of a part; of the part behind the last: how many channels all hold."""
    return sum(parts(size, most)[:part])


@triton.constexpr_function
def part_filled(size, most, part):
    """Channels of a part that there are."""
    return min(part_width(size, most, part), size - part_begin(size, most, part))


@triton.constexpr_function
def held(size, most):
    """Channels that the parts hold, those that there are not among them."""
    return sum(parts(size, most))


@triton.jit
def channels(SIZE: tl.constexpr, MOST: tl.constexpr, PART: tl.constexpr):
    """The numbers of a part's channels."""
    return part_begin(SIZE, MOST, PART) + tl.arange(0, part_width(SIZE, MOST, PART))


@triton.jit
def grouped_sums(
    x,
    weight,
    image,
    row,
    column,
    is_pixel,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    FIRST: tl.constexpr,
    SPAN: tl.constexpr,
    WIDTH: tl.constexpr,
    PIXELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A part of a grouped convolution: sum over taps of x (pixels, span) times a block-diagonal matrix (span, width).

    weight: (tap, width, span), zero where an input channel is not in the group. FIRST: channel of the input at which
    the span begins. row, column: of the first tap, which may lie outside the image.
    """
    sums = tl.zeros((PIXELS, WIDTH), tl.float32)
    source, out = FIRST + tl.arange(0, SPAN), tl.arange(0, WIDTH)
    matrix = weight + out[None, :] * SPAN + tl.arange(0, SPAN)[:, None]
    for tap in range(0, R * S):
        at_row, at_column = row + tap // S * DILATION_H, column + tap % S * DILATION_W
        is_inside = is_pixel & (at_row >= 0) & (at_row < H) & (at_column >= 0) & (at_column < W)
        at = ((image * H + at_row) * W + at_column).to(tl.int64) * C
        a = tl.load(x + at[:, None] + source[None, :], is_inside[:, None] & (source < C)[None, :], 0.0)
        sums = tl.dot(a, tl.load(matrix + tap * (WIDTH * SPAN)), sums, input_precision=PRECISION)
    return sums


@triton.jit
def depthwise_sums(
    x,
    weight,
    image,
    row,
    column,
    is_pixel,
    channel,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    HELD: tl.constexpr,
    WIDTH: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """A part of a depthwise convolution, without the matrix unit. weight: (tap, HELD)."""
    sums = tl.zeros((PIXELS, WIDTH), tl.float32)
    is_channel = channel < C
    for r in range(0, R):
        at_row = row + r * DILATION_H
        is_row = is_pixel & (at_row >= 0) & (at_row < H)
        for s in tl.static_range(S):
            at_column = column + s * DILATION_W
            is_inside = is_row & (at_column >= 0) & (at_column < W)
            at = ((image * H + at_row) * W + at_column).to(tl.int64) * C
            a = tl.load(x + at[:, None] + channel[None, :], is_inside[:, None] & is_channel[None, :], 0.0)
            b = tl.load(weight + (r * S + s) * HELD + channel)
            sums += a.to(tl.float32) * b.to(tl.float32)[None, :]
    return sums


@triton.jit
def with_part(mean, squares, a, is_channel, BEFORE: tl.constexpr, COUNT: tl.constexpr):
    """Mean, and sum of squared differences from it, of COUNT channels beside BEFORE earlier ones.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979):
    no cancellation, and a part is needed once.
    """
    own = tl.sum(tl.where(is_channel[None, :], a, 0.0), 1) * (1.0 / COUNT)
    difference = tl.where(is_channel[None, :], a - own[:, None], 0.0)
    apart = own - mean
    squares += tl.sum(difference * difference, 1) + apart * apart * (BEFORE * COUNT / (BEFORE + COUNT))
    return mean + apart * (COUNT / (BEFORE + COUNT)), squares


@triton.jit
def normalised(inputs, mean, factor, scale, bias, SIZE: tl.constexpr, MOST: tl.constexpr, HAS_BIAS: tl.constexpr):
    """(x - mean) * factor * scale + bias of all parts."""
    found = ()
    for part in tl.static_range(part_count(SIZE, MOST)):
        channel = channels(SIZE, MOST, part)
        out = (inputs[part].to(tl.float32) - mean[:, None]) * factor[:, None]
        out *= tl.load(scale + channel, channel < SIZE, 0.0).to(tl.float32)[None, :]
        if HAS_BIAS:
            out += tl.load(bias + channel, channel < SIZE, 0.0).to(tl.float32)[None, :]
        found += (out.to(inputs[part].dtype),)
    return found


@triton.jit
def store_results(
    sums,
    bias,
    residual,
    scale,
    added,
    y,
    pixel,
    is_pixel,
    channel,
    K: tl.constexpr,
    EPILOGUE: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    LAST: tl.constexpr,
):
    """Some channels of the last convolution: its epilogue, what stands behind it in the block, the only store."""
    is_channel = channel < K
    places = pixel[:, None] * K + channel[None, :]
    is_place = is_pixel[:, None] & is_channel[None, :]
    out = finish(
        sums,
        bias,
        residual,
        channel,
        is_channel,
        places,
        is_place,
        EPILOGUE,
    )
    if HAS_SCALE:
        out *= tl.load(scale + channel, is_channel, 0.0).to(tl.float32)[None, :]
    if HAS_ADDED:
        out += tl.load(added + places, is_place, 0.0).to(tl.float32)
    out = activate(out, LAST)
    tl.store(y + places, out.to(y.dtype.element_ty), is_place)


@triton.jit
def block_fusion(
    x,
    front_weight,
    front_bias,
    norm_scale,
    norm_bias,
    expand_weight,
    expand_bias,
    project_weight,
    project_bias,
    residual,
    scale,
    added,
    y,
    lines,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    DEPTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    FRONT: tl.constexpr,
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
    SPAN: tl.constexpr,
    HAS_NORM: tl.constexpr,
    EPSILON: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    PIXELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    MOST_DEPTH: tl.constexpr,
    MOST_K: tl.constexpr,
    PRECISION: tl.constexpr,
    FRONT_EPILOGUE: tl.constexpr,
    EXPAND_EPILOGUE: tl.constexpr,
    PROJECT_EPILOGUE: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    LAST: tl.constexpr,
):
    """y = last(project(act(expand(norm(front(x))))) * scale + added), where front, norm, scale and added may be absent.

    A block owns PIXELS pixels of the result: in the order of memory, or (COLUMNS > 0) so many columns of neighbouring
    lines, which read fewer pixels around them. A line is a row of an image; lines of all images follow each other.
    """
    number = tl.arange(0, PIXELS)
    tile = tl.program_id(0)
    if COLUMNS == 0:
        line, column = (tile * PIXELS + number) // Q, (tile * PIXELS + number) % Q
    else:
        across: tl.constexpr = (Q + COLUMNS - 1) // COLUMNS
        line = tile // across * (PIXELS // COLUMNS) + number // COLUMNS
        column = tile % across * COLUMNS + number % COLUMNS
    is_pixel = (line < lines) & (column < Q)
    pixel = (line * Q + column).to(tl.int64)

    # The input of the first product: as it lies in memory, or as the layers in front make it.
    inputs = ()
    mean, squares = tl.zeros((PIXELS,), tl.float32), tl.zeros((PIXELS,), tl.float32)
    image, row, from_column = line // P, line % P * STRIDE_H - TOP, column * STRIDE_W - LEFT
    for part in tl.static_range(part_count(DEPTH, MOST_DEPTH)):
        channel = channels(DEPTH, MOST_DEPTH, part)
        is_channel = channel < DEPTH
        if FRONT == "none":
            a = tl.load(x + pixel[:, None] * C + channel[None, :], is_pixel[:, None] & is_channel[None, :], 0.0)
        else:
            if FRONT == "depthwise":
                a = depthwise_sums(
                    x,
                    front_weight,
                    image,
                    row,
                    from_column,
                    is_pixel,
                    channel,
                    C,
                    H,
                    W,
                    R,
                    S,
                    DILATION_H,
                    DILATION_W,
                    held(DEPTH, MOST_DEPTH),
                    part_width(DEPTH, MOST_DEPTH, part),
                    PIXELS,
                )
            else:
                a = grouped_sums(
                    x,
                    front_weight + part_begin(DEPTH, MOST_DEPTH, part) * (R * S * SPAN),
                    image,
                    row,
                    from_column,
                    is_pixel,
                    C,
                    H,
                    W,
                    R,
                    S,
                    DILATION_H,
                    DILATION_W,
                    part_begin(DEPTH, MOST_DEPTH, part) // GROUP_K * GROUP_C,
                    SPAN,
                    part_width(DEPTH, MOST_DEPTH, part),
                    PIXELS,
                    PRECISION,
                )
            a = finish(
                a,
                front_bias,
                front_bias,
                channel,
                is_channel,
                channel,
                is_channel,
                FRONT_EPILOGUE,
            )
        if HAS_NORM:
            mean, squares = with_part(
                mean,
                squares,
                a.to(tl.float32),
                is_channel,
                part_begin(DEPTH, MOST_DEPTH, part),
                part_filled(DEPTH, MOST_DEPTH, part),
            )
        inputs += (a.to(y.dtype.element_ty),)
    if HAS_NORM:
        factor = tl.rsqrt(squares * (1.0 / DEPTH) + EPSILON)
        inputs = normalised(inputs, mean, factor, norm_scale, norm_bias, DEPTH, MOST_DEPTH, HAS_NORM_BIAS)

    # Hidden channels, a chunk at a time: they are made, activated, and become part of all sums.
    sums = ()
    for part in tl.static_range(part_count(K, MOST_K)):
        sums += (tl.zeros((PIXELS, part_width(K, MOST_K, part)), tl.float32),)
    all_depth: tl.constexpr = held(DEPTH, MOST_DEPTH)
    all_hidden: tl.constexpr = (HIDDEN + CHUNK - 1) // CHUNK * CHUNK
    of_chunk = tl.arange(0, CHUNK)
    for begin in range(0, all_hidden, CHUNK):
        hidden = begin + of_chunk
        h = tl.zeros((PIXELS, CHUNK), tl.float32)
        for inner in tl.static_range(part_count(DEPTH, MOST_DEPTH)):
            depth = channels(DEPTH, MOST_DEPTH, inner)
            b = tl.load(expand_weight + begin * all_depth + (of_chunk[None, :] * all_depth + depth[:, None]))
            h = tl.dot(inputs[inner], b, h, input_precision=PRECISION)
        is_hidden = hidden < HIDDEN
        h = finish(
            h,
            expand_bias,
            expand_bias,
            hidden,
            is_hidden,
            hidden,
            is_hidden,
            EXPAND_EPILOGUE,
        )
        active = h.to(y.dtype.element_ty)
        grown = ()
        for outer in tl.static_range(part_count(K, MOST_K)):
            k = channels(K, MOST_K, outer)
            b = tl.load(project_weight + begin + (k[None, :] * all_hidden + of_chunk[:, None]))
            grown += (tl.dot(active, b, sums[outer], input_precision=PRECISION),)
        sums = grown

    for part in tl.static_range(part_count(K, MOST_K)):
        store_results(
            sums[part],
            project_bias,
            residual,
            scale,
            added,
            y,
            pixel,
            is_pixel,
            channels(K, MOST_K, part),
            K,
            PROJECT_EPILOGUE,
            HAS_SCALE,
            HAS_ADDED,
            LAST,
        )


__all__ = [
    "LEAST_WIDTH",
    "block_fusion",
    "channels",
    "depthwise_sums",
    "held",
    "part_count",
    "part_width",
    "parts",
    "store_results",
]
