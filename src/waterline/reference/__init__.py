"""The slow truth: every operation in NumPy float64, written to be read, and bounds on what arithmetic may lose."""

from waterline.reference.bounds import Comparison, compare, conv_bound, network_bound
from waterline.reference.convolution import conv2d
from waterline.reference.evaluation import evaluate, run
from waterline.reference.special import erf

__all__ = ["Comparison", "compare", "conv2d", "conv_bound", "erf", "evaluate", "network_bound", "run"]
