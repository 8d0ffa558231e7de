"""The transforms of Winograd's algorithm, exactly: matrices, sums and counts, in rational numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from waterline.algorithms.winograd.counts import TransformCounts, counts, operation_counts, square_counts
from waterline.algorithms.winograd.sums import Matrix, program
from waterline.algorithms.winograd.transforms import POINTS, Filtering, filtering

Rows = Sequence[Sequence[int | str]]

PAPERS_POINTS = {
    (2, 3): (0, 1, -1),
    (3, 2): (0, 1, -1),
    (3, 3): (0, 1, -1, 2),
    (4, 3): (0, 1, -1, 2, -2),
    (6, 3): (0, 1, -1, 2, -2, "1/2", "-1/2"),
}
# Lavin and Gray: B^T, G and A^T of sections 4.1 and 4.3.
PAPERS_MATRICES: dict[tuple[int, int], tuple[Rows, Rows, Rows]] = {
    (2, 3): (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], ["1/2", "1/2", "1/2"], ["1/2", "-1/2", "1/2"], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    (3, 2): (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]],
        [[1, 0], ["1/2", "1/2"], ["1/2", "-1/2"], [0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, 0], [0, 1, 1, 1]],
    ),
    (4, 3): (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            ["1/4", 0, 0],
            ["-1/6", "-1/6", "-1/6"],
            ["-1/6", "1/6", "-1/6"],
            ["1/24", "1/12", "1/6"],
            ["1/24", "-1/12", "1/6"],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}
# Data, filter and inverse: floating-point instructions of one dimension and of two (section 4 and the supplement).
PAPERS_COUNTS = {
    (2, 3): ((4, 4, 4), (32, 28, 24)),
    (3, 3): ((9, 7, 7), (90, 56, 56)),
    (4, 3): ((13, 8, 10), (156, 72, 100)),
    (6, 3): ((26, 13, 20), (416, 143, 280)),
}
DEFAULTS = [(m, r) for r in range(2, 9) for m in range(2, 9) if m + r - 2 in POINTS]


def matrix(rows: Rows) -> Matrix:
    return tuple(tuple(Fraction(value) for value in row) for row in rows)


def papers(m: int, r: int) -> Filtering:
    return filtering(m, r, tuple(Fraction(point) for point in PAPERS_POINTS[m, r]))


def multiply(rows: Matrix, vector: Sequence[Fraction]) -> list[Fraction]:
    return [sum((a * x for a, x in zip(row, vector, strict=True)), Fraction(0)) for row in rows]


# ---- matrices -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", PAPERS_MATRICES)
def test_the_papers_matrices(size: tuple[int, int]) -> None:
    """Up to a factor for each point on each matrix, the product of the three being one: y = A^T [(G g) * (B^T d)] is
    the same for all of them, and the paper chooses other signs than the construction does."""
    ours = papers(*size)
    b, g, a = map(matrix, PAPERS_MATRICES[size])
    for point in range(ours.n):
        factors = [
            scale_between(ours.b[point], b[point]),
            scale_between(ours.g[point], g[point]),
            scale_between([row[point] for row in ours.a], [row[point] for row in a]),
        ]
        assert factors[0] * factors[1] * factors[2] == 1, f"point {point}: {factors}"


def scale_between(ours: Sequence[Fraction], theirs: Sequence[Fraction]) -> Fraction:
    """The factor by which ours is a multiple of theirs. Fails if it is none."""
    at = next(i for i, value in enumerate(theirs) if value)
    factor = ours[at] / theirs[at]
    assert factor != 0
    assert [factor * value for value in theirs] == list(ours)
    return factor


def test_a_scaled_matrix_is_noticed() -> None:
    with pytest.raises(AssertionError):
        scale_between([Fraction(1), Fraction(2)], [Fraction(1), Fraction(3)])


# ---- the algorithm --------------------------------------------------------------------------------------------------
rationals = st.fractions(min_value=-100, max_value=100, max_denominator=64)


@pytest.mark.parametrize("size", DEFAULTS, ids=lambda size: f"F{size}")
@settings(max_examples=20)
@given(data=st.data())
def test_it_is_the_correlation(size: tuple[int, int], data: st.DataObject) -> None:
    """The matrices, and the sums that are emitted for them."""
    m, r = size
    ours = filtering(m, r)
    d = data.draw(st.lists(rationals, min_size=ours.n, max_size=ours.n), label="inputs")
    g = data.draw(st.lists(rationals, min_size=r, max_size=r), label="filter")
    truth = [sum((d[i + k] * g[k] for k in range(r)), Fraction(0)) for i in range(m)]
    products = [u * v for u, v in zip(multiply(ours.g, g), multiply(ours.b, d), strict=True)]
    assert multiply(ours.a, products) == truth
    products = [u * v for u, v in zip(evaluate(ours.g, g), evaluate(ours.b, d), strict=True)]
    assert evaluate(ours.a, products) == truth


@pytest.mark.parametrize(("m", "r", "stride"), [(2, 3, 2), (4, 3, 2), (3, 7, 2), (2, 5, 3), (4, 2, 3)])
def test_strides_are_decimation(m: int, r: int, stride: int) -> None:
    ours = filtering(m, r, stride=stride)
    d = [Fraction(3 * i * i - 7, i + 1) for i in range(ours.inputs)]
    g = [Fraction(5 - k, 3) for k in range(r)]
    products = [u * v for u, v in zip(evaluate(ours.g, g), evaluate(ours.b, d), strict=True)]
    truth = [sum((d[i * stride + k] * g[k] for k in range(r)), Fraction(0)) for i in range(m)]
    assert evaluate(ours.a, products) == truth
    assert ours.n <= m * r


@given(
    m=st.integers(1, 5),
    r=st.integers(1, 5),
    points=st.lists(rationals, min_size=8, max_size=8, unique=True),
)
def test_any_points_will_do(m: int, r: int, points: list[Fraction]) -> None:
    ours = filtering(m, r, tuple(points[: m + r - 2]))
    d = [Fraction(3 * i * i - 7, i + 1) for i in range(ours.n)]
    g = [Fraction(5 - k, 3) for k in range(r)]
    products = [u * v for u, v in zip(multiply(ours.g, g), multiply(ours.b, d), strict=True)]
    truth = [sum((d[i + k] * g[k] for k in range(r)), Fraction(0)) for i in range(m)]
    assert multiply(ours.a, products) == truth


# ---- sums -----------------------------------------------------------------------------------------------------------
def evaluate(rows: Matrix, vector: Sequence[Fraction]) -> list[Fraction]:
    """By the sums of `program`."""
    values = list(vector)
    sums, ends = program(rows)
    for step in sums:
        assert step.target == len(values), "sums are numbered in order"
        values.append(sum((factor * values[index] for factor, index in step.terms), Fraction(0)))
    return [values[end] for end in ends]


small = st.fractions(min_value=-4, max_value=4, max_denominator=4)


@given(data=st.data(), rows=st.integers(1, 7), columns=st.integers(1, 7))
def test_sums_are_the_product(data: st.DataObject, rows: int, columns: int) -> None:
    """Of any matrix without empty rows; few different values make many common pairs."""
    row = st.lists(small, min_size=columns, max_size=columns).filter(any)
    values = tuple(map(tuple, data.draw(st.lists(row, min_size=rows, max_size=rows), label="matrix")))
    vector = data.draw(st.lists(rationals, min_size=columns, max_size=columns), label="vector")
    assert evaluate(values, vector) == multiply(values, vector)


@given(data=st.data(), rows=st.integers(1, 6), columns=st.integers(2, 6))
def test_sharing_never_costs(data: st.DataObject, rows: int, columns: int) -> None:
    """Each pair that is made a value of its own saves at least what it takes, but for multiplications by its scale."""
    row = st.lists(st.sampled_from([Fraction(-1), Fraction(0), Fraction(1)]), min_size=columns, max_size=columns)
    values = tuple(map(tuple, data.draw(st.lists(row.filter(any), min_size=rows, max_size=rows), label="matrix")))
    additions = sum(sum(map(bool, line)) - 1 for line in values)
    assert sum(len(step.terms) - 1 for step in program(values)[0]) <= additions


def test_what_rows_have_in_common_is_computed_once() -> None:
    sums, ends = program(matrix([[1, 1, 2], [1, 1, -2], [1, 1, 0], [0, 0, 1]]))
    assert [step.terms for step in sums] == [
        ((Fraction(1), 0), (Fraction(1), 1)),
        ((Fraction(2), 2), (Fraction(1), 3)),
        ((Fraction(-2), 2), (Fraction(1), 3)),
    ]
    assert ends == (4, 5, 3, 2)


# ---- counts ---------------------------------------------------------------------------------------------------------
def instructions(found: TransformCounts) -> tuple[int, int, int]:
    return found.data.instructions, found.filter.instructions, found.inverse.instructions


# Of the filter's transform (28, 56, 72, 143 in the paper), with the paper's points: the construction gives the points
# other signs, and with them the rows of G, for the sake of A and B. It is not emitted: filters are transformed once, in
# float64, by a matrix product.
FILTER_COUNTS = {(2, 3): 35, (3, 3): 72, (4, 3): 81, (6, 3): 143}


@pytest.mark.parametrize("size", PAPERS_COUNTS)
def test_counts_beside_the_papers(size: tuple[int, int]) -> None:
    """With the paper's points the transforms that are emitted, of data and inverse, take no more than the paper's."""
    one, two = counts(papers(*size)), square_counts(papers(*size))
    for found, paper in ((one, PAPERS_COUNTS[size][0]), (two, PAPERS_COUNTS[size][1])):
        data, _, inverse = instructions(found)
        assert data <= paper[0]
        assert inverse <= paper[2]
    assert two.filter.instructions == FILTER_COUNTS[size]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2, 3), (32, 35, 24)),
        # Inverse: no point is 1, whose powers the paper adds as they are (56 and 100).
        ((3, 3), (90, 72, 64)),
        ((4, 3), (144, 72, 120)),
        ((6, 3), (384, 143, 280)),
    ],
)
def test_counts_with_our_points(size: tuple[int, int], expected: tuple[int, int, int]) -> None:
    assert instructions(square_counts(filtering(*size))) == expected


def test_two_dimensions_are_columns_then_rows() -> None:
    """A matrix of o rows and i columns is applied to i columns and then to o rows."""
    one, two = counts(filtering(4, 3)), square_counts(filtering(4, 3))
    assert two.data.instructions == 12 * one.data.instructions
    assert two.filter.flops == 9 * one.filter.flops
    assert two.inverse.flops == 10 * one.inverse.flops


@pytest.mark.parametrize(
    ("row", "instructions", "flops"),
    [([1, 0], 0, 0), ([2, 0], 1, 1), ([1, -1], 1, 1), ([-1, 2], 2, 3), ([1, -1, 3], 2, 3)],
)
def test_a_multiply_add_is_one_instruction_and_two_flops(row: list[int], instructions: int, flops: int) -> None:
    found = operation_counts(matrix([row]))
    assert (found.instructions, found.flops) == (instructions, flops)
