"""Figures of analyses and of the papers' experiments, drawn with matplotlib (an extra: `waterline[plots]`).

Each function makes a `Drawing` in a light or a dark theme. matplotlib is imported when the first one is drawn, and
nothing of its global state is used or left changed. docs/figures.md tells how to read them.
"""

from waterline.report.figures.collection import of_analysis, prepare, save_all
from waterline.report.figures.drawing import Drawing
from waterline.report.figures.experiments import by_batch, efficiency_bars, ratio_rows
from waterline.report.figures.gap import efficiency_gap
from waterline.report.figures.layer_times import time_by_layer
from waterline.report.figures.points import BatchRow, EfficiencyRow, GapPoint, RatioRow
from waterline.report.figures.roofline import roofline
from waterline.report.figures.sheet import Source
from waterline.report.figures.waterline import waterline

__all__ = [
    "BatchRow",
    "Drawing",
    "EfficiencyRow",
    "GapPoint",
    "RatioRow",
    "Source",
    "by_batch",
    "efficiency_bars",
    "efficiency_gap",
    "of_analysis",
    "prepare",
    "ratio_rows",
    "roofline",
    "save_all",
    "time_by_layer",
    "waterline",
]
