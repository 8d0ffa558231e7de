"""Grouped convolution, 1 < g < c."""

from waterline.algorithms.grouped.model import Grouped

GROUPED = Grouped()
__all__ = ["GROUPED"]
