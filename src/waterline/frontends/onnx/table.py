"""The operators: ONNX's name -> the function that converts a node."""

from __future__ import annotations

from waterline.frontends.onnx import (
    convolution,
    elementwise,
    linear,
    movement,
    normalisation,
    pooling,
    reduction,
    resize,
    shapes,
)
from waterline.frontends.onnx.call import Converters

CONVERTERS: Converters = {
    **convolution.CONVERTERS,
    **elementwise.CONVERTERS,
    **linear.CONVERTERS,
    **movement.CONVERTERS,
    **normalisation.CONVERTERS,
    **pooling.CONVERTERS,
    **reduction.CONVERTERS,
    **resize.CONVERTERS,
    **shapes.CONVERTERS,
}
