"""Operations of the transforms as they are emitted, on the scale of the paper's counts.

Lavin and Gray count floating-point instructions: an addition, a multiplication or a multiply-add is one (section 4.1:
32 data, 28 filter and 24 inverse of F(2x2,3x3)). In two dimensions a transform is applied to every column of a tile
and then to every row of what it made.
"""

from __future__ import annotations

from dataclasses import dataclass

from waterline.algorithms.winograd.transforms import Filtering, Matrix, program


@dataclass(frozen=True)
class Operations:
    """Of one transform of one channel.

    Attributes:
        instructions: additions, multiplications and multiply-adds, each one: as the paper counts.
        flops: the same with a multiply-add as two.
    """

    instructions: int
    flops: int

    def __mul__(self, times: int) -> Operations:
        return Operations(self.instructions * times, self.flops * times)


@dataclass(frozen=True)
class TransformCounts:
    """The three transforms of F(m, r), or of F(m x m, r x r)."""

    data: Operations
    filter: Operations
    inverse: Operations


def operation_counts(matrix: Matrix) -> Operations:
    """A constant matrix times a vector, by the sums of `program`.

    Of a sum's terms one with coefficient 1 starts it for nothing, if there is one; a term with coefficient 1 or -1
    is an addition, every other a multiply-add.
    """
    instructions = flops = 0
    for step in program(matrix)[0]:
        factors = sorted((coefficient for coefficient, _ in step.terms), key=lambda factor: (factor != 1, factor != -1))
        first, *rest = factors
        instructions += len(rest) + (first != 1)
        flops += (first != 1) + sum(1 if abs(factor) == 1 else 2 for factor in rest)
    return Operations(instructions, flops)


def counts(filtering: Filtering) -> TransformCounts:
    """Of the one-dimensional algorithm."""
    return TransformCounts(*(operation_counts(matrix) for matrix in (filtering.b, filtering.g, filtering.a)))


def square_counts(filtering: Filtering) -> TransformCounts:
    """Of F(m x m, r x r): a matrix with `o` rows and `i` columns is applied i + o times."""
    return TransformCounts(
        *(
            operation_counts(matrix) * (len(matrix) + len(matrix[0]))
            for matrix in (filtering.b, filtering.g, filtering.a)
        )
    )
