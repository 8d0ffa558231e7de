"""Indirect convolution: a matrix product through a buffer of offsets."""

from waterline.algorithms.indirect.model import Indirect

INDIRECT = Indirect()
__all__ = ["INDIRECT"]
