"""Figures of analyses and of the papers' experiments, drawn with matplotlib (an extra: `waterline[plots]`).

Each function makes a `Drawing` in a light or a dark theme. matplotlib is imported when the first one is drawn, and
nothing of its global state is used or left changed. docs/figures.md tells how to read them.
"""

from waterline.report.figures.drawing import Drawing
from waterline.report.figures.roofline import roofline
from waterline.report.figures.waterline import waterline

__all__ = ["Drawing", "roofline", "waterline"]
