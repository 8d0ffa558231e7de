"""What Dukhan published: "The Indirect Convolution Algorithm" (2019, arXiv 1907.02129).

Of the paper only the abstract's figures are used here: its tables for each device and class could not be read. The
protocol is that of the author's later benchmarks of the same pair of algorithms.
"""

from __future__ import annotations

from waterline.spec import ConvSpec

# The networks whose layers it measures.
NETWORKS = ("resnet18", "squeezenet1_0")

# "up to 62 % faster" than im2col and GEMM on layers that need im2col; on 1x1 filters of stride 1 "a minor reduction".
BEST_RATIO = 1.62

# Classes of layers, by what the baseline does with them.
POINTWISE = "1x1 stride 1"
STRIDED = "1x1 stride 2"
LARGER = "larger filters"
CLASSES = (POINTWISE, STRIDED, LARGER)

POINTER_BYTES = 8


def class_of(spec: ConvSpec) -> str:
    """The class of a layer; a strided 1x1 filter of any stride is of the second."""
    if spec.taps > 1:
        return LARGER
    return POINTWISE if spec.is_pointwise else STRIDED


def memory_ratio(spec: ConvSpec) -> float:
    """How many times the patches of im2col are as large as one 64-bit pointer a pixel and tap: C / 2 in f32."""
    return spec.c * spec.elem_bytes / POINTER_BYTES
