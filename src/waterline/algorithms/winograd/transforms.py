"""Winograd's minimal filtering F(m, r) by Cook-Toom interpolation, exactly, in rational numbers.

F(m, r) computes m outputs of an r-tap filter from n = m + r - 1 inputs with n multiplications:
`y = A^T [(G g) * (B^T d)]` (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4.1).
It is polynomial interpolation at n - 1 finite points and at infinity; the points decide the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

Matrix = tuple[tuple[Fraction, ...], ...]

# Points by count, every one exact in f32, in pairs +-p so that rows share their even and odd parts. Of five points
# 0, +-5/8, +-3/2 let independent roundings grow 2.7 times in F(4x4,3x3), 0, +-1, +-2 10.5 times (the formula is in
# `Winograd.tolerance`).
POINTS: dict[int, tuple[Fraction, ...]] = {
    0: (),
    1: (Fraction(0),),
    2: (Fraction(0), Fraction(1)),
    3: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2)),
    5: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
    6: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-1, 2), Fraction(2)),
    7: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-1, 2), Fraction(2), Fraction(-2)),
}


@dataclass(frozen=True)
class Filtering:
    """The three matrices of F(m, r): `a` is A^T (m x n), `g` is G (n x r), `b` is B^T (n x n)."""

    m: int
    r: int
    a: Matrix
    g: Matrix
    b: Matrix

    @property
    def n(self) -> int:
        """Inputs of a tile, and multiplications."""
        return self.m + self.r - 1


@cache
def filtering(m: int, r: int, points: tuple[Fraction, ...] | None = None) -> Filtering:
    """F(m, r) from m + r - 2 distinct finite points (default: `POINTS`) and infinity.

    Raises:
        KeyError: there is no default set of so many points.
    """
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


def _product(roots: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Coefficients of the product of (x - root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [-root * c for c in coefficients] + [Fraction(0)]
        coefficients = [s + t for s, t in zip(shifted, scaled, strict=True)]
    return tuple(coefficients)


@dataclass(frozen=True)
class Sum:
    """A step of a transform: value number `target` = sum of coefficient * value over `terms`."""

    target: int
    terms: tuple[tuple[Fraction, int], ...]


@cache
def program(matrix: Matrix) -> tuple[tuple[Sum, ...], tuple[int, ...]]:
    """A matrix times a vector as sums, with parts that two rows have in common computed once.

    Values 0 .. columns-1 are the inputs. Rows of opposite points are u + v and u - v (u: even, v: odd part).

    Returns:
        The sums in order, and the value that each row ends in.
    """
    columns = len(matrix[0])
    sums: list[Sum] = []
    known: dict[tuple[tuple[Fraction, int], ...], int] = {}
    rows: list[int] = [-1] * len(matrix)

    def emit(terms: tuple[tuple[Fraction, int], ...]) -> int:
        if len(terms) == 1 and terms[0][0] == 1:
            return terms[0][1]
        if terms not in known:
            known[terms] = columns + len(sums)
            sums.append(Sum(known[terms], terms))
        return known[terms]

    def sparse(row: tuple[Fraction, ...]) -> tuple[tuple[Fraction, int], ...]:
        return tuple((c, i) for i, c in enumerate(row) if c)

    for i, row in enumerate(matrix):
        if rows[i] >= 0:
            continue
        for j in range(i + 1, len(matrix)):
            even = tuple((x + y) / 2 for x, y in zip(row, matrix[j], strict=True))
            odd = tuple((x - y) / 2 for x, y in zip(row, matrix[j], strict=True))
            shares = not any(e and o for e, o in zip(even, odd, strict=True))
            if rows[j] < 0 and shares and any(even) and any(odd):
                u, v = emit(sparse(even)), emit(sparse(odd))
                rows[i] = emit(((Fraction(1), u), (Fraction(1), v)))
                rows[j] = emit(((Fraction(1), u), (Fraction(-1), v)))
                break
        else:
            rows[i] = emit(sparse(row))
    return tuple(sums), tuple(rows)
