"""How far a network is from the limit of a machine, and why: from a plan alone, or from a measured profile."""

from waterline.analysis.analysis import Alternative, Analysis, BlockAnalysis, Causes, LayerAnalysis, PhaseTime
from waterline.analysis.making import of_plan, of_report

__all__ = [
    "Alternative",
    "Analysis",
    "BlockAnalysis",
    "Causes",
    "LayerAnalysis",
    "PhaseTime",
    "of_plan",
    "of_report",
]
