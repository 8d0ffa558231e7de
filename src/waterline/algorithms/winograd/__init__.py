"""Winograd convolution: minimal filtering for 3x3 filters at stride 1."""

from waterline.algorithms.winograd.model import Winograd

WINOGRAD = Winograd()
__all__ = ["WINOGRAD"]
