"""A constant matrix times a vector in few operations: sums that rows have in common are computed once.

Two terms of a row that stand in the same ratio in another row are one value for both. The most frequent such pair is
made a value of its own, and the search goes on with what is left, until no pair occurs twice. For the transforms of
Winograd's algorithm that finds what one would by hand: rows of opposite points are u + v and u - v, with u of the even
and v of the odd powers; and the inverse transform starts with the sums and differences of opposite points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

Matrix = tuple[tuple[Fraction, ...], ...]
Terms = tuple[tuple[Fraction, int], ...]
Pair = tuple[int, int, Fraction]  # two values, and the ratio of their coefficients

_MANTISSA_BITS = 24


@dataclass(frozen=True)
class Sum:
    """A step of a transform: value number `target` = sum of coefficient * value over `terms`."""

    target: int
    terms: Terms


@cache
def program(matrix: Matrix) -> tuple[tuple[Sum, ...], tuple[int, ...]]:
    """A matrix times a vector as sums. Values 0 .. columns-1 are the inputs.

    Returns:
        The sums in order, and the value that each row ends in.
    """
    rows = [{i: coefficient for i, coefficient in enumerate(row) if coefficient} for row in matrix]
    columns = len(matrix[0])
    sums: list[Sum] = []
    while pair := _most_frequent(rows):
        value = columns + len(sums)
        terms = _scaled(pair, rows)
        sums.append(Sum(value, terms))
        _replace(rows, terms, value)
    known: dict[Terms, int] = {}
    ends = []
    for row in rows:
        terms = tuple((coefficient, i) for i, coefficient in sorted(row.items()))
        if len(terms) == 1 and terms[0][0] == 1:
            ends.append(terms[0][1])
            continue
        if terms not in known:
            known[terms] = columns + len(sums)
            sums.append(Sum(known[terms], terms))
        ends.append(known[terms])
    return tuple(sums), tuple(ends)


def _pairs(row: dict[int, Fraction]) -> list[Pair]:
    indices = sorted(row)
    return [(i, j, row[j] / row[i]) for at, i in enumerate(indices) for j in indices[at + 1 :]]


def _most_frequent(rows: Sequence[dict[int, Fraction]]) -> Pair | None:
    """The pair of terms that most rows have; None if none has a second. The first of equals."""
    counts = Counter(pair for row in rows for pair in _pairs(row))
    pair, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return pair if count > 1 else None


def _scaled(pair: Pair, rows: Sequence[dict[int, Fraction]]) -> Terms:
    """The pair's sum, scaled so that the fewest multiplications are left; of equals, with coefficients exact in f32."""
    i, j, ratio = pair
    shared = [row for row in rows if pair in _pairs(row)]

    def cost(scale: Fraction) -> tuple[int, bool]:
        count = int(1 not in (scale, scale * ratio))
        for row in shared:
            count += row[i] != scale and all(row[other] != 1 for other in row if other not in (i, j))
        return count, not (_is_exact(scale) and _is_exact(scale * ratio))

    scale = min([sign * row[i] for row in shared for sign in (1, -1)] + [Fraction(1), 1 / ratio], key=cost)
    return (scale, i), (scale * ratio, j)


def _is_exact(value: Fraction) -> bool:
    """A float32 without rounding."""
    denominator = value.denominator
    return denominator & (denominator - 1) == 0 and abs(value.numerator).bit_length() <= _MANTISSA_BITS


def _replace(rows: Sequence[dict[int, Fraction]], terms: Terms, value: int) -> None:
    (first, i), (second, j) = terms
    for row in rows:
        if i in row and j in row and row[i] * second == row[j] * first:
            row[value] = row.pop(i) / first
            del row[j]
