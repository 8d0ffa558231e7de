"""The waterline of a network: what each layer may reach, what it reaches, and the line that all together may reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from waterline.analysis import Analysis, LayerAnalysis
from waterline.errors import InvalidArgument
from waterline.report.figures import theme as themes
from waterline.report.figures.drawing import Drawing, drawing_settings
from waterline.report.figures.roofline import source_of
from waterline.report.figures.sheet import SMALL, WIDTH, Sheet, apart
from waterline.report.figures.words import percent, short

BY = ("flops", "time")
PER = ("layer", "block")
HEIGHT = 4.5
LEFT, BOTTOM, RIGHT, TOP = 0.62, 0.5, 1.62, 1.4
AXIS_INCHES = HEIGHT - BOTTOM - TOP
NAME_INCHES = 0.24  # from one slanting name to the next, with the share of a layer that is above the frame
PLAIN_NAME_INCHES = 0.42  # the same of the others
LEAST_INCHES = 0.05  # width of a bar that has a name
LINE_GAP = 100 * 0.17 / AXIS_INCHES  # of two names of lines, in % of the axis
NAME_CHARACTERS = 23


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
    """A bar for each layer, in the order they run: a mark at what it may attain, filled up to what it achieves.

    Widths are operations (`by="flops"`) or time (`by="time"`: the mean height of the bars is then the network's
    computational efficiency, and layers without operations are gaps). What is achieved above 100 % is cut and printed
    above the frame. The waterline crosses, and dashed the one with every block fused.

    Args:
        per: "layer", or "block", where a second mark is at what one kernel for the block may attain.
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
    for each in analysis.layers if per == "layer" else analysis.blocks:
        width = each.flops / 1e9 if by == "flops" else each.time_ns / 1e6
        if width > 0:
            limits = (each.attainable_efficiency, each.computational_efficiency)
            if isinstance(each, LayerAnalysis):
                bars.append(_Bar(each.name, each.algorithm, begin, width, *limits))
            else:
                fused = each.fused_attainable_efficiency if len(each.layers) > 1 else None
                bars.append(_Bar(each.name, "", begin, width, *limits, fused))
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
        axes.set_xlabel(f"{'operations' if by == 'flops' else 'time'} from the first layer on, {unit}")
        handles = self._draw_bars(bars, per)
        self._lines(analysis)
        self._names(bars, end)
        self.sheet.legend(axes, handles, above=TOP - 0.3)
        return self.sheet.drawing(_description(analysis, bars, by, per))

    def _draw_bars(self, bars: list[_Bar], per: str) -> dict[str, Any]:
        """Legend's entries."""
        axes, theme = self.axes, self.theme
        scale = (WIDTH - LEFT - RIGHT) / axes.get_xlim()[1]
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
                align="edge", color=tone, edgecolor=theme.surface, label=group,
                linewidth=[0.4 if bar.width * scale > 0.06 else 0.0 for bar in members],
            )  # fmt: skip
        limits: list[tuple[str, list[tuple[_Bar, float]], Any]] = [
            ("attainable", [(bar, bar.attainable) for bar in bars if bar.attainable], "-"),
            ("attainable, fused", [(bar, bar.fused) for bar in bars if bar.fused], (0, (2, 1.2))),
        ]
        for label, marked, dashes in limits:
            if marked:
                heights = [100 * height for _, height in marked]
                begins = [bar.begin for bar, _ in marked]
                ends = [bar.begin + bar.width for bar, _ in marked]
                if dashes == "-":
                    axes.bar(
                        begins, heights, [bar.width for bar, _ in marked],
                        align="edge", color=theme.faint, linewidth=0, zorder=0.5, label="room",
                    )  # fmt: skip
                handles[label] = axes.hlines(
                    heights, begins, ends, color=theme.text, linewidth=1.1, linestyle=dashes, zorder=3, label=label,
                    clip_on=False,
                )  # fmt: skip
        idle = [bar for bar in bars if not bar.attainable]
        if idle:
            handles["no operations"] = axes.bar(
                [bar.begin for bar in idle], [100] * len(idle), [bar.width for bar in idle],
                align="edge", color=theme.line, alpha=0.55, linewidth=0, label="no operations", zorder=0,
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
        lines.sort(key=lambda line: -line[1])
        heights = [100 * min(1.0, value) for _, value, _, _ in lines]
        # Above the number at the end of the horizontal axis.
        places = apart(heights, LINE_GAP, least=0.6 * LINE_GAP)
        for (name, value, tone, dashes), height, place in zip(lines, heights, places, strict=True):
            if value <= 1:
                self.axes.axhline(
                    height, color=tone, linewidth=1.6, linestyle=dashes, clip_on=False, label=name, zorder=4
                )
            self.axes.annotate(
                f"{name} {percent(value)}", (1, height), (1.03, place), xycoords=("axes fraction", "data"),
                textcoords=("axes fraction", "data"), color=tone, fontsize=SMALL + 0.5, ha="left", va="center",
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": tone, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0},
            )  # fmt: skip

    def _names(self, bars: list[_Bar], end: float) -> None:
        """Of the widest layers, and what is achieved above 100 %, where there is room."""
        scale = (WIDTH - LEFT - RIGHT) / end
        middles: list[float] = []
        for bar in sorted(bars, key=lambda bar: -bar.width):
            middle = bar.begin + bar.width / 2
            is_above = bar.achieved > 1
            gap = NAME_INCHES if is_above else PLAIN_NAME_INCHES
            if bar.width * scale < LEAST_INCHES or any(abs(middle - other) * scale < gap for other in middles):
                continue
            middles.append(middle)
            name = short(bar.name, NAME_CHARACTERS - 6 * is_above)
            self.axes.annotate(
                f"{percent(bar.achieved, 0)} {name}" if is_above else name, (middle, 100), (0, 4),
                textcoords="offset points", fontsize=SMALL - 0.5,
                color=self.theme.text if is_above else self.theme.muted,
                rotation=42, rotation_mode="anchor", ha="left", va="bottom", annotation_clip=False,
            )  # fmt: skip


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
