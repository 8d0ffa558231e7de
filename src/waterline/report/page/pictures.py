"""The pictures of an analysis, drawn for both themes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from waterline.analysis import Analysis
from waterline.report import figures
from waterline.report.figures.drawing import Drawing, drawing_settings
from waterline.report.page.content import Picture

Draw = Callable[..., Drawing]

# What draws it, and how to read it.
PICTURES: tuple[tuple[Draw, str], ...] = (
    (
        figures.roofline,
        "Each point is a layer, the larger the more time it takes. The lines are what peak and bandwidth allow: a "
        "layer below them could be faster. Where an algorithm needs fewer operations than the direct one, a hollow "
        "point counts those of the direct one.",
    ),
    (
        partial(figures.waterline, by="time"),
        "Each bar is a layer, in the order they run and as wide as its share of the time. The mark is what it may "
        "attain, the filled part what it achieves. The line across is the waterline of the network.",
    ),
    (
        partial(figures.waterline, by="flops", per="block"),
        "The same of blocks, as wide as their share of the operations. The second mark is what one kernel for the "
        "whole block may attain.",
    ),
    (
        partial(figures.time_by_layer, by="cause"),
        "What the time of each layer is made of, in the order they run. A mark beyond the bar is a layer that a fast "
        "algorithm computes in less than the bound of the direct one.",
    ),
)
PHASES: tuple[Draw, str] = (
    partial(figures.time_by_layer, by="phase"),
    "The same by the phases of the algorithms that have some.",
)


def of(analysis: Analysis, commit: str | None = None) -> tuple[Picture, ...]:
    """Roofline, waterline by layer and by block, time by layer and cause; by phase, where layers were timed so.

    Args:
        commit: that the drawings name; None for that of this working tree.
    """
    has_phases = any(layer.phases for layer in analysis.layers)
    wanted = (*PICTURES, PHASES) if has_phases else PICTURES
    return tuple(_picture(draw, caption, analysis, commit) for draw, caption in wanted)


def check() -> None:
    """Raises InvalidArgument where nothing can be drawn: to be known before anything is measured."""
    with drawing_settings():
        pass


def _picture(draw: Draw, caption: str, analysis: Analysis, commit: str | None) -> Picture:
    light, dark = (draw(analysis, theme=theme, commit=commit) for theme in ("light", "dark"))
    return Picture(light.name, light.title, caption, light.description, light.svg(), dark.svg())
