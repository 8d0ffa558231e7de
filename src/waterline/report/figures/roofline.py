"""The roofline of a machine with every layer of a network as a point."""

from __future__ import annotations

import math
from typing import Any

from waterline.analysis import Analysis, LayerAnalysis
from waterline.report.figures import theme as themes
from waterline.report.figures.drawing import Drawing, drawing_settings
from waterline.report.figures.sheet import SMALL, WIDTH, Sheet, Source, log_ticks
from waterline.report.figures.words import milliseconds, percent, quantity, short

LEVELS = {"l1": "L1", "l2": "L2", "l3": "L3", "dram": "memory"}
HEIGHT = 4.5
LEFT, BOTTOM, RIGHT, TOP = 0.75, 0.5, 0.75, 0.56
DIRECT, DIRECT_ABOVE = "counted as direct", "the same, above peak"
MOST_LABELS = 5
ABOVE_GAP_INCHES = 0.5  # between two numbers above the frame


def roofline(analysis: Analysis, *, theme: str = "light", commit: str | None = None) -> Drawing:
    """Rate against operational intensity, both logarithmic; the top of the frame is the peak.

    A filled point is what is executed, so it can not be above its roof but for data in a nearer cache. A fast algorithm
    executes fewer operations than the direct one, whose rate is then a hollow point above the filled one; where it is
    above peak it is a triangle on the frame, with its share of peak as a number. Areas are shares of time. Layers
    without operations (pooling, padding) have no place here.

    Args:
        commit: None for that of this working tree.

    Raises:
        InvalidArgument: no such theme, or matplotlib is not installed.
    """
    with drawing_settings():
        source = source_of(analysis, commit)
        return _Roofline(Sheet("roofline", f"{analysis.network}: roofline", source, themes.named(theme), HEIGHT)).draw(
            analysis
        )


def source_of(analysis: Analysis, commit: str | None) -> Source:
    note = f"batch {analysis.batch} \u00b7 " + ("measured" if analysis.is_measured else "predicted from the plan")
    return Source.here(analysis.machine, analysis.threads, commit, note)


def executed_rate(layer: LayerAnalysis) -> float:
    """Useful operations executed a second: not those that a fast algorithm saves, nor unused parts of tiles."""
    return min(layer.flops, layer.executed_flops) * 1e9 / layer.time_ns


def direct_rate(layer: LayerAnalysis) -> float:
    """Operations of the direct algorithm a second."""
    return layer.flops * 1e9 / layer.time_ns


class _Roofline:
    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.theme = sheet.theme
        self.axes = sheet.axes(LEFT, BOTTOM, RIGHT, TOP)

    def draw(self, analysis: Analysis) -> Drawing:
        layers = [each for each in analysis.layers if each.flops and each.bytes and each.time_ns > 0]
        peak = analysis.peak_flops_per_s
        ridges = {level: peak / rate for level, rate in analysis.bytes_per_s.items()}
        self._frame(layers, peak, ridges)
        handles, points = self._points(layers, analysis)
        taken = boxes_of_points(points) + self._stems(layers, peak)
        taken += self._roofs(analysis, ridges, taken)
        above = self._numbers_above(layers, peak)
        self.sheet.legend(self.axes, handles, above=0.24)
        self._labels(layers, taken)
        return self.sheet.drawing(_description(analysis, layers, above))

    def _frame(self, layers: list[LayerAnalysis], peak: float, ridges: dict[str, float]) -> None:
        intensities = [each.operational_intensity for each in layers] + list(ridges.values())
        low, high = min(intensities) / 1.6, max(intensities) * 2
        floor = min([0.02 * peak, *(executed_rate(each) / 2 for each in layers)])
        axes, top = self.axes, peak / 1e9
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(floor / 1e9, top))
        axes.set(xlabel="operational intensity, FLOP / byte", ylabel="GFLOP/s")
        right = axes.twinx()
        self.sheet.plain(right)
        right.spines[["left", "bottom"]].set_visible(False)
        right.spines["right"].set_visible(True)
        right.set(yscale="log", ylim=(100 * floor / peak, 100), ylabel="% of peak")
        right.set_zorder(axes.get_zorder() - 1)
        for axis, ticks in (
            (axes.xaxis, log_ticks(low, high)),
            (axes.yaxis, log_ticks(floor / 1e9, top)),
            (right.yaxis, log_ticks(100 * floor / peak, 100)),
        ):
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_ticks([], minor=True)

    def _roofs(self, analysis: Analysis, ridges: dict[str, float], points: list[Any]) -> list[Any]:
        """Returns what lines and their words cover."""
        axes, theme = self.axes, self.theme
        (low, _), (floor, top) = axes.get_xlim(), axes.get_ylim()
        words, lines = [], []
        axes.axhline(top, color=theme.text, linewidth=1.6, clip_on=False, label="peak")
        axes.annotate(
            f"peak {quantity(top)} GFLOP/s", (low, top), (0, 4), textcoords="offset points", fontsize=SMALL,
            color=theme.text, ha="left", va="bottom", annotation_clip=False,
        )  # fmt: skip
        for level, ridge in ridges.items():
            rate = analysis.bytes_per_s[level] / 1e9
            is_memory = level == "dram"
            tone = theme.text if is_memory else theme.muted
            begin = max(low, floor / rate)
            axes.plot([begin, ridge], [begin * rate, top], color=tone, linewidth=1.6 if is_memory else 0.9, label=level)
            axes.plot([ridge, ridge], [floor, top], color=tone, linewidth=0.6, linestyle=(0, (1, 3)))
            lines += self._along([begin, ridge], [begin * rate, top])
            name = f"{LEVELS.get(level, level)} {quantity(rate)} GB/s"
            on_roof = self._word_on_roof(name, begin, ridge, rate, tone, points)
            words += on_roof
            words.append(
                axes.text(
                    ridge * 1.02, floor * 1.06, f"ridge {quantity(ridge)}" + ("" if on_roof else f", {name}"),
                    fontsize=SMALL, color=tone, rotation=90, rotation_mode="anchor", ha="left", va="top",
                )
            )  # fmt: skip
        return lines + self.sheet.boxes(words)

    def _word_on_roof(
        self, text: str, begin: float, end: float, rate: float, tone: str, points: list[Any]
    ) -> list[Any]:
        """Above the sloping line or below it, where no point is; nowhere, if there is no such place."""
        for side, align in ((1.04, "bottom"), (1 / 1.04, "top")):
            for share in (0.06, 0.25, 0.45, 0.62):
                x = begin * (end / begin) ** share
                label = self.axes.text(
                    x, x * rate * side, text, fontsize=SMALL, color=tone, rotation=self._slope(),
                    rotation_mode="anchor", ha="left", va=align,
                )  # fmt: skip
                width = self.sheet.boxes([label])[0].width  # of what it covers, leaning
                pixels = self.axes.transData
                last = pixels.inverted().transform((pixels.transform((x, 1))[0] + width, 0))[0]
                middle = rate * side**1.6
                cover = self._along([x, last], [middle * x, middle * last])
                if last < end and not any(box.overlaps(point) for box in cover for point in points):
                    return [label]
                label.remove()
        return []

    def _along(self, x: list[float], y: list[float]) -> list[Any]:
        """Small boxes that cover a line."""
        from matplotlib.transforms import Bbox

        (x0, y0), (x1, y1) = self.axes.transData.transform(list(zip(x, y, strict=True)))
        count = max(1, int(math.hypot(x1 - x0, y1 - y0) / 4))
        middles = [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1)]
        return [Bbox.from_extents(x - 2, y - 2, x + 2, y + 2) for x, y in middles]

    def _stems(self, layers: list[LayerAnalysis], peak: float) -> list[Any]:
        """What the lines from executed rates to direct ones cover; they are drawn with the points."""
        found = []
        for each in layers:
            low, high = executed_rate(each) / 1e9, min(direct_rate(each), peak) / 1e9
            if high > 1.02 * low:
                found += self._along([each.operational_intensity] * 2, [low, high])
        return found

    def _slope(self) -> float:
        """Degrees of a line along which rate and intensity grow alike."""
        (low, high), (floor, top) = self.axes.get_xlim(), self.axes.get_ylim()
        x_inches = (WIDTH - LEFT - RIGHT) / math.log10(high / low)
        y_inches = (HEIGHT - TOP - BOTTOM) / math.log10(top / floor)
        return math.degrees(math.atan2(y_inches, x_inches))

    def _points(self, layers: list[LayerAnalysis], analysis: Analysis) -> tuple[dict[str, Any], list[Any]]:
        """Legend's entries, and what is drawn."""
        handles: dict[str, Any] = {}
        drawn = []
        style: dict[str, Any] = {"alpha": 0.85, "linewidths": 0.6, "edgecolors": self.theme.surface, "zorder": 3}
        for name in themes.families([each.algorithm for each in layers]):
            members = [each for each in layers if themes.family(each.algorithm) == name]
            colour, marker = themes.colour(name, self.theme), themes.marker(name)
            x = [each.operational_intensity for each in members]
            sizes = [_area(each, analysis) for each in members]
            drawn.append(
                self.axes.scatter(
                    x, [executed_rate(each) / 1e9 for each in members], s=sizes, c=colour, marker=marker, label=name,
                    **style,
                )
            )  # fmt: skip
            handles[name] = self.axes.scatter([], [], s=40, c=colour, marker=marker)
        fast = [each for each in layers if direct_rate(each) > 1.02 * executed_rate(each)]
        peak = analysis.peak_flops_per_s
        if fast:
            x = [each.operational_intensity for each in fast]
            low = [executed_rate(each) / 1e9 for each in fast]
            high = [min(direct_rate(each), peak) / 1e9 for each in fast]
            self.axes.vlines(x, low, high, color=self.theme.muted, linewidth=0.6, zorder=2)
        for is_above, marker, label in ((False, "o", DIRECT), (True, "^", DIRECT_ABOVE)):
            members = [each for each in fast if (direct_rate(each) > peak) == is_above]
            if members:
                tone: dict[str, Any] = {
                    "facecolors": "none",
                    "edgecolors": self.theme.text,
                    "linewidths": 0.9,
                    "clip_on": False,
                }
                drawn.append(
                    self.axes.scatter(
                        [each.operational_intensity for each in members],
                        [min(direct_rate(each), peak) / 1e9 for each in members],
                        34, marker=marker, label=label, zorder=4, **tone,
                    )
                )  # fmt: skip
                handles[label] = self.axes.scatter([], [], 34, marker=marker, **tone)
        return handles, drawn

    def _numbers_above(self, layers: list[LayerAnalysis], peak: float) -> list[LayerAnalysis]:
        """How far above the frame the triangles are, for those that take longest and have room. Returns all of them."""
        above = sorted((each for each in layers if direct_rate(each) > peak), key=lambda each: -each.time_ns)
        low, high = self.axes.get_xlim()
        a_decade = (WIDTH - LEFT - RIGHT) / math.log10(high / low)
        room = [math.log10(low) + 0.8 / a_decade]  # the word "peak" is there
        for each in above:
            place = math.log10(each.operational_intensity)
            if all(abs(place - other) * a_decade >= ABOVE_GAP_INCHES for other in room):
                room.append(place)
                self.axes.annotate(
                    percent(each.computational_efficiency, 0), (10**place, peak / 1e9), (0, 6), fontsize=SMALL,
                    textcoords="offset points", color=self.theme.text, ha="center", va="bottom", annotation_clip=False,
                )  # fmt: skip
        return above

    def _labels(self, layers: list[LayerAnalysis], taken: list[Any]) -> None:
        """Names of the layers that lose most time, where there is room; equal ones have one name."""
        groups: dict[tuple[str, str], list[LayerAnalysis]] = {}
        for each in layers:
            if each.lost_ns > 0:
                groups.setdefault((each.shape, each.algorithm), []).append(each)
        worst = sorted(groups.values(), key=lambda group: -sum(each.lost_ns for each in group))
        labels = []
        for group in worst[:10]:
            first = max(group, key=lambda each: each.lost_ns)
            more = f" and {len(group) - 1} alike" if len(group) > 1 else ""
            labels.append((first.operational_intensity, executed_rate(first) / 1e9, short(first.name, 26) + more))
        self.sheet.label_points(self.axes, labels, taken, MOST_LABELS)


def _area(layer: LayerAnalysis, analysis: Analysis) -> float:
    """Of a marker, in square points: its share of the time."""
    return 16 + 1400 * min(0.2, layer.time_ns / analysis.time_ns) if analysis.time_ns else 16


def boxes_of_points(collections: list[Any]) -> list[Any]:
    from matplotlib.transforms import Bbox

    found = []
    for collection in collections:
        sizes = collection.get_sizes()
        for number, (x, y) in enumerate(collection.get_offset_transform().transform(collection.get_offsets())):
            radius = math.sqrt(sizes[number % len(sizes)]) / 2
            found.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    return found


def _description(analysis: Analysis, layers: list[LayerAnalysis], above: list[LayerAnalysis]) -> str:
    if not layers:
        return f"Roofline of {analysis.machine}: {analysis.network} has no layer with operations."
    bound = [each for each in layers if each.operational_intensity < analysis.ridge]
    worst = max(layers, key=lambda each: each.lost_ns)
    text = (
        f"Roofline with {_layers(len(layers))} of {analysis.network}: peak {quantity(analysis.peak_flops_per_s / 1e9)} "
        f"GFLOP/s, memory {quantity(analysis.bytes_per_s['dram'] / 1e9)} GB/s, ridge at {quantity(analysis.ridge)} "
        f"FLOP/byte, {_layers(len(bound))} left of it. "
    )
    if above:
        best = max(above, key=lambda each: each.computational_efficiency)
        text += (
            f"As the direct algorithm counts, {_layers(len(above))} of fast ones above the peak, "
            f"{best.name} most, at {percent(best.computational_efficiency, 0)}. "
        )
    return text + f"{worst.name} loses most time: {milliseconds(worst.lost_ns)} above its bound."


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"
