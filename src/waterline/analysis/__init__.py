"""How far a network is from the limit of a machine, and why: from a plan alone, or from a measured profile."""

from waterline.analysis.analysis import Alternative, Analysis, BlockAnalysis, Causes, LayerAnalysis, PhaseTime

__all__ = ["Alternative", "Analysis", "BlockAnalysis", "Causes", "LayerAnalysis", "PhaseTime"]
