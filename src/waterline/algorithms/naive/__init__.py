"""The definition of a convolution as seven loops."""

from waterline.algorithms.naive.model import Naive

NAIVE = Naive()
__all__ = ["NAIVE"]
