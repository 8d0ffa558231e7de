"""Kernels of every operation that is not a convolution: `lower` for graph operations, `copy` between layouts."""

from waterline.operators.lowering import lower
from waterline.operators.movement import copy

__all__ = ["copy", "lower"]
