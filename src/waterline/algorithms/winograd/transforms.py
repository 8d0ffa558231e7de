"""Winograd's minimal filtering F(m, r) by Cook-Toom interpolation, exactly, in rational numbers.

F(m, r) computes m outputs of an r-tap filter from n = m + r - 1 inputs with n multiplications:
`y = A^T [(G g) * (B^T d)]` (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4.1).
It is polynomial interpolation at n - 1 finite points and at infinity; the points decide the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from waterline.algorithms.winograd.sums import Matrix, program

__all__ = ["POINTS", "Filtering", "Matrix", "filtering", "program"]


def _pairs(*points: str) -> tuple[Fraction, ...]:
    """0, and each point with its opposite; a point with a sign stands for itself."""
    found = [Fraction(0)]
    for point in points:
        value = Fraction(point)
        found += [value] if point[0] in "+-" else [value, -value]
    return tuple(found)


# Points by count: of fractions with small terms those that let independent roundings grow least (the formula is in
# `Winograd.tolerance`; docs/winograd.md has the table). Opposite points share their even and odd parts, inverse ones
# (2/3 and 3/2) cancel in the coefficients: in F(4x4,3x3) roundings grow 2.4 times with 0, +-2/3, +-3/2, and 10.5 times
# with 0, +-1, +-2.
POINTS: dict[int, tuple[Fraction, ...]] = {
    0: (),
    1: _pairs(),
    2: _pairs("+1"),
    3: _pairs("1"),
    4: _pairs("5/8", "+4/3"),
    5: _pairs("2/3", "3/2"),
    6: _pairs("2/3", "1", "+5/2"),
    7: _pairs("1/2", "1", "2"),
    8: _pairs("1/2", "1", "2", "+3/4"),
    9: _pairs("2/5", "3/4", "4/3", "5/2"),
}


@dataclass(frozen=True)
class Filtering:
    """The three matrices of F(m, r): `a` is A^T (m x n), `g` is G (n x r), `b` is B^T (n x inputs).

    `n` multiplications give m outputs, `stride` inputs apart.
    """

    m: int
    r: int
    a: Matrix
    g: Matrix
    b: Matrix
    stride: int = 1

    @property
    def n(self) -> int:
        """Multiplications."""
        return len(self.b)

    @property
    def inputs(self) -> int:
        """Inputs that m outputs see."""
        return (self.m - 1) * self.stride + self.r


@cache
def filtering(m: int, r: int, points: tuple[Fraction, ...] | None = None, stride: int = 1) -> Filtering:
    """F(m, r) from m + r - 2 distinct finite points (default: `POINTS`) and infinity.

    With a stride, the taps and the inputs fall into `stride` classes that meet only each other (decimation, wincnn's
    FAQ): the outputs are the sum of as many filterings of stride 1, whose products stand side by side in one
    algorithm. F(4, 3) at stride 2 is F(4, 2) on the even and F(4, 1) on the odd inputs: 9 multiplications, not 12.

    Raises:
        KeyError: there is no default set of so many points.
    """
    if stride > 1:
        return _decimated(m, r, stride)
    points = POINTS[m + r - 2] if points is None else points
    assert len(points) == len(set(points)) == m + r - 2, points
    zero, one = Fraction(0), Fraction(1)
    a = tuple((*(p**i for p in points), one if i == m - 1 else zero) for i in range(m))
    g, b = [], []
    for j, p in enumerate(points):
        others = points[:j] + points[j + 1 :]
        scale = one
        for q in others:
            scale *= p - q
        g.append(tuple(p**k / scale for k in range(r)))
        b.append((*_product(others), zero))
    g.append((*([zero] * (r - 1)), one))
    b.append(_product(points))
    return Filtering(m, r, a, tuple(g), tuple(b))


def _decimated(m: int, r: int, stride: int) -> Filtering:
    """One filtering for each class of taps; the matrices are those of the classes, spread to their places."""
    inputs = (m - 1) * stride + r
    a: list[tuple[Fraction, ...]] = [()] * m
    g, b = [], []
    for phase in range(min(stride, r)):
        taps = len(range(phase, r, stride))
        part = filtering(m, taps)
        a = [row + more for row, more in zip(a, part.a, strict=True)]
        g += [_spread(row, phase, stride, r) for row in part.g]
        b += [_spread(row, phase, stride, inputs) for row in part.b]
    return Filtering(m, r, tuple(a), tuple(g), tuple(b), stride)


def _spread(row: tuple[Fraction, ...], first: int, step: int, length: int) -> tuple[Fraction, ...]:
    spread = [Fraction(0)] * length
    for i, value in enumerate(row):
        spread[first + i * step] = value
    return tuple(spread)


def _product(roots: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Coefficients of the product of (x - root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [-root * c for c in coefficients] + [Fraction(0)]
        coefficients = [s + t for s, t in zip(shifted, scaled, strict=True)]
    return tuple(coefficients)
