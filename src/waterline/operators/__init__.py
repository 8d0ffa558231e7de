"""Kernels of every operation that is not a convolution: `lower` for graph operations, `copy` between layouts."""

from waterline.operators.lowering import lower

__all__ = ["lower"]
