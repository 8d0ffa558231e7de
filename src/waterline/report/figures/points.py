"""What the figures of several networks and of the papers' experiments are drawn from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GapPoint:
    """A network in the figure of the efficiency gap.

    Attributes:
        value: complexity in GFLOP or accuracy in per cent, as the figure's argument says.
        ideal_ns: latency of the direct algorithm at peak. bound_ns: at the waterline. time_ns: measured.
    """

    network: str
    value: float
    ideal_ns: float
    bound_ns: float
    time_ns: float


@dataclass(frozen=True)
class EfficiencyRow:
    """A bar: one layer in one series, such as an engine, an algorithm or "batch 16".

    Attributes:
        efficiency: share of peak. group: rows of one group share a panel; a network, for instance.
        published: the paper's share of peak for this layer; None where it has none.
    """

    layer: str
    series: str
    efficiency: float
    group: str = ""
    published: float | None = None


@dataclass(frozen=True)
class RatioRow:
    """A layer in a figure of ratios: above 1 is in favour of what is shown.

    Attributes:
        low, high: of its spread; None where it is not known. group: rows of one group share a panel.
    """

    layer: str
    ratio: float
    group: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class BatchRow:
    """A point of a line: `efficiency` is a share of peak and may be above 1."""

    series: str
    batch: int
    efficiency: float
