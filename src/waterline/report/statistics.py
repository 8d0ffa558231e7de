"""Means of few samples, and how far two of them are apart for sure. No SciPy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from waterline.errors import InvalidArgument

_STEPS = 2000  # of Simpson's rule
_WIDEST = 1e4  # of Student's t: at one degree of freedom 0.99997 of the distribution lie within


@dataclass(frozen=True)
class Interval:
    """A difference of two means, and what it is within, with a confidence in [0, 1]."""

    difference: float
    low: float
    high: float
    degrees_of_freedom: float
    confidence: float

    @property
    def is_significant(self) -> bool:
        """Whether zero is outside."""
        return not self.low <= 0 <= self.high


def welch(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of `first` less that of `second`, by Welch's t-test: variances need not be equal (Welch 1947).

    Raises:
        InvalidArgument: fewer than two samples of one, which have no spread.
    """
    if min(len(first), len(second)) < 2:
        raise InvalidArgument("one sample has no spread", "give two of each, or more")
    difference = statistics.fmean(first) - statistics.fmean(second)
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    if sum(parts) == 0:
        return Interval(difference, difference, difference, math.inf, confidence)
    # Welch and Satterthwaite's number of degrees of freedom.
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    half = student_quantile((1 + confidence) / 2, degrees) * math.sqrt(sum(parts))
    return Interval(difference, difference - half, difference + half, degrees, confidence)


def student_quantile(share: float, degrees: float) -> float:
    """What Student's t with so many degrees of freedom is below with probability `share`, of [0.5, 0.999].

    Raises:
        InvalidArgument: a share outside, or degrees of freedom below one.
    """
    if not 0.5 <= share <= 0.999 or degrees < 1:
        raise InvalidArgument(
            f"the quantile {share} of {degrees} degrees of freedom", "use 0.5 to 0.999, and 1 or more"
        )
    low, high = 0.0, 1.0
    while _below(high, degrees) < share and high < _WIDEST:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, degrees) < share else (low, middle)
    return (low + high) / 2


def _below(t: float, degrees: float) -> float:
    """The distribution function at t >= 0: a half, and Simpson's rule over the density from 0.

    With t = sqrt(degrees) tan(angle) the density becomes cos(angle)^(degrees - 1), which is smooth and bounded.
    """
    end = math.atan(t / math.sqrt(degrees))
    step = end / _STEPS
    heights = [math.cos(i * step) ** (degrees - 1) for i in range(_STEPS + 1)]
    whole = heights[0] + heights[-1] + 4 * sum(heights[1::2]) + 2 * sum(heights[2:-1:2])
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return 0.5 + constant * whole * step / 3
