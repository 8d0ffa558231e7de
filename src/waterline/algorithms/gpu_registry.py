"""The ways to compute a convolution on a GPU, in one literal tuple."""

from __future__ import annotations

from waterline.algorithms.direct_gemm.gpu import DIRECT_GEMM_GPU
from waterline.algorithms.gpu import GpuAlgorithm

GPU_REGISTRY: tuple[GpuAlgorithm, ...] = (DIRECT_GEMM_GPU,)

__all__ = ["GPU_REGISTRY"]
