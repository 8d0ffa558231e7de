"""Figures of the papers' experiments: efficiency by layer, ratios by layer, efficiency by batch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from waterline.errors import InvalidArgument
from waterline.report.figures import theme as themes
from waterline.report.figures.drawing import Drawing, drawing_settings
from waterline.report.figures.points import BatchRow, EfficiencyRow, RatioRow
from waterline.report.figures.sheet import SMALL, WIDTH, Sheet, Source, apart, log_ticks
from waterline.report.figures.words import clean, percent, short

LEFT, RIGHT = 0.62, 0.25
PANEL_INCHES, NAMES_INCHES, GROUP_INCHES = 1.35, 0.62, 0.28  # of a panel: its bars, the layers' names, its own name
ROW_INCHES = 0.19


def efficiency_bars(
    rows: Sequence[EfficiencyRow],
    source: Source,
    *,
    name: str,
    title: str,
    published: str = "paper",
    is_ordered: bool = True,
    theme: str = "light",
) -> Drawing:
    """Efficiency of every layer in bars beside each other, one a series; a panel for each group; to 100 % of peak.

    Args:
        name: of letters and hyphens, see `Drawing`. published: whose figures the marks are.
        is_ordered: the series are steps of one quantity (batches) and get shades of one colour.

    Raises:
        InvalidArgument: an efficiency that is not a number, no such theme, or no matplotlib.
    """
    _check([(row.layer, row.efficiency) for row in rows], least=0.0)
    groups = list(dict.fromkeys(row.group for row in rows)) or [""]
    panel = PANEL_INCHES + NAMES_INCHES + GROUP_INCHES
    with drawing_settings():
        sheet = Sheet(name, title, source, themes.named(theme), 0.35 + panel * len(groups))
        series = list(dict.fromkeys(row.series for row in rows))
        handles: dict[str, Any] = {}
        for number, group in enumerate(groups):
            bottom = sheet.foot + panel * (len(groups) - 1 - number) + NAMES_INCHES
            axes = sheet.axes_at(LEFT, bottom, WIDTH - LEFT - RIGHT, PANEL_INCHES)
            members = [row for row in rows if row.group == group]
            handles |= _efficiency_panel(sheet, axes, members, series, is_ordered, published)
            axes.annotate(
                clean(group), (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", ha="left",
                fontsize=9, fontweight="bold", color=sheet.theme.text, annotation_clip=False,
            )  # fmt: skip
            if number == 0:
                first = axes
        sheet.legend(first, handles, above=GROUP_INCHES)
        return sheet.drawing(f"{title}: {_summary_by_series(rows, series)}")


def _efficiency_panel(
    sheet: Sheet, axes: Any, rows: Sequence[EfficiencyRow], series: list[str], is_ordered: bool, published: str
) -> dict[str, Any]:
    theme = sheet.theme
    layers = list(dict.fromkeys(row.layer for row in rows))
    width = 0.84 / max(1, len(series))
    handles: dict[str, Any] = {}
    for number, one in enumerate(series):
        members = [row for row in rows if row.series == one]
        tone = themes.shade(number, len(series), theme) if is_ordered else themes.series_colour(number, theme)
        middles = [layers.index(row.layer) - 0.42 + width * (number + 0.5) for row in members]
        handles[one] = axes.bar(
            middles, [100 * min(1.0, row.efficiency) for row in members], 0.92 * width, color=tone, linewidth=0,
            label=one, zorder=2,
        )  # fmt: skip
        for middle, row in zip(middles, members, strict=True):
            if row.efficiency > 1:
                axes.annotate(
                    percent(row.efficiency, 0), (middle, 100), (0, 2), textcoords="offset points", ha="center",
                    fontsize=SMALL - 1, color=theme.muted, annotation_clip=False,
                )  # fmt: skip
    marks = {row.layer: row.published for row in rows if row.published is not None}
    if marks:
        places = [layers.index(layer) for layer in marks]
        handles[published] = axes.hlines(
            [100 * share for share in marks.values()], [x - 0.46 for x in places], [x + 0.46 for x in places],
            color=theme.accent, linewidth=1.8, label=published, zorder=3,
        )  # fmt: skip
    axes.set(ylim=(0, 100), xlim=(-0.6, max(1, len(layers)) - 0.4), ylabel="% of peak")
    axes.set_yticks(range(0, 101, 25))
    axes.grid(axis="y", color=theme.line, linewidth=0.5, zorder=0)
    many = len(layers) > 6
    axes.set_xticks(
        range(len(layers)),
        [short(layer, 16 if many else 22) for layer in layers],
        rotation=24 if many else 0,
        ha="right" if many else "center",
        rotation_mode="anchor",
        fontsize=SMALL,
    )
    axes.tick_params(axis="x", length=0, labelcolor=theme.text)
    return handles


def _summary_by_series(rows: Sequence[EfficiencyRow] | Sequence[BatchRow], series: list[str]) -> str:
    if not rows:
        return "no measurements."
    parts = []
    for one in series:
        shares = [row.efficiency for row in rows if row.series == one]
        parts.append(
            f"{one} from {percent(min(shares))} to {percent(max(shares))} of peak, median "
            f"{percent(statistics.median(shares))}"
        )
    return "; ".join(parts) + "."


def ratio_rows(
    rows: Sequence[RatioRow], source: Source, *, name: str, title: str, quantity: str, theme: str = "light"
) -> Drawing:
    """A ratio for each layer as a horizontal bar that begins at 1, on a logarithmic axis, with the groups' means.

    Args:
        quantity: what the axis is, for instance "time of im2col / time of indirect"; above 1 favours the latter.

    Raises:
        InvalidArgument: a ratio that is not positive, no such theme, or no matplotlib.
    """
    _check([(row.layer, row.ratio) for row in rows], least=math.ulp(0.0))
    groups: dict[str, list[RatioRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    places, headings = _places(groups)
    with drawing_settings():
        end = max([*places, *headings.values()], default=1.0)
        sheet = Sheet(name, title, source, themes.named(theme), 0.65 + ROW_INCHES * (end + 1.5))
        _ratio_axes(sheet, groups, places, headings, quantity)
        means = "; ".join(
            f"{group or 'all layers'}: geometric mean {_mean(members):.2f}, from "
            f"{min(row.ratio for row in members):.2f} to {max(row.ratio for row in members):.2f}"
            for group, members in groups.items()
        )
        return sheet.drawing(f"{title}, {quantity}: {means or 'no measurements'}.")


def _places(groups: dict[str, list[RatioRow]]) -> tuple[list[float], dict[str, float]]:
    """Position of every row from the top, and of every group's heading."""
    places: list[float] = []
    headings: dict[str, float] = {}
    at = 0.0
    for group, members in groups.items():
        headings[group] = at
        places += [at + 1 + i for i in range(len(members))]
        at += len(members) + 1.6
    return places, headings


def _ratio_axes(
    sheet: Sheet, groups: dict[str, list[RatioRow]], places: list[float], headings: dict[str, float], quantity: str
) -> None:
    axes, theme = sheet.axes(2.3, 0.5, 0.75, 0.1), sheet.theme
    rows = [row for members in groups.values() for row in members]
    extremes = [edge for row in rows for edge in (row.ratio, row.low, row.high) if edge]
    low, high = min([0.8, *(x / 1.1 for x in extremes)]), max([1.25, *(x * 1.1 for x in extremes)])
    axes.set(xscale="log", xlim=(low, high), ylim=(max([*places, 1.0]) + 0.7, -0.7), xlabel=clean(quantity))
    ticks = _ratio_ticks(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color=theme.line, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.barh(
        places, [row.ratio - 1 for row in rows], 0.66, left=1,
        color=[theme.hues[0] if row.ratio >= 1 else theme.hues[1] for row in rows], linewidth=0, label="ratio",
    )  # fmt: skip
    spread = [(place, row.low, row.high) for place, row in zip(places, rows, strict=True) if row.low and row.high]
    axes.hlines(
        [place for place, _, _ in spread], [low for _, low, _ in spread], [high for _, _, high in spread],
        color=theme.text, linewidth=0.9, label="spread",
    )  # fmt: skip
    axes.axvline(1, color=theme.text, linewidth=1)
    axes.set_yticks(places, [short(row.layer, 30) for row in rows], fontsize=SMALL)
    axes.tick_params(axis="y", length=0, labelcolor=theme.text)
    for place, row in zip(places, rows, strict=True):
        _beside(axes, place, f"{row.ratio:.2f}", theme.muted)
    for group, members in groups.items():
        place, mean = headings[group], _mean(members)
        axes.annotate(
            clean(group), (0, place), (-5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="center", fontsize=SMALL + 0.5, fontweight="bold", color=theme.text, annotation_clip=False,
        )  # fmt: skip
        axes.plot([mean], [place], "D", color=theme.accent, ms=5, label="geometric mean", clip_on=False)
        _beside(axes, place, f"mean {mean:.2f}", theme.accent)


def _beside(axes: Any, place: float, text: str, tone: str) -> None:
    axes.annotate(
        text, (1, place), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", ha="left",
        va="center", fontsize=SMALL, color=tone, annotation_clip=False,
    )  # fmt: skip


def _ratio_ticks(low: float, high: float) -> list[float]:
    if high / low > 8:
        return log_ticks(low, high)
    steps = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5)
    found = [step for step in steps if low <= step <= high]
    return found if high / low < 2.2 else [step for step in found if step not in (0.6, 0.7, 0.9, 1.1, 1.75)]


def _mean(rows: Sequence[RatioRow]) -> float:
    return statistics.geometric_mean([row.ratio for row in rows])


def by_batch(rows: Sequence[BatchRow], source: Source, *, name: str, title: str, theme: str = "light") -> Drawing:
    """Efficiency by batch, a line a series. Above 100 % of peak is a shaded band, for algorithms that execute less.

    Raises:
        InvalidArgument: a batch or an efficiency that is not a positive number, no such theme, or no matplotlib.
    """
    _check([(row.series, row.efficiency) for row in rows], least=0.0)
    if any(row.batch < 1 for row in rows):
        raise InvalidArgument("a batch is less than 1", "batches are numbers of images")
    series = list(dict.fromkeys(row.series for row in rows))
    with drawing_settings():
        sheet = Sheet(name, title, source, themes.named(theme), 3.7)
        axes, colours = sheet.axes(LEFT, 0.5, 1.9, 0.15), sheet.theme
        best = max([1.0, *(row.efficiency for row in rows)])
        top = 100.0 if best <= 1 else 100 * best * 1.06
        axes.set(ylim=(0, top), xscale="log", xlabel="batch, images", ylabel="% of peak, direct algorithm's operations")
        if top > 100:
            axes.axhspan(100, top, color=colours.faint, zorder=0, label="above peak", linewidth=0)
            axes.annotate(
                "more than the direct algorithm could", (0, 100), (4, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", fontsize=SMALL, color=colours.muted, annotation_clip=False,
            )  # fmt: skip
            axes.axhline(100, color=colours.text, linewidth=1, label="peak")
        batches = sorted({row.batch for row in rows}) or [1]
        axes.set_xlim(batches[0] / 1.15, batches[-1] * 1.15)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_xticks([], minor=True)
        axes.grid(axis="y", color=colours.line, linewidth=0.5)
        axes.set_axisbelow(True)
        ends = []
        for number, one in enumerate(series):
            members = sorted((row for row in rows if row.series == one), key=lambda row: row.batch)
            tone = themes.series_colour(number, colours)
            axes.plot(
                [row.batch for row in members], [100 * row.efficiency for row in members], color=tone, linewidth=1.8,
                marker="osD^vPX*"[number % 8], ms=5, label=one, clip_on=False,
            )  # fmt: skip
            ends.append((100 * members[-1].efficiency, one, tone))
        _names_at_the_end(axes, ends, top)
        return sheet.drawing(f"{title}: {_summary_by_series(rows, series)}")


def _names_at_the_end(axes: Any, ends: list[tuple[float, str, str]], top: float) -> None:
    """Of the lines, at the height where they end, but not over each other."""
    ends = sorted(ends, key=lambda end: -end[0])
    places = apart([height for height, _, _ in ends], 0.055 * top, least=0.03 * top)
    for (height, text, tone), place in zip(ends, places, strict=True):
        axes.annotate(
            short(text, 28), (1, height), (1.02, place), xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"), fontsize=SMALL + 0.5, color=tone, va="center", annotation_clip=False,
        )  # fmt: skip


def _check(values: Sequence[tuple[str, float]], least: float) -> None:
    for name, value in values:
        if not least <= value < math.inf:
            raise InvalidArgument(f"{name!r} has the value {value}", "pass positive, finite numbers")
