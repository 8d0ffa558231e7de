"""The efficiency gap of several networks: from the latency that is possible to the one that is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from waterline.errors import InvalidArgument
from waterline.report.figures import theme as themes
from waterline.report.figures.drawing import Drawing, drawing_settings
from waterline.report.figures.points import GapPoint
from waterline.report.figures.sheet import SMALL, Sheet, Source, log_ticks
from waterline.report.figures.words import milliseconds, percent, quantity, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

VALUES = {"complexity": "complexity, GFLOP", "accuracy": "accuracy, %"}
HEIGHT = 4.4
LEFT, BOTTOM, RIGHT, TOP = 0.75, 0.5, 0.3, 0.36


def efficiency_gap(
    points: Sequence[GapPoint], source: Source, *, value: str = "complexity", theme: str = "light"
) -> Drawing:
    """For each network a bar from its ideal latency (100 % of peak) to the measured one, a mark at its waterline.

    Args:
        source: machine, threads and commit of the measurements.
        value: what the vertical axis is: "complexity" (GFLOP, logarithmic) or "accuracy" (%).

    Raises:
        InvalidArgument: a latency or complexity that is not positive, no such value or theme, or no matplotlib.
    """
    if value not in VALUES:
        raise InvalidArgument(f"value={value!r} is not known", f"one of {', '.join(map(repr, VALUES))}")
    for point in points:
        times = (point.ideal_ns, point.bound_ns, point.time_ns)
        positive = (*times, point.value) if value == "complexity" else times
        if not all(0 < number < math.inf for number in positive):
            raise InvalidArgument(
                f"{point.network!r} has no place on logarithmic axes: {point}", "pass positive, finite numbers"
            )
    with drawing_settings():
        sheet = Sheet(
            "efficiency-gap", "Efficiency gap: ideal and measured latency", source, themes.named(theme), HEIGHT
        )
        _draw(sheet, points, value)
        return sheet.drawing(_description(points))


def _draw(sheet: Sheet, points: Sequence[GapPoint], value: str) -> None:
    axes, theme = sheet.axes(LEFT, BOTTOM, RIGHT, TOP), sheet.theme
    _scales(sheet, axes, points, value)
    ordered = sorted(points, key=lambda point: point.value)
    heights = [point.value for point in ordered]
    ideal, bound, time = (
        [getattr(point, name) / 1e6 for point in ordered] for name in ("ideal_ns", "bound_ns", "time_ns")
    )
    axes.hlines(heights, ideal, time, color=theme.hues[0], linewidth=3.2, alpha=0.45, label="gap", zorder=2)
    style: dict[str, Any] = {"zorder": 3, "linestyle": "none", "clip_on": False}
    handles = [
        *axes.plot(ideal, heights, "o", mfc="none", mec=theme.text, ms=6.5, label="ideal", **style),
        *axes.plot(bound, heights, "|", mec=theme.accent, ms=11, mew=1.8, label="waterline", **style),
        *axes.plot(time, heights, "o", color=theme.hues[0], ms=6.5, label="measured", **style),
    ]
    names = ("ideal: 100 % of peak", "at the waterline", "measured")
    sheet.legend(axes, dict(zip(names, handles, strict=True)))
    _names(sheet, axes, ordered)


def _scales(sheet: Sheet, axes: Axes, points: Sequence[GapPoint], value: str) -> None:
    times = [t / 1e6 for p in points for t in (p.ideal_ns, p.bound_ns, p.time_ns)] or [1.0]
    values = [point.value for point in points] or [1.0]
    low, high = min(times) / 1.25, max(times) * 2.6  # room for names
    axes.set(xscale="log", xlim=(low, high), xlabel="latency, ms", ylabel=VALUES[value])
    ticks = log_ticks(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    if value == "complexity":
        bottom, top = min(values) / 1.5, max(values) * 1.5
        axes.set(yscale="log", ylim=(bottom, top))
        ticks = log_ticks(bottom, top)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)
    else:
        room = 0.1 * (max(values) - min(values)) or 1.0
        axes.set(ylim=(min(values) - room, min(100.0, max(values) + room)))
    axes.grid(color=sheet.theme.line, linewidth=0.5)
    axes.set_axisbelow(True)


def _names(sheet: Sheet, axes: Axes, ordered: Sequence[GapPoint]) -> None:
    """Beside each bar where there is room, else above its middle."""
    taken = [_cover(axes, point) for point in ordered]
    for point in ordered:
        right = max(point.time_ns, point.bound_ns, point.ideal_ns) / 1e6
        text = f"{short(point.network, 28)} {percent(_efficiency(point))}"
        if not sheet.label_points(axes, [(right, point.value, text)], taken, 1):
            axes.annotate(
                text, (right, point.value), (7, 7), textcoords="offset points", fontsize=SMALL, color=sheet.theme.text
            )


def _cover(axes: Axes, point: GapPoint) -> Bbox:
    """What a network's bar and markers cover, in pixels."""
    from matplotlib.transforms import Bbox

    times = [time_ns / 1e6 for time_ns in (point.ideal_ns, point.bound_ns, point.time_ns)]
    (left, height), (right, _) = axes.transData.transform([(min(times), point.value), (max(times), point.value)])
    return Bbox.from_extents(left - 4, height - 5, right + 4, height + 5)


def _efficiency(point: GapPoint) -> float:
    return point.ideal_ns / point.time_ns


def _description(points: Sequence[GapPoint]) -> str:
    if not points:
        return "Efficiency gap: no networks."
    each = "; ".join(
        f"{point.network}: {milliseconds(point.ideal_ns)} ideal, {milliseconds(point.bound_ns)} at the waterline, "
        f"{milliseconds(point.time_ns)} measured, {percent(_efficiency(point))} of peak, value {quantity(point.value)}"
        for point in points
    )
    return f"Ideal and measured latency of {len(points)} networks. {each}."
