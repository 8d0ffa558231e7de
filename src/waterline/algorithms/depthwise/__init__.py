"""Depthwise convolution: one filter a channel."""

from waterline.algorithms.depthwise.model import Depthwise

DEPTHWISE = Depthwise()
__all__ = ["DEPTHWISE"]
