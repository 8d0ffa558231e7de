"""Winograd's transforms on GPUs: of the input and of the products. Each is one launch.

The constant matrices are those of `transforms`, as the sums of `sums.program`: a kernel is given the sums as
compile-time constants, and what it executes is these sums and nothing else. All in f32, in registers; a thread has all
points of a few channels of a tile.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import torch
import triton
import triton.language as tl

from waterline.algorithms.winograd.transforms import Filtering, Matrix, program
from waterline.codegen.gpu.epilogue import finish

TF32_LOST_BITS = 13  # of the mantissa of f32


def sums(matrix: Matrix) -> dict[str, Any]:
    """The compile-time arguments of `apply`: the terms of all sums one after the other, FACTORS and PLACES of values;
    where in these each sum begins; and where rows end.

    Terms with coefficient 1 come first in a sum, so that the others fold into multiply-adds. All are flat, since the
    oldest Triton takes no parts of nested tuples.
    """
    steps, ends = program(matrix)

    def order(term: tuple[Fraction, int]) -> tuple[bool, bool]:
        return term[0] != 1, abs(term[0]) != 1

    terms = [sorted(step.terms, key=order) for step in steps]
    return {
        "FACTORS": tuple(float(factor) for step in terms for factor, _ in step),
        "PLACES": tuple(at for step in terms for _, at in step),
        "STARTS": (0, *itertools.accumulate(map(len, terms))),
        "ENDS": ends,
    }


def growth(filtering: Filtering) -> float:
    """Of rounding errors of the products, against direct summation; see `Winograd.tolerance`."""
    matrices = (filtering.a, filtering.g, filtering.b)
    a, g, b = (torch.tensor([[float(value) for value in row] for row in matrix]) for matrix in matrices)
    return float((a**2 @ ((g**2).sum(1) * (b**2).sum(1))).max()) / filtering.r**2


def is_dyadic(filtering: Filtering) -> bool:
    """Whether all coefficients are multiples of 1/4, with which small whole numbers stay exact."""
    matrices = (filtering.a, filtering.g, filtering.b)
    return all(4 % value.denominator == 0 for matrix in matrices for row in matrix for value in row)


def transform_filters(filtering: Filtering, weight: torch.Tensor) -> torch.Tensor:
    """(k, c, 3, 3) -> `G g G^T` as (point, k, c), in float64."""
    g = torch.tensor([[float(value) for value in row] for row in filtering.g], dtype=torch.float64)
    points = torch.kron(g, g).to(weight.device)
    return torch.einsum("pt,kct->pkc", points, weight.to(torch.float64).flatten(2))


def rounded_to_tf32(values: torch.Tensor) -> torch.Tensor:
    """f32 with the mantissa of tf32, to nearest and to even between two."""
    bits = values.contiguous().view(torch.int32)
    half = (1 << (TF32_LOST_BITS - 1)) - 1
    rounded = (bits + half + ((bits >> TF32_LOST_BITS) & 1)) & -(1 << TF32_LOST_BITS)
    return torch.where(values.isfinite(), rounded.view(torch.float32), values)


@triton.jit
def round_to_tf32(values):
    """As `rounded_to_tf32`: the matrix unit would cut the mantissa off, with twice the error and all of it one way."""
    bits = values.to(tl.int32, bitcast=True)
    rounded = ((bits + 0xFFF + ((bits >> 13) & 1)) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(values == values, rounded, values)


@triton.jit
def apply(values, FACTORS: tl.constexpr, PLACES: tl.constexpr, STARTS: tl.constexpr, ENDS: tl.constexpr):
    """A constant matrix times a tuple of tensors."""
    for step in tl.static_range(len(STARTS) - 1):
        total = values[PLACES[STARTS[step]]]
        if FACTORS[STARTS[step]] != 1.0:
            total = total * FACTORS[STARTS[step]]
        for term in tl.static_range(len(PLACES)):
            if term > STARTS[step] and term < STARTS[step + 1]:
                if FACTORS[term] == 1.0:
                    total = total + values[PLACES[term]]
                elif FACTORS[term] == -1.0:
                    total = total - values[PLACES[term]]
                else:
                    total = total + values[PLACES[term]] * FACTORS[term]
        values = values + (total,)  # noqa: RUF005
    ends = ()
    for row in tl.static_range(len(ENDS)):
        ends += (values[ENDS[row]],)
    return ends


@triton.jit
def apply_both(
    values, SIDE: tl.constexpr, FACTORS: tl.constexpr, PLACES: tl.constexpr, STARTS: tl.constexpr, ENDS: tl.constexpr
):
    """matrix x square x matrix^T, for a square of SIDE x SIDE tensors row by row."""
    between = ()
    for j in tl.static_range(SIDE):
        column = ()
        for i in tl.static_range(SIDE):
            column += (values[i * SIDE + j],)
        between += apply(column, FACTORS, PLACES, STARTS, ENDS)
    ends = ()
    for i in tl.static_range(len(ENDS)):
        row = ()
        for j in tl.static_range(SIDE):
            row += (between[j * len(ENDS) + i],)
        ends += apply(row, FACTORS, PLACES, STARTS, ENDS)
    return ends


@triton.jit
def winograd_input(
    x,
    data,
    first,
    tiles,
    rows,
    FACTORS: tl.constexpr,
    PLACES: tl.constexpr,
    STARTS: tl.constexpr,
    ENDS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SIDE: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    TILES_DOWN: tl.constexpr,
    TILES_ACROSS: tl.constexpr,
    HAS_MARGINS: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    IS_TF32: tl.constexpr,
):
    """data[point, tile, c] = (B^T d B)[point] of tiles first .. first + tiles.

    Writes whole blocks: zeros for channels from CHANNELS to DEPTH and for tiles behind the last. HAS_MARGINS: tiles may
    see what is outside the image.
    """
    channel_blocks: tl.constexpr = DEPTH // BLOCK_CHANNELS
    row = tl.program_id(0) // channel_blocks * BLOCK_TILES + tl.arange(0, BLOCK_TILES)
    channel = tl.program_id(0) % channel_blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    tile = first + row
    top = tile // TILES_ACROSS % TILES_DOWN * OUTPUTS - TOP
    left = tile % TILES_ACROSS * OUTPUTS - LEFT
    image = (tile // (TILES_DOWN * TILES_ACROSS)).to(tl.int64)
    pixel = (image * HEIGHT + top) * WIDTH + left
    source = x + pixel[:, None] * CHANNELS + channel[None, :]
    is_read = (row < tiles)[:, None]
    if CHANNELS < DEPTH:
        is_read = is_read & (channel < CHANNELS)[None, :]
    values = ()
    for i in tl.static_range(SIDE):
        for j in tl.static_range(SIDE):
            mask = is_read
            if HAS_MARGINS:
                is_inside = (top + i >= 0) & (top + i < HEIGHT) & (left + j >= 0) & (left + j < WIDTH)
                mask = is_read & is_inside[:, None]
            values += (tl.load(source + (i * WIDTH + j) * CHANNELS, mask, 0.0).to(tl.float32),)
    values = apply_both(values, SIDE, FACTORS, PLACES, STARTS, ENDS)
    target = data + row.to(tl.int64)[:, None] * DEPTH + channel[None, :]
    step = rows.to(tl.int64) * DEPTH
    for point in tl.static_range(SIDE * SIDE):
        value = values[point]
        if IS_TF32:
            value = round_to_tf32(value)
        tl.store(target + point * step, value.to(data.dtype.element_ty))


@triton.jit
def winograd_output(
    products,
    bias,
    residual,
    y,
    first,
    tiles,
    rows,
    FACTORS: tl.constexpr,
    PLACES: tl.constexpr,
    STARTS: tl.constexpr,
    ENDS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SIDE: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILES_DOWN: tl.constexpr,
    TILES_ACROSS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """y = epilogue(A^T products[:, tile, k] A) for tiles first .. first + tiles.

    HEIGHT, WIDTH and CHANNELS are the output's; COLUMNS lie from row to row of the products.
    """
    channel_blocks: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    row = tl.program_id(0) // channel_blocks * BLOCK_TILES + tl.arange(0, BLOCK_TILES)
    channel = tl.program_id(0) % channel_blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    is_channel = channel < CHANNELS
    is_written = (row < tiles)[:, None] & is_channel[None, :]
    source = products + row.to(tl.int64)[:, None] * COLUMNS + channel[None, :]
    step = rows.to(tl.int64) * COLUMNS
    values = ()
    for point in tl.static_range(SIDE * SIDE):
        values += (tl.load(source + point * step, is_written, 0.0).to(tl.float32),)
    values = apply_both(values, SIDE, FACTORS, PLACES, STARTS, ENDS)
    tile = first + row
    top = tile // TILES_ACROSS % TILES_DOWN * OUTPUTS
    left = tile % TILES_ACROSS * OUTPUTS
    image = (tile // (TILES_DOWN * TILES_ACROSS)).to(tl.int64)
    pixel = (image * HEIGHT + top) * WIDTH + left
    target = pixel[:, None] * CHANNELS + channel[None, :]
    for i in tl.static_range(OUTPUTS):
        for j in tl.static_range(OUTPUTS):
            is_place = is_written
            if HEIGHT % OUTPUTS != 0 or WIDTH % OUTPUTS != 0:
                is_place = is_written & ((top + i < HEIGHT) & (left + j < WIDTH))[:, None]
            places = target + (i * WIDTH + j) * CHANNELS
            out = finish(
                values[i * OUTPUTS + j],
                bias,
                residual,
                channel,
                is_channel,
                places,
                is_place,
                EPILOGUE,
            )
            tl.store(y + places, out.to(y.dtype.element_ty), is_place)


__all__ = [
    "apply",
    "apply_both",
    "growth",
    "is_dyadic",
    "round_to_tf32",
    "rounded_to_tf32",
    "sums",
    "transform_filters",
    "winograd_input",
    "winograd_output",
]
