"""Time by layer, stacked by what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from waterline.analysis import Analysis, LayerAnalysis
from waterline.errors import InvalidArgument
from waterline.report.figures import theme as themes
from waterline.report.figures.drawing import Drawing, drawing_settings
from waterline.report.figures.roofline import source_of
from waterline.report.figures.sheet import SMALL, Sheet
from waterline.report.figures.theme import Theme
from waterline.report.figures.words import clean, milliseconds, percent, short

BY = ("cause", "phase")
CAUSES = ("arithmetic", "memory", "overhead")
WHOLE = "in one phase"
MOST_ROWS = 36  # before equal layers share one
ROW_INCHES = 0.185
LEFT, BOTTOM, RIGHT, TOP = 2.55, 0.5, 1.75, 0.36
NAME_CHARACTERS = 34


@dataclass
class _Row:
    """Layers of one shape and algorithm; parts in nanoseconds, in the order of the stack."""

    name: str
    algorithm: str
    count: int = 0
    bound_ns: float = 0.0
    time_ns: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    def add(self, layer: LayerAnalysis, by: str) -> None:
        self.count += 1
        self.bound_ns += layer.bound_ns
        self.time_ns += layer.time_ns
        for part, time_ns in _parts(layer, by).items():
            self.parts[part] = self.parts.get(part, 0.0) + time_ns


def time_by_layer(
    analysis: Analysis,
    by: str = "cause",
    *,
    grouped: bool | None = None,
    theme: str = "light",
    commit: str | None = None,
) -> Drawing:
    """A horizontal bar for each layer, first one on top, in milliseconds, with a mark at its bound.

    Args:
        by: what the bars are stacked from: "cause" (arithmetic, memory, overhead) or "phase" (of the algorithm; layers
            with one phase only are a bar of one colour).
        grouped: layers of equal shape and algorithm are one bar, the sum of theirs. None: if there are many layers.
        commit: None for that of this working tree.

    Raises:
        InvalidArgument: no such `by` or theme, or matplotlib is not installed.
    """
    if by not in BY:
        raise InvalidArgument(f"by={by!r} is not known", f"one of {', '.join(map(repr, BY))}")
    if grouped is None:
        grouped = len(analysis.layers) > MOST_ROWS
    rows = _rows(analysis.layers, by, grouped)
    height = TOP + BOTTOM + ROW_INCHES * max(3, len(rows))
    with drawing_settings():
        what = "equal layers as one" if grouped and len(rows) < len(analysis.layers) else "every layer"
        sheet = Sheet(
            f"time-by-{by}",
            f"{analysis.network}: time by layer and {by}, {what}",
            source_of(analysis, commit),
            themes.named(theme),
            height,
        )
        _draw(sheet, rows, by, analysis)
        return sheet.drawing(_description(analysis, rows, by))


def _parts(layer: LayerAnalysis, by: str) -> dict[str, float]:
    if by == "cause":
        return {cause: getattr(layer.causes, f"{cause}_ns") for cause in CAUSES}
    if not layer.phases:
        return {WHOLE: layer.time_ns}
    # Phases are medians of their own, and what is between them belongs to none.
    family = themes.family(layer.algorithm)
    return {f"{family} {phase.name}": phase.time_ns for phase in layer.phases}


def _rows(layers: Sequence[LayerAnalysis], by: str, grouped: bool) -> list[_Row]:
    rows: dict[object, _Row] = {}
    for number, layer in enumerate(layers):
        key = (layer.shape, layer.algorithm) if grouped else number
        rows.setdefault(key, _Row(layer.name, layer.algorithm)).add(layer, by)
    return list(rows.values())


def _draw(sheet: Sheet, rows: list[_Row], by: str, analysis: Analysis) -> None:
    axes, theme = sheet.axes(LEFT, BOTTOM, RIGHT, TOP), sheet.theme
    positions = range(len(rows))
    handles: dict[str, Any] = {}
    reached = [0.0] * len(rows)
    for number, part in enumerate(_order(rows, by)):
        widths = [row.parts.get(part, 0.0) / 1e6 for row in rows]
        handles[part] = axes.barh(
            positions, widths, 0.72, left=list(reached), color=_colour(part, number, by, theme), linewidth=0, label=part
        )
        reached = [a + b for a, b in zip(reached, widths, strict=True)]
    bounds = [row.bound_ns / 1e6 for row in rows]
    if rows:
        handles["bound"] = axes.vlines(
            bounds, [i - 0.44 for i in positions], [i + 0.44 for i in positions], color=theme.text, linewidth=1.2,
            label="bound", zorder=3,
        )  # fmt: skip
    end = max([*reached, *bounds], default=0.0) or 1.0
    axes.set(xlim=(0, end * 1.02), ylim=(max(3, len(rows)) - 0.4, -0.6), xlabel="ms")
    axes.set_yticks(positions, [_name(row) for row in rows], fontsize=SMALL)
    axes.tick_params(axis="y", length=0, labelcolor=theme.text)
    axes.grid(axis="x", color=theme.line, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    for position, row in enumerate(rows):
        share = row.time_ns / analysis.time_ns if analysis.time_ns else 0.0
        axes.annotate(
            percent(share), (1, position), (38, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            fontsize=SMALL, color=theme.text, ha="right", va="center", annotation_clip=False,
        )  # fmt: skip
        axes.annotate(
            clean(row.algorithm), (1, position), (46, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=SMALL, color=theme.muted, ha="left", va="center",
            annotation_clip=False,
        )  # fmt: skip
    sheet.legend(axes, handles)


def _order(rows: list[_Row], by: str) -> list[str]:
    if by == "cause":
        return list(CAUSES)
    found = dict.fromkeys(part for row in rows for part in row.parts)
    return [part for part in found if part != WHOLE] + [part for part in found if part == WHOLE]


def _colour(part: str, number: int, by: str, theme: Theme) -> str:
    if by == "cause":
        return themes.cause_colour(part, theme)
    return theme.line if part == WHOLE else themes.series_colour(number, theme)


def _name(row: _Row) -> str:
    more = f" (x{row.count})" if row.count > 1 else ""
    return short(row.name, NAME_CHARACTERS - len(more)) + more


def _description(analysis: Analysis, rows: list[_Row], by: str) -> str:
    if not rows or not analysis.time_ns:
        return f"Time by layer: {analysis.network} has no layer that takes time."
    longest = max(rows, key=lambda row: row.time_ns)
    totals: dict[str, float] = {}
    for row in rows:
        for part, time_ns in row.parts.items():
            totals[part] = totals.get(part, 0.0) + time_ns
    whole = sum(totals.values()) or 1.0
    parts = ", ".join(f"{part} {percent(totals[part] / whole)}" for part in _order(rows, by) if part in totals)
    several = f" and {longest.count - 1} like it" if longest.count > 1 else ""
    return (
        f"Time of the {len(analysis.layers)} layers of {analysis.network}, {milliseconds(analysis.time_ns)} in all: "
        f"{parts}. Most is taken by {longest.name}{several}: {milliseconds(longest.time_ns)}, "
        f"{percent(longest.time_ns / analysis.time_ns)}."
    )
