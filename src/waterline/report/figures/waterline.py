"""The waterline of a network: what each layer may reach, what it reaches, and the line that all of them together may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from waterline.analysis import Analysis, BlockAnalysis, LayerAnalysis
from waterline.errors import InvalidArgument
from waterline.report.figures import theme as themes
from waterline.report.figures.drawing import Drawing, drawing_settings
from waterline.report.figures.roofline import source_of
from waterline.report.figures.sheet import SMALL, WIDTH, Sheet
from waterline.report.figures.words import percent, short

BY = ("flops", "time")
PER = ("layer", "block")
HEIGHT = 3.9
LEFT, BOTTOM, RIGHT, TOP = 0.62, 1.15, 1.5, 0.5
INCHES_A_LABEL = 0.15  # along the axis, of a name that stands upright
INCHES_A_NUMBER = 0.24  # above the frame, upright as well
LINE_GAP = 5.5  # of two names of lines, in % of the axis
NAME_CHARACTERS = 18


@dataclass(frozen=True)
class _Bar:
    """`begin` and `width` in the unit of the axis, efficiencies as shares."""

    name: str
    algorithm: str
    begin: float
    width: float
    attainable: float
    achieved: float
    fused: float | None = None


def waterline(
    analysis: Analysis, by: str = "flops", *, per: str = "layer", theme: str = "light", commit: str | None = None
) -> Drawing:
    """A bar for each layer, in the order they run: what it may attain as an outline, what it achieves filled.

    Widths are operations (`by="flops"`: the mean height of the filled bars is not the network's efficiency, whose terms
    are weighed by time) or time (`by="time"`: the filled area is the network's computational efficiency, and layers
    without operations are gaps in it). What is achieved above 100 % is cut and printed above. The waterline crosses, and
    dashed the one with every block fused.

    Args:
        per: "layer", or "block", whose outlines show, dashed, what one kernel a block may attain.
        commit: None for that of this working tree.

    Raises:
        InvalidArgument: no such `by`, `per` or theme, or matplotlib is not installed.
    """
    for name, value, known in (("by", by, BY), ("per", per, PER)):
        if value not in known:
            raise InvalidArgument(f"{name}={value!r} is not known", f"one of {', '.join(map(repr, known))}")
    with drawing_settings():
        title = f"{analysis.network}: waterline, by {'operations' if by == 'flops' else 'time'}"
        name = f"waterline-{'operations' if by == 'flops' else 'time'}" + ("-blocks" if per == "block" else "")
        sheet = Sheet(name, f"{title} of each {per}", source_of(analysis, commit), themes.named(theme), HEIGHT)
        return _Waterline(sheet).draw(analysis, _bars(analysis, by, per), by, per)


def _bars(analysis: Analysis, by: str, per: str) -> list[_Bar]:
    bars: list[_Bar] = []
    begin = 0.0
    each: LayerAnalysis | BlockAnalysis
    for each in analysis.layers if per == "layer" else analysis.blocks:
        width = each.flops / 1e9 if by == "flops" else each.time_ns / 1e6
        if width > 0:
            is_block = isinstance(each, BlockAnalysis)
            bars.append(
                _Bar(
                    each.name,
                    "" if is_block else each.algorithm,
                    begin,
                    width,
                    each.attainable_efficiency,
                    each.computational_efficiency,
                    each.fused_attainable_efficiency if is_block and len(each.layers) > 1 else None,
                )
            )
        begin += width
    return bars


class _Waterline:
    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.theme = sheet.theme
        self.axes = sheet.axes(LEFT, BOTTOM, RIGHT, TOP)

    def draw(self, analysis: Analysis, bars: list[_Bar], by: str, per: str) -> Drawing:
        axes = self.axes
        end = max((bar.begin + bar.width for bar in bars), default=1.0)
        axes.set(xlim=(0, end), ylim=(0, 100), ylabel="efficiency, % of peak")
        axes.set_yticks(range(0, 101, 20))
        unit = "GFLOP of the direct algorithm" if by == "flops" else "ms"
        axes.set_xlabel(f"{'operations' if by == 'flops' else 'time'} so far, {unit}")
        handles = self._draw_bars(bars, per)
        self._lines(analysis)
        self._numbers_above(bars, end)
        self._names(bars, end)
        self.sheet.legend(axes, list(handles.values()), list(handles), bbox_to_anchor=(0, 1.06))
        return self.sheet.drawing(_description(analysis, bars, by, per))

    def _draw_bars(self, bars: list[_Bar], per: str) -> dict[str, Any]:
        """Legend's entries."""
        axes, theme = self.axes, self.theme
        handles: dict[str, Any] = {}
        groups = themes.families([bar.algorithm for bar in bars]) if per == "layer" else ["block"]
        for group in groups:
            members = [bar for bar in bars if per == "block" or themes.family(bar.algorithm) == group]
            if per == "layer" and not any(bar.achieved for bar in members):
                continue
            tone = themes.colour(group, theme) if per == "layer" else theme.hues[0]
            handles["achieved" if per == "block" else group] = axes.bar(
                [bar.begin for bar in members],
                [100 * min(1.0, bar.achieved) for bar in members],
                [bar.width for bar in members],
                align="edge", color=tone, linewidth=0.4, edgecolor=theme.surface, label=group,
            )  # fmt: skip
        limits: list[tuple[str, list[tuple[_Bar, float]], Any]] = [
            ("attainable", [(bar, bar.attainable) for bar in bars if bar.attainable], "-"),
            ("attainable, fused", [(bar, bar.fused) for bar in bars if bar.fused], (0, (2, 1.5))),
        ]
        for label, members_heights, dashes in limits:
            if members_heights:
                handles[label] = axes.bar(
                    [bar.begin for bar, _ in members_heights],
                    [100 * height for _, height in members_heights],
                    [bar.width for bar, _ in members_heights],
                    align="edge", fill=False, linewidth=0.8, linestyle=dashes, edgecolor=theme.text, label=label,
                )  # fmt: skip
        idle = [bar for bar in bars if not bar.attainable]
        if idle:
            handles["no operations"] = axes.bar(
                [bar.begin for bar in idle], [100] * len(idle), [bar.width for bar in idle],
                align="edge", color=theme.line, alpha=0.5, linewidth=0, label="no operations", zorder=0,
            )  # fmt: skip
        return handles

    def _lines(self, analysis: Analysis) -> None:
        """Across the bars, named at the right; names keep their distance, lines stay where they are."""
        if not analysis.flops:
            return
        lines = [
            ("waterline", analysis.waterline, self.theme.accent, "-"),
            ("blocks fused", analysis.fused_waterline, self.theme.accent, (0, (3, 2))),
            ("achieved", analysis.computational_efficiency, self.theme.text, (0, (1, 1.5))),
        ]
        place = 106.0
        for name, value, tone, dashes in sorted(lines, key=lambda line: -line[1]):
            height = 100 * min(1.0, value)
            self.axes.axhline(height, color=tone, linewidth=1.6, linestyle=dashes, clip_on=False, label=name, zorder=4)
            place = min(height, place - LINE_GAP)
            self.axes.annotate(
                f"{name} {percent(value)}", (1, height), (1.03, place), xycoords=("axes fraction", "data"),
                textcoords=("axes fraction", "data"), color=tone, fontsize=SMALL + 0.5, ha="left", va="center",
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": tone, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0},
            )  # fmt: skip

    def _numbers_above(self, bars: list[_Bar], end: float) -> None:
        for bar in self._with_room([bar for bar in bars if bar.achieved > 1], end, INCHES_A_NUMBER):
            self.axes.annotate(
                percent(bar.achieved, 0), (bar.begin + bar.width / 2, 100), (0, 3), textcoords="offset points",
                fontsize=SMALL - 0.5, color=self.theme.muted, ha="center", va="bottom", annotation_clip=False,
            )  # fmt: skip

    def _names(self, bars: list[_Bar], end: float) -> None:
        named = self._with_room(bars, end, INCHES_A_LABEL)
        self.axes.set_xticks([0, end], ["0", f"{end:.3g}"])
        for bar in named:
            middle = bar.begin + bar.width / 2
            self.axes.annotate(
                short(bar.name, NAME_CHARACTERS), (middle, 0), (0, -4), textcoords="offset points", fontsize=SMALL - 0.5,
                color=self.theme.muted, rotation=90, ha="center", va="top", annotation_clip=False,
            )  # fmt: skip

    def _with_room(self, bars: list[_Bar], end: float, inches: float) -> list[_Bar]:
        """The widest of them, at least so far apart."""
        scale = (WIDTH - LEFT - RIGHT) / end
        chosen: list[_Bar] = []
        for bar in sorted(bars, key=lambda bar: -bar.width):
            middle = bar.begin + bar.width / 2
            if all(abs(middle - other.begin - other.width / 2) * scale >= inches for other in chosen):
                chosen.append(bar)
        return chosen


def _description(analysis: Analysis, bars: list[_Bar], by: str, per: str) -> str:
    if not analysis.flops:
        return f"Waterline: {analysis.network} has no layer with operations."
    widest = max(bars, key=lambda bar: bar.width)
    share = widest.width / sum(bar.width for bar in bars)
    return (
        f"Waterline of {analysis.network}: its {per}s may reach {percent(analysis.waterline)} of peak together, "
        f"{percent(analysis.fused_waterline)} with every block fused, and achieve "
        f"{percent(analysis.computational_efficiency)}. The widest {per}, {widest.name}, has {percent(share)} of the "
        f"{'operations' if by == 'flops' else 'time'}; it may reach {percent(widest.attainable)} and achieves "
        f"{percent(widest.achieved)}."
    )
