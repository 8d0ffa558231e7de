"""Numbers as the page shows them: one way for each kind, so that a figure looks the same wherever it stands."""

from __future__ import annotations

from waterline.report import tables

NONE = "\u2013"
SPACE = "\u00a0"  # between a number and its unit, where no line may end


def milliseconds(value_ns: float) -> str:
    return f"{tables.milliseconds(value_ns / 1e6)}{SPACE}ms"


def microseconds(value_ns: float | None) -> str:
    """Without the unit, which the column names."""
    return NONE if value_ns is None else f"{value_ns / 1e3:,.1f}"


def percent(share: float) -> str:
    """With the sign."""
    return tables.percent(share).replace(" ", SPACE)


def giga(value: float) -> str:
    """Thousands of millions, three digits at least; nothing for 0."""
    if not value:
        return NONE
    scaled = value / 1e9
    return f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}" if scaled < 0.01 else f"{scaled:.{_digits(scaled)}f}"


def mega_bytes(value: float) -> str:
    return f"{value / 1e6:,.2f}{SPACE}MB"


def count(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number}{SPACE}{noun}{'' if number == 1 else 's'}"


def _digits(value: float) -> int:
    return 1 if value >= 10 else 2 if value >= 1 else 3
