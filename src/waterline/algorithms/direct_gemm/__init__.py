"""1x1 convolution as a matrix product."""

from waterline.algorithms.direct_gemm.model import DirectGemm

DIRECT_GEMM = DirectGemm()
__all__ = ["DIRECT_GEMM"]
