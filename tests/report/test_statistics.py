"""Student's t and Welch's interval, against figures of tables and of SciPy."""

from __future__ import annotations

import math

import pytest

from waterline.errors import InvalidArgument
from waterline.report.statistics import student_quantile, welch


@pytest.mark.parametrize(
    ("share", "degrees", "expected"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.975, 4, 2.77645),
        (0.975, 4.5, 2.65891),
        (0.95, 8, 1.85955),
        (0.995, 30, 2.75000),
        (0.975, 1e6, 1.95997),
    ],
)
def test_quantiles_of_students_t(share: float, degrees: float, expected: float) -> None:
    assert student_quantile(share, degrees) == pytest.approx(expected, rel=1e-5)
    assert student_quantile(0.5, degrees) == pytest.approx(0, abs=1e-9)


def test_welch_is_that_of_scipy() -> None:
    """scipy.stats.ttest_ind([1, 2, 3, 4, 5], [2, 2.5, 3, 9, 4], equal_var=False).confidence_interval()"""
    found = welch([1, 2, 3, 4, 5], [2, 2.5, 3, 9, 4])
    assert found.difference == pytest.approx(-1.1)
    assert (found.low, found.high) == pytest.approx((-4.6180969, 2.4180969))
    assert found.degrees_of_freedom == pytest.approx(6.2659301)
    assert not found.is_significant
    assert welch([1, 2, 3], [11, 12, 14]).is_significant


def test_samples_without_a_spread() -> None:
    same = welch([2, 2], [1, 1])
    assert (same.difference, same.low, same.high, same.degrees_of_freedom) == (1, 1, 1, math.inf)
    assert same.is_significant
    assert not welch([1, 1], [1, 1]).is_significant
    with pytest.raises(InvalidArgument, match="no spread"):
        welch([1], [1, 2])
    with pytest.raises(InvalidArgument, match=r"quantile 0\.4"):
        student_quantile(0.4, 3)
