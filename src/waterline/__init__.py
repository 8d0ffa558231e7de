"""Waterline: convolutional networks at the speed of the machine, and every layer's distance from its limit."""

__version__ = "0.1.0"

from waterline.analysis import Analysis
from waterline.api import CompiledNetwork, Session, algorithms, analyse, compile, conv2d
from waterline.errors import Error, InvalidArgument, InvalidModel, Refused, UnsupportedOperator
from waterline.graph import Graph
from waterline.planner import Plan
from waterline.runtime.profile import Report

__all__ = [
    "Analysis",
    "CompiledNetwork",
    "Error",
    "Graph",
    "InvalidArgument",
    "InvalidModel",
    "Plan",
    "Refused",
    "Report",
    "Session",
    "UnsupportedOperator",
    "algorithms",
    "analyse",
    "compile",
    "conv2d",
]
