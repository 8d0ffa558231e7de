"""Convolution as an explicit patch matrix and a matrix product: the baseline."""

from waterline.algorithms.im2col.model import Im2col

IM2COL = Im2col()
__all__ = ["IM2COL"]
